"""Tell which folders below a root are splits and which are classes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featstore.datasets.image_files import is_image_name, list_folder, subfolders
from featstore.errors import DatasetError
from featstore.text import join_some

EXAMPLE = "expected ROOT/CLASS/IMAGE, or ROOT/train/CLASS/IMAGE and ROOT/test/CLASS/IMAGE"


_SPLIT = re.compile(
    r"(?P<prefix>.*[-_. ])?(?:images?|imgs?|data)?[-_. ]*"
    r"(?:(?P<train>train(?:ing)?)|(?P<test>test(?:ing)?)"
    r"|(?P<val>val(?:id(?:ation)?)?|dev(?:elopment)?|eval(?:uation)?))"
    r"[-_. ]*(?:sets?|images?|imgs?|data|splits?|samples?|\d+)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Layout:
    """Where the class folders are.

    Parameters
    ----------
    levels : tuple of Path
        The root and the only folder in each, down to the one that holds the classes or splits.
    splits : dict of str to str
        The split of each split folder; empty where the class folders make no splits.
    is_flat : bool
        Whether the root holds images and no folders.
    """

    levels: tuple[Path, ...]
    splits: dict[str, str]
    is_flat: bool = False

    @property
    def top(self) -> Path:
        """The folder that holds the classes or the splits."""
        return self.levels[-1]

    def notes(self) -> list[str]:
        """Return what people should know of the layout."""
        root = self.levels[0]
        if self.is_flat:
            return [f"{root} holds no class folders: its images have no labels, which fit needs."]
        if len(self.levels) > 1:
            return [f"The classes are the folders in {self.top}, the only folder in {root}."]
        return []


def find_layout(root: Path) -> Layout:
    """Find the splits or classes below a root, or refuse a root that leaves them unclear."""
    folders = subfolders(root)
    if not folders:
        if any(is_image_name(entry.name) for entry in list_folder(root)):
            return Layout((root,), {}, is_flat=True)
        raise DatasetError(f"{root}: holds no images and no class folders; {EXAMPLE}.")
    levels = _levels(root, folders)
    return Layout(levels, _splits(levels[-1], subfolders(levels[-1])))


def split_of(name: str, *, any_prefix: bool = False) -> str | None:
    """Return the split that a folder's name means: ``train`` for ``Training`` or ``images_train``.

    With `any_prefix`, other words may come first, as in ``UCMerced_train``.
    """
    found = _SPLIT.fullmatch(name)
    if found is None or (found["prefix"] and not any_prefix and not _is_plain(found["prefix"])):
        return None
    return next(split for split in ("train", "test", "val") if found[split])


def _is_plain(prefix: str) -> bool:
    return re.fullmatch(r"(?:images?|imgs?|data|my)[-_. ]*", prefix, re.IGNORECASE) is not None


def _levels(root: Path, folders: Sequence[os.DirEntry[str]]) -> tuple[Path, ...]:
    """Return the root and the folders down to the classes, where each is the only one in its own.

    A single folder that holds images is a class.
    """
    levels, seen = [root], {root.resolve()}
    while len(folders) == 1 and split_of(folders[0].name) is None:
        folder = levels[-1] / folders[0].name
        inside = list_folder(folder)
        if any(is_image_name(entry.name) for entry in inside) or folder.resolve() in seen:
            return (root,)
        levels.append(folder)
        seen.add(folder.resolve())
        folders = subfolders(folder)
    is_of_classes = len(folders) > 1 or any(split_of(entry.name) for entry in folders)
    return tuple(levels) if is_of_classes else (root,)


def _splits(top: Path, folders: Sequence[os.DirEntry[str]]) -> dict[str, str]:
    """Return the split of each split folder; none where the folders are classes."""
    splits = {f.name: split for f in folders if (split := split_of(f.name, any_prefix=True))}
    if len(splits) < len(folders) or len(set(splits.values())) == 1:
        splits = {f.name: split for f in folders if (split := split_of(f.name))}
    names = {f.name: bool(subfolders(f.path)) for f in folders}
    deep = {name: split for name, split in splits.items() if names[name]}
    others = [name for name in names if name not in splits]
    shown = join_some(sorted(splits))
    if not deep:
        if splits and (not others or len(set(splits.values())) > 1):
            raise DatasetError(
                f"{top}: are {shown} splits or classes? They hold images and no class folders. "
                "Put the images of splits into class folders, or rename classes (e.g. "
                f"{min(splits)}-class). To extract images without labels, give one folder of "
                f"images, e.g. {top / min(splits)}."
            )
        return {}
    if others:
        raise DatasetError(
            f"{top}: holds {shown} beside other folders ({join_some(others)}). Are they splits? "
            f"Then move the others away; otherwise rename {shown}; {EXAMPLE}."
        )
    if flat := [name for name in splits if not names[name]]:
        raise DatasetError(
            f"{top}: {join_some(flat)} holds no class folders, and {join_some(sorted(deep))} does. "
            f"Sort its images into class folders, or move it away; {EXAMPLE}."
        )
    for split in sorted(set(splits.values())):
        if len(same := sorted(name for name, other in splits.items() if other == split)) > 1:
            raise DatasetError(
                f"{top}: {join_some(same)} both mean the split {split}. Put them into one folder, "
                "or rename one to train, test or val."
            )
    if "train" not in splits.values():
        raise DatasetError(
            f"{top}: holds {shown} but no train folder. Add it, or rename {shown}; {EXAMPLE}."
        )
    return splits


def check_no_inner_splits(top: Path, classes: Sequence[str], inner: set[str]) -> None:
    """Refuse class folders that hold only split folders, as CLASS/train and CLASS/test.

    `inner` holds the names of the folders in all classes, and "" where a class holds images.
    """
    splits = {split_of(name) for name in inner}
    if len(splits) > 1 and None not in splits:
        raise DatasetError(
            f"{top}: do its folders {join_some(classes)} hold splits? They are named "
            f"{join_some(sorted(inner))}. Put such folders above the classes, or rename them; "
            f"{EXAMPLE}."
        )
