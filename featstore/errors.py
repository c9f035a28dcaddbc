"""Every error that featstore raises on purpose.

Each one derives from :class:`FeatstoreError`, so that a caller can catch them
all, and doubles as the builtin that a Python user would expect in its place.
A message names what was wrong, what was expected, what was found, and the cure;
the command line prints it as it stands and exits with 1.
"""

from __future__ import annotations


class FeatstoreError(Exception):
    """Base of all errors with which featstore answers a user's mistake."""


class ConfigError(FeatstoreError, ValueError):
    """An option has a value that can't be used."""


class DatasetError(FeatstoreError, ValueError):
    """A dataset's files are there, but are not what its format says."""


class DatasetNotFoundError(DatasetError, FileNotFoundError):
    """A dataset's files are not where they were looked for."""


class ImageError(FeatstoreError, OSError):
    """One image can't be decoded."""


class UnclearImageError(ImageError):
    """What an image's bands or values mean is open until the user says it."""


class DownloadError(FeatstoreError, OSError):
    """A file can't be fetched, or is not the file that was expected."""


class WeightsError(FeatstoreError, ValueError):
    """Weights can't be found, fetched, or loaded into the network."""


class BackboneError(FeatstoreError, ValueError):
    """A network or a layer of it has no such name."""


class TrainError(FeatstoreError, ValueError):
    """A network can't be trained with these images or settings."""


class DeviceError(FeatstoreError, RuntimeError):
    """The machine lacks the device or the precision that was asked for."""


class StoreError(FeatstoreError, OSError):
    """The feature store's folder can't be read or written."""


class SpaceError(StoreError):
    """The disk can't hold what would be written."""


class IncompleteError(StoreError):
    """A feature set is not finished; the message says how to resume it."""


class CorruptionError(StoreError):
    """Stored bytes are not those that were written."""


class FormatError(StoreError):
    """A feature set or a run was written in a format that this featstore does not read."""


class SelectionError(FeatstoreError, LookupError):
    """A selection fits no feature set, or several."""


class FitError(FeatstoreError, ValueError):
    """A classifier can't be fitted on the data selected."""


class ExportError(FeatstoreError, ValueError):
    """A run's model can't be written for other programs."""


class RunError(FeatstoreError, LookupError):
    """A run's folder is missing, or is not what fit wrote."""


class SchedulerError(FeatstoreError, ConnectionError):
    """A Dask scheduler does not answer, or its workers can't do what is asked."""
