"""What a disk may hold after a power loss, at each moment of some work in this process.

A strict file system keeps a file's bytes as of its last fsync, and a folder's entries as of its
last fsync. Another one may keep newer entries, and still lose the bytes behind them.
"""

from __future__ import annotations

import builtins
import io
import os
import random
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import featstore
from featstore.io.files import exchange
from featstore.runs import writer

PACKAGE = os.path.dirname(featstore.__file__) + os.sep

Tree = dict[str, Any]
"""A folder: the bytes of its files, and its folders as trees, by name."""


@dataclass(frozen=True)
class Event:
    """One thing that a process did below a folder: ``create``, ``mkdir``, ``remove``, ...

    ``end`` marks the end of a part of the work, which `path` names.
    """

    kind: str
    path: tuple[str, ...]
    target: tuple[str, ...] = ()
    """The new path of a renaming; the other one of an exchange."""
    content: bytes | None = None
    """The bytes of a file that is synced; None for a folder."""
    place: str = ""
    """The lines of featstore that sync, see :func:`sync_place`."""

    def __str__(self) -> str:
        return f"{self.kind} {'/'.join(self.path)} {'/'.join(self.target)}".strip()


class PowerLog:
    """Logs what this process does below a folder, which is empty at the beginning."""

    def __init__(self, folder: Path) -> None:
        self._root = os.path.realpath(folder)
        self._lock = threading.RLock()
        self._real_open = io.open
        self._known: set[tuple[str, ...]] = set()
        self.events: list[Event] = []

    @contextmanager
    def recording(self) -> Iterator[PowerLog]:
        """Log the block."""
        calls = {
            "open": self._opened,
            "mkdir": self._made,
            "rmdir": self._removed,
            "unlink": self._removed,
            "remove": self._removed,
            "rename": self._renamed,
            "replace": self._renamed,
            "fsync": self._synced,
        }
        real = {name: getattr(os, name) for name in calls}
        for name, note in calls.items():
            setattr(os, name, self._noting(real[name], note))
        io.open = builtins.open = self._noting(self._real_open, self._opened)
        real_exchange, writer.exchange = writer.exchange, self._exchange
        try:
            yield self
        finally:
            for name, call in real.items():
                setattr(os, name, call)
            io.open = builtins.open = self._real_open
            writer.exchange = real_exchange
        names = {"/".join(path) for path in self._known}
        root = Path(self._root)
        assert names == {path.relative_to(root).as_posix() for path in root.rglob("*")}

    def _noting(self, real: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with self._lock:
                answer = real(*args, **options)
                note(*args, **options)
                return answer

        return call

    def _parts(self, path: Any, folder: int | None = None) -> tuple[str, ...] | None:
        """Return the names of a path below the root; None if it lies elsewhere."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        elif folder is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fspath(path))
        path = os.path.abspath(os.fsdecode(path))
        if path != self._root and not path.startswith(self._root + os.sep):
            return None
        return tuple(path.removeprefix(self._root).strip(os.sep).split(os.sep))

    def _opened(self, path: Any, mode: Any = "r", *_: Any, **options: Any) -> None:
        creates = mode & os.O_CREAT if isinstance(mode, int) else set(mode) & set("wxa")
        if not creates or isinstance(path, int):
            return
        parts = self._parts(path, options.get("dir_fd"))
        if parts is not None and parts not in self._known:
            self._known.add(parts)
            self.events.append(Event("create", parts))

    def _made(self, path: Any, *_: Any, dir_fd: int | None = None) -> None:
        if (parts := self._parts(path, dir_fd)) is not None:
            self._known.add(parts)
            self.events.append(Event("mkdir", parts))

    def _removed(self, path: Any, *, dir_fd: int | None = None) -> None:
        if (parts := self._parts(path, dir_fd)) is not None:
            self._known.remove(parts)
            self.events.append(Event("remove", parts))

    def _renamed(self, old: Any, new: Any) -> None:
        source, target = self._parts(old), self._parts(new)
        if source is None or target is None:
            return
        n = len(source)
        moved = {path for path in self._known if path[:n] == source}
        self._known -= moved
        self._known |= {(*target, *path[n:]) for path in moved}
        self.events.append(Event("rename", source, target))

    def _exchange(self, one: Path, other: Path) -> bool:
        with self._lock:
            assert exchange(one, other)
            old, new = self._parts(one), self._parts(other)
            assert old is not None
            assert new is not None
            turned = {old: new, new: old}
            n = len(new)
            assert n == len(old)
            self._known = {(*turned.get(p[:n], p[:n]), *p[n:]) for p in self._known}
            self.events.append(Event("exchange", old, new))
        return True

    def _synced(self, handle: int) -> None:
        if (parts := self._parts(handle)) is None:
            return
        path = os.path.join(self._root, *parts)
        content = None
        if not os.path.isdir(path):
            with self._real_open(path, "rb") as stream:
                content = stream.read()
        self.events.append(Event("sync", parts, content=content, place=sync_place()))


def sync_place() -> str:
    """Return the lines of featstore that sync, up to the one that knows what is synced."""
    chain: dict[str, str] = {}
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(PACKAGE):
            continue
        name = frame.filename.removeprefix(PACKAGE)
        # The innermost line of a function that calls itself.
        chain.setdefault(frame.name, f"{name}: {frame.line}")
        if name != "io/files.py" or frame.name == "atomic_write":
            break
    return " < ".join([*chain.values()][1:])


@dataclass
class _File:
    kept: bytes = b""


@dataclass
class _Folder:
    now: dict[str, _File | _Folder] = field(default_factory=dict)
    kept: dict[str, _File | _Folder] = field(default_factory=dict)

    def at(self, path: tuple[str, ...]) -> _Folder:
        node: _File | _Folder = self
        for name in path:
            assert isinstance(node, _Folder)
            node = node.now[name]
        assert isinstance(node, _Folder)
        return node

    def tree(self, is_kept: Callable[[str], bool], own_name: str = "") -> Tree:
        return {
            name: node.kept if isinstance(node, _File) else node.tree(is_kept, name)
            for name, node in (self.kept if is_kept(own_name) else self.now).items()
        }


@dataclass(frozen=True)
class Moment:
    """A moment at which the power may go: the last event, and what a disk may then hold."""

    event: Event
    trees: dict[str, Tree]
    """The folder by the kind of disk, see :data:`KINDS`."""


RECORDS = ("sets", "runs", "layers", "journal")
"""Folders of a store that hold records, or what counts by its name."""


_rng = random.Random(0)


KINDS: dict[str, Callable[[str], bool]] = {
    "strict": lambda name: True,
    "eager": lambda name: False,
    "old records": lambda name: name in RECORDS,
    "new records": lambda name: name not in RECORDS,
    "mixed": lambda name: _rng.random() < 0.5,
}
"""Whether a disk keeps of a folder only the entries of its last fsync, by the folder's name."""


def moments(events: Iterable[Event], lost: str = "") -> Iterator[Moment]:
    """Yield the moments after events; those of the place `lost` do not happen."""
    top = _Folder()
    for event in events:
        if event.place and event.place == lost:
            continue
        _apply(top, event)
        yield Moment(event, {kind: top.tree(is_kept) for kind, is_kept in KINDS.items()})


def _apply(top: _Folder, event: Event) -> None:
    if event.kind == "end":
        return
    if event.path == ("",):
        top.kept = dict(top.now)
        return
    own, name = top.at(event.path[:-1]).now, event.path[-1]
    match event.kind:
        case "create":
            own[name] = _File()
        case "mkdir":
            own[name] = _Folder()
        case "remove":
            del own[name]
        case "rename":
            top.at(event.target[:-1]).now[event.target[-1]] = own.pop(name)
        case "exchange":
            other = top.at(event.target[:-1]).now
            own[name], other[event.target[-1]] = other[event.target[-1]], own[name]
        case "sync":
            node = own[name]
            if isinstance(node, _Folder):
                node.kept = dict(node.now)
            else:
                node.kept = event.content or b""


def build(tree: Tree, folder: Path) -> None:
    """Write a tree to a folder, which does not exist."""
    folder.mkdir()
    for name, node in tree.items():
        if isinstance(node, bytes):
            (folder / name).write_bytes(node)
        else:
            build(node, folder / name)
