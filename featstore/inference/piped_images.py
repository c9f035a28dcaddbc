"""Images that come through a pipe, as `<(command)` and `command | ... /dev/stdin` give them."""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def seekable(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield the paths, with a temporary copy in place of each pipe: a decoder has to go back."""
    with tempfile.TemporaryDirectory(prefix="featstore-") as folder:
        yield [
            _copy(path, Path(folder) / f"image-{i}") if _is_pipe(path) else path
            for i, path in enumerate(paths)
        ]


def _is_pipe(path: Path) -> bool:
    return stat.S_ISFIFO(path.stat().st_mode)


def _copy(path: Path, copy: Path) -> Path:
    with path.open("rb") as source, copy.open("wb") as target:
        shutil.copyfileobj(source, target)
    return copy
