"""Tell which folders below a root are splits and which are classes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featstore.datasets.image_files import ImageWalk, is_image_name, list_folder, subfolders
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

    `levels` are the root and the only folder in each, down to the folder that holds the classes or
    splits. `splits` holds, by the name of each split folder, its split and its own levels; without
    split folders it is empty. `is_flat` says that the root holds images and no folders.
    """

    levels: tuple[Path, ...]
    splits: dict[str, tuple[str, tuple[Path, ...]]]
    is_flat: bool = False

    @property
    def top(self) -> Path:
        """The folder that holds the classes or the splits."""
        return self.levels[-1]

    def notes(self) -> list[str]:
        """Return what people should know of the layout."""
        if self.is_flat:
            return [f"{self.top} holds no class folders: its images have no labels."]
        return [
            f"The folders in {levels[-1]} are the {what}: it is the only folder in {levels[0]}."
            for what, levels in [
                ("splits" if self.splits else "classes", self.levels),
                *(("classes", levels) for _, levels in self.splits.values()),
            ]
            if len(levels) > 1
        ]


def find_layout(root: Path) -> Layout:
    """Find the splits or classes below a root, or refuse a root that leaves them unclear."""
    folders = subfolders(root)
    if not folders:
        if any(is_image_name(entry.name) for entry in list_folder(root)):
            return Layout((root,), {}, is_flat=True)
        walk = ImageWalk(root, follow_links=False)
        walk.folders(root)
        found = " ".join(["", *walk.left_out.lines()])
        raise DatasetError(f"{root}: holds no images and no class folders; {EXAMPLE}.{found}")
    levels = _levels(root, folders)
    top = levels[-1]
    splits = {
        name: (split, _levels(top / name, subfolders(top / name)))
        for name, split in _splits(top, subfolders(top)).items()
    }
    return Layout(levels, splits)


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


def check_inner_folders(top: Path, inner: Mapping[str, set[str]]) -> list[str]:
    """Refuse class folders that hold only split folders, as CLASS/train and CLASS/test.

    `inner` holds, by class, the names of the folders in it, and "" where it holds images. Returns a
    note where all classes hold the same folders, which may be the classes that are meant.
    """
    names = set().union(*inner.values())
    shown, classes = join_some(sorted(names)), join_some(sorted(inner))
    splits = {split_of(name) for name in names}
    if len(splits) > 1 and None not in splits:
        raise DatasetError(
            f"{top}: do its folders {classes} hold splits? They are named {shown}. Put such "
            f"folders above the classes, or rename them; {EXAMPLE}."
        )
    are_alike = all(own == names for own in inner.values())
    if are_alike and len(inner) > 1 and len(names) > 1 and "" not in names:
        return [
            f"The classes are {classes}, and each holds the folders {shown}. If those are the "
            f"classes, give one folder, e.g. {top / min(inner)}."
        ]
    return []
