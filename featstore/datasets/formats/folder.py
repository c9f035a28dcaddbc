"""Any tree of class folders, with or without ``train``, ``test`` and ``val`` folders above them."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.config import SPLITS
from featstore.datasets.base import RGB, FileSource, is_hidden
from featstore.datasets.decode import IMAGE_SUFFIXES
from featstore.errors import DatasetError
from featstore.text import join_some

TRAIN_FRACTION = 0.7
"""Share of training images where there is no official split, as in the paper's section 3."""


SPLIT_WORDS = ("train", "training", "test", "testing", "val", "valid", "validation")


EXAMPLE = "expected ROOT/CLASS/IMAGE, or ROOT/train/CLASS/IMAGE and ROOT/test/CLASS/IMAGE"


@dataclass(frozen=True)
class _Tree:
    """What a walk through the root found; samples are sorted by their names."""

    samples: tuple[tuple[str, Path, str, str | None], ...]  # (name, path, class, split)
    class_names: tuple[str, ...]
    n_ignored: int


class FolderSource(FileSource):
    """Images in a tree of class folders.

    Names are compared by Unicode code points, so that the order is the same everywhere. Without
    a ``train`` or ``test`` folder, 70 % of each class are drawn for training.

    Parameters
    ----------
    root : Path
        The tree.
    seed : int
        Seeds the split where the folders make none.
    name, title : str, optional
        The dataset's name, and the one that people see, by default the root folder's.
    expected : tuple of str, optional
        The class folders that there must be, and no others.
    """

    bands = RGB

    def __init__(
        self,
        root: Path,
        seed: int,
        *,
        name: str = "folder",
        title: str | None = None,
        expected: tuple[str, ...] | None = None,
    ) -> None:
        self.name = name
        self.root = root
        self.title = title or unicodedata.normalize("NFC", Path(os.path.abspath(root)).name)
        self._seed = seed
        self._expected = expected

    @cached_property
    def _split_folders(self) -> tuple[str, ...]:
        """The split folders right under the root; none when classes are there."""
        if self._expected is not None:
            return ()
        folders = [entry for entry in _entries(self.root) if entry.is_dir()]
        splits = {
            folder.name for folder in folders if folder.name in SPLITS and _holds_folders(folder)
        }
        rest = [folder for folder in folders if folder.name not in splits]
        others = sorted(folder.name for folder in rest)
        if len(folders) > 1 and rest and all(map(_is_like_split, rest)):
            raise DatasetError(
                f"{self.root}: holds {', '.join(others)}, which seem to be splits and no classes; "
                f"{EXAMPLE}."
            )
        if splits and others:
            raise DatasetError(
                f"{self.root}: holds {', '.join(sorted(splits))} beside other folders "
                f"({join_some(others)}); {EXAMPLE}."
            )
        if splits and "train" not in splits:
            raise DatasetError(
                f"{self.root}: holds {', '.join(sorted(splits))} but no train folder; {EXAMPLE}."
            )
        return tuple(sorted(splits))

    @cached_property
    def _tree(self) -> _Tree:
        real_root = self.root.resolve()
        samples, classes, n_ignored = [], set(), 0
        for split in self._split_folders or (None,):
            top = self.root / split if split else self.root
            for folder in _entries(top):
                if not folder.is_dir():
                    n_ignored += 1
                    continue
                class_name = self._name(folder.name)
                classes.add(class_name)
                prefix = f"{split}/{folder.name}/" if split else f"{folder.name}/"
                for name, path in _walk(folder, prefix, real_root, (top.resolve(),)):
                    if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                        samples.append((self._name(name), Path(path), class_name, split))
                    else:
                        n_ignored += 1
        self._check(classes, samples)
        return _Tree(tuple(sorted(samples)), tuple(sorted(classes)), n_ignored)

    def _name(self, name: str) -> str:
        name = unicodedata.normalize("NFC", name)
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DatasetError(
                f"{self.root}: the name {name!r} is not valid Unicode; rename it."
            ) from None
        return name

    def _check(
        self, classes: set[str], samples: Sequence[tuple[str, Path, str, str | None]]
    ) -> None:
        if self._expected is not None:
            missing = sorted(set(self._expected) - classes)
            extra = sorted(classes - set(self._expected))
            if missing or extra:
                faults = [f"lacks {join_some(missing)}"] * bool(missing)
                faults += [f"has {join_some(extra)}, which {self.name} has not"] * bool(extra)
                raise DatasetError(
                    f"{self.root}: {' and '.join(faults)}; expected {len(self._expected)} class "
                    "folders."
                )
        if not classes:
            raise DatasetError(f"{self.root}: holds no class folders; {EXAMPLE}.")
        if empty := sorted(classes - {class_name for _, _, class_name, _ in samples}):
            raise DatasetError(
                f"{self.root}: no images ({' '.join(sorted(IMAGE_SUFFIXES))}) are in the class "
                f"folder {join_some(empty)}; add some or remove it."
            )
        counts = Counter(name for name, _, _, _ in samples)
        if twice := sorted(name for name, n in counts.items() if n > 1):
            raise DatasetError(
                f"{self.root}: two files are named {twice[0]}, apart from how Unicode composes "
                "the letters; rename one."
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders, sorted; of all splits together."""
        return self._tree.class_names

    @property
    def n_ignored(self) -> int:
        """Number of files that are no images or lie outside the class folders."""
        return self._tree.n_ignored

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Labels, shape (n_samples,)."""
        position = {name: i for i, name in enumerate(self.class_names)}
        return np.array(
            [position[class_name] for _, _, class_name, _ in self._tree.samples], np.int32
        )

    @cached_property
    def splits(self) -> NDArray[np.uint8]:
        """Splits, shape (n_samples,), as positions in :data:`featstore.config.SPLITS`."""
        if not self._split_folders:
            return draw_split(self.sample_ids, self.labels, self._seed)
        codes = [SPLITS.index(split) for _, _, _, split in self._tree.samples if split]
        return np.array(codes, np.uint8)

    @cached_property
    def sample_ids(self) -> Sequence[str]:
        """Paths below the root, with slashes, sorted."""
        return [name for name, _, _, _ in self._tree.samples]

    @cached_property
    def paths(self) -> Sequence[Path]:
        """Files of the samples."""
        return [path for _, path, _, _ in self._tree.samples]

    def files(self) -> list[tuple[str, Path]]:
        """Return the images, sorted by their paths below the root."""
        return list(zip(self.sample_ids, self.paths, strict=True))

    def identity(self) -> dict[str, Any]:
        """Return what tells the dataset apart beside its files: the drawn split.

        The root's name is not in it: renamed, it is the same dataset.
        """
        identity: dict[str, Any] = {"dataset": self.name, "format": 1}
        if not self._split_folders:
            identity["split"] = {"train_fraction": TRAIN_FRACTION, "seed": self._seed}
        return identity


def draw_split(
    sample_ids: Sequence[str], labels: NDArray[np.int32], seed: int
) -> NDArray[np.uint8]:
    """Draw 70 % of each class for training, the rest for testing.

    A class's images are put in the order of the hashes of seed and name, so that the draw is the
    same with every version of NumPy, and does not depend on the other classes.

    Parameters
    ----------
    sample_ids : sequence of str
        Names of the samples.
    labels : ndarray of int32, shape (n_samples,)
        Labels.
    seed : int
        Another seed is another draw.

    Returns
    -------
    ndarray of uint8, shape (n_samples,)
        0 for train, 1 for test; a class of two or more has both.
    """
    ranks = [hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in sample_ids]
    splits = np.zeros(len(labels), np.uint8)
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label), key=ranks.__getitem__)
        n_train = min(max(round(TRAIN_FRACTION * len(rows)), 1), max(len(rows) - 1, 1))
        splits[rows[n_train:]] = 1
    return splits


def _holds_folders(folder: os.DirEntry[str]) -> bool:
    return any(entry.is_dir() for entry in _entries(folder.path))


def _is_like_split(folder: os.DirEntry[str]) -> bool:
    """Return whether a folder has a split's name, written otherwise, and classes inside."""
    return folder.name.lower() in SPLIT_WORDS and _holds_folders(folder)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """List a folder without hidden entries, nor the resource forks in archives made by macOS."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise DatasetError(f"{folder}: can't be listed: {error.strerror}.") from None


def _walk(
    folder: os.DirEntry[str], prefix: str, root: Path, above: tuple[Path, ...]
) -> Iterator[tuple[str, str]]:
    """Yield (name below the root, path) of all files below a folder.

    Links may lead anywhere within the root, but not to a folder above them.
    """
    here = _inside(folder, root)
    if here in above:
        raise DatasetError(f"{folder.path}: is a link to a folder above it; remove it.")
    for entry in _entries(folder.path):
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/", root, (*above, here))
        else:
            if entry.is_symlink():
                _inside(entry, root)
            is_image = os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES
            if is_image and not entry.is_file():
                # To read a pipe would be to wait for ever.
                raise DatasetError(
                    f"{entry.path}: is a pipe, socket or device, and no image file; remove it."
                )
            yield prefix + entry.name, entry.path


def _inside(entry: os.DirEntry[str], root: Path) -> Path:
    """Return the real path, which must exist below the root."""
    real = Path(entry.path).resolve()
    if not real.is_relative_to(root):
        raise DatasetError(
            f"{entry.path}: is a link out of {root}, to {real}; put the files there."
        )
    if not real.exists():
        raise DatasetError(f"{entry.path}: is a link to {real}, which does not exist.")
    return real
