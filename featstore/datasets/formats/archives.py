"""Download a dataset's archive, and unpack it whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from featstore.errors import DatasetError
from featstore.io.files import sync_folder, sync_tree
from featstore.progress import SILENT, Progress


@dataclass(frozen=True)
class Archive:
    """A ZIP file with a dataset, and where it is put.

    Attributes
    ----------
    file : str
        Its name.
    urls : sequence of str
        Where it is, the best place first.
    known_hash : str
        Its checksum, as ``md5:...``.
    images : str
        The folder of the class folders in it.
    top : str
        The folder in it that is put into the root; empty for everything.
    """

    file: str
    urls: Sequence[str]
    known_hash: str
    images: str
    top: str = ""


def download(root: Path, name: str, archive: Archive, progress: Progress = SILENT) -> Path:
    """Unpack an archive as the folder `name` of `root`, unless it exists; return the images' place.

    The URLs are tried in turn. When the archive can't be fetched, DownloadError names the URLs,
    what happened, and how to fetch it by hand. An incomplete folder in the way, or an archive of
    something else, is a DatasetError.
    """
    inside = Path(archive.images).relative_to(archive.top)
    # It imports requests, which listing runs does not need.
    from featstore.io.downloads import fetch_first, unzip

    images = root / name / inside
    if images.is_dir():
        return images
    if (root / name).exists():
        raise DatasetError(f"{root / name} exists but has no folder {inside}; move it away.")
    # One that was put there by hand is the user's.
    file = root / archive.file
    is_own = not file.exists()
    fetch_first(archive.urls, file, archive.known_hash, progress)
    progress.say(f"unpacking {file}")
    with TemporaryDirectory(dir=root, prefix=f".{name}-") as temporary:
        unpacked = unzip(file, Path(temporary) / "content")
        if not (unpacked / archive.images).is_dir():
            raise DatasetError(f"{file}: holds no folder {archive.images}.")
        sync_tree(unpacked)
        (unpacked / archive.top).rename(root / name)
    if is_own:
        # After a power loss, all images or the archive must be there.
        sync_folder(root)
        file.unlink()
    return images
