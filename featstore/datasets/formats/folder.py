"""Read a tree of class folders, with or without split folders above them, or a flat folder."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featstore.config import SPLITS
from featstore.datasets.decode import IMAGE_SUFFIXES
from featstore.datasets.drawing import TRAIN_FRACTION, draw_split
from featstore.datasets.formats.layout import Layout, check_inner_folders, find_layout
from featstore.datasets.image_files import ImageWalk, LeftOut
from featstore.datasets.source import RGB, FileSource
from featstore.errors import DatasetError
from featstore.text import join_some


class Sample(NamedTuple):
    """One image; a flat folder gives it no class, and class folders without splits no split."""

    name: str
    path: str
    class_name: str | None
    split: str | None


class _Tree(NamedTuple):
    """The result of a walk; samples are sorted by their names."""

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    left_out: LeftOut
    notes: list[str]


class FolderSource(FileSource):
    """Images in a tree of class folders, or in one folder without classes.

    Names are compared by Unicode code points, so that the order is the same everywhere. Without
    split folders, 70 % of each class are drawn for training, seeded with `seed`. `title` is the
    name for people, by default the root folder's. `expected` names the class folders that must
    exist, and no others. With `follow_links`, links may lead out of the root.
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
        follow_links: bool = False,
    ) -> None:
        self.name = name
        self.root = root
        self.title = title or unicodedata.normalize("NFC", Path(os.path.abspath(root)).name)
        self._seed = seed
        self._expected = expected
        self._follow_links = follow_links

    @cached_property
    def _layout(self) -> Layout:
        return find_layout(self.root) if self._expected is None else Layout((self.root,), {})

    @cached_property
    def _tree(self) -> _Tree:
        layout, walk = self._layout, ImageWalk(self.root, follow_links=self._follow_links)
        found: list[tuple[str | None, str | None, str, str]]
        if layout.is_flat:
            classes: set[str] = set()
            found = [(None, None, name, path) for name, path in walk.images(self.root)]
        else:
            folders = self._class_folders(layout, walk)
            classes = {class_name for _, class_name, _, _ in folders}
            found = [
                (split, class_name, name, path)
                for split, class_name, folder, prefix in folders
                for name, path in walk.images(folder, prefix)
            ]
        samples = [
            # As Path writes them.
            Sample(self._name(name), path.removeprefix("./"), class_name, split)
            for split, class_name, name, path in found
        ]
        self._check_links(walk)
        notes = [*layout.notes(), *self._check_classes(classes, samples)]
        self._check_names(samples)
        return _Tree(tuple(sorted(samples)), tuple(sorted(classes)), walk.left_out, notes)

    def _class_folders(
        self, layout: Layout, walk: ImageWalk
    ) -> list[tuple[str | None, str, str, str]]:
        """Return split, class, path, and path below the top, of all class folders."""
        for level in layout.levels[:-1]:
            walk.folders(level)
        folders: list[tuple[str | None, os.DirEntry[str]]]
        folders = [(None, folder) for folder in walk.folders(layout.top)]
        if layout.splits:
            folders = []
            for split, levels in layout.splits.values():
                for level in levels[:-1]:
                    walk.folders(level)
                folders += [(split, folder) for folder in walk.folders(levels[-1])]
        return [
            (
                split,
                self._name(folder.name),
                folder.path,
                f"{Path(folder.path).relative_to(layout.top).as_posix()}/",
            )
            for split, folder in folders
        ]

    def _name(self, name: str) -> str:
        if name.isascii():
            return name
        name = unicodedata.normalize("NFC", name)
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DatasetError(
                f"{self.root}: the name {name!r} is not valid Unicode; rename it."
            ) from None
        return name

    def _check_links(self, walk: ImageWalk) -> None:
        if walk.dangling:
            path, target = walk.dangling[0]
            raise DatasetError(
                f"{path}: is a link to {target}, which does not exist (links of this kind: "
                f"{len(walk.dangling):,}). Fetch the files (git annex get, dvc pull), or remove "
                "the links."
            )

    def _check_classes(self, classes: set[str], samples: Sequence[Sample]) -> list[str]:
        """Refuse missing, extra and empty classes; return what people should know of them."""
        if self._layout.is_flat:
            return []
        if self._expected is not None:
            # Copies of one dataset differ in the case of letters.
            known = {name.casefold() for name in self._expected}
            folded = {name.casefold() for name in classes}
            missing = sorted(name for name in self._expected if name.casefold() not in folded)
            extra = sorted(name for name in classes if name.casefold() not in known)
            if missing or extra:
                faults = [f"lacks {join_some(missing)}"] * bool(missing)
                faults += [f"has {join_some(extra)}, which {self.name} does not have"] * bool(extra)
                raise DatasetError(
                    f"{self.root}: {' and '.join(faults)}; expected {len(self._expected)} class "
                    "folders."
                )
        if empty := sorted(classes - {sample.class_name for sample in samples}):
            raise DatasetError(
                f"{self.root}: the class folder {join_some(empty)} holds no images "
                f"({' '.join(sorted(IMAGE_SUFFIXES))}); add some or remove it."
            )
        if not self._layout.splits and self._expected is None:
            inner: dict[str, set[str]] = {name: set() for name in classes}
            for sample in samples:
                parts = sample.name.split("/", 2)
                inner[parts[0]].add(parts[1] if len(parts) > 2 else "")
            return check_inner_folders(self._layout.top, inner)
        return []

    def _check_names(self, samples: Sequence[Sample]) -> None:
        counts = Counter(sample.name for sample in samples)
        if twice := sorted(name for name, n in counts.items() if n > 1):
            raise DatasetError(
                f"{self.root}: two files are named {twice[0]}, apart from how Unicode composes "
                "the letters; rename one."
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders of all splits, sorted; none of a flat folder."""
        return self._tree.class_names

    @property
    def left_out(self) -> LeftOut:
        """What lies in the root and is no sample."""
        return self._tree.left_out

    @property
    def notes(self) -> list[str]:
        """What people should know of how the folders were read."""
        return self._tree.notes

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Labels, shape (n_samples,); all -1 of a flat folder."""
        position: dict[str | None, int] = {name: i for i, name in enumerate(self.class_names)}
        labels = [position.get(sample.class_name, -1) for sample in self._tree.samples]
        return np.array(labels, np.int32)

    @property
    def _is_drawn(self) -> bool:
        """Whether the split is drawn."""
        return not self._layout.splits and not self._layout.is_flat

    @cached_property
    def splits(self) -> NDArray[np.uint8]:
        """Splits, shape (n_samples,), as positions in :data:`featstore.config.SPLITS`.

        Images without classes are all in the first.
        """
        if self._is_drawn:
            return draw_split(self.sample_ids, self.labels, self._seed)
        return np.array([SPLITS.index(s.split or SPLITS[0]) for s in self._tree.samples], np.uint8)

    @cached_property
    def sample_ids(self) -> Sequence[str]:
        """Paths below the folder of the classes or splits, with slashes, sorted."""
        return [sample.name for sample in self._tree.samples]

    @cached_property
    def paths(self) -> Sequence[Path]:
        """Files of the samples."""
        return [Path(sample.path) for sample in self._tree.samples]

    def files(self) -> list[tuple[str, str | Path]]:
        """Return the images, sorted by their names."""
        return [(sample.name, sample.path) for sample in self._tree.samples]

    def identity(self) -> dict[str, Any]:
        """Return what tells the dataset apart beside its files: the drawn split.

        The root's name is not in it: renamed, it is the same dataset.
        """
        identity: dict[str, Any] = {"dataset": self.name, "format": 1}
        if self._is_drawn:
            identity["split"] = {"train_fraction": TRAIN_FRACTION, "seed": self._seed}
        return identity
