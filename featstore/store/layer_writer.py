"""Write the rows of one layer as whole chunks, and spool the rows of the unfinished one.

A kill costs only the rows that came since the last spooling, some ten seconds of computing.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from featstore.errors import StoreError
from featstore.io.files import file_sha256, sync_file, sync_folder
from featstore.store.format.layer_schema import LayerJournal, Spool
from featstore.store.format.matrix import Matrix
from featstore.store.set_folder import SetFolder
from featstore.text import file_name


class LayerWriter:
    """The durable chunks of one layer, and the rows of its unfinished chunk.

    The layer's matrix exists. `journal` is that of an earlier pass. With `chunks`, only these are
    written, and other processes write the others; otherwise all that the journal does not name.
    """

    def __init__(
        self,
        feature_set: SetFolder,
        layer: str,
        journal: LayerJournal | None,
        chunks: Sequence[int] | None = None,
    ) -> None:
        self.matrix: Matrix = feature_set.writable_matrix(layer)
        if chunks is None:
            self.matrix.sweep()
            self._sync_metadata()
        # Taken now: a later change of the file is damage.
        self.metadata = file_sha256(self.matrix.path / "zarr.json")
        self.hashes = dict(journal.chunks) if journal else {}
        for index in list(self.hashes):
            if not self.matrix.chunk_path(index).is_file():
                del self.hashes[index]
        wanted = range(self.matrix.n_chunks) if chunks is None else sorted(chunks)
        self.pending = [i for i in wanted if i not in self.hashes]
        self._folder = feature_set.journal_path
        self._layer = layer
        self._rows: list[np.ndarray] = []
        self._outdated: list[Path] = []
        self.n_rows = 0
        self._spooled = self._load_spool(journal.spool if journal else None)

    def _sync_metadata(self) -> None:
        """Make the matrix without its chunks durable, before a journal or record names it."""
        folder = self.matrix.path
        sync_file(folder / "zarr.json")
        (folder / "c").mkdir(exist_ok=True)
        sync_folder(folder)
        sync_folder(folder.parent)

    def _spool_path(self) -> Path:
        return self._folder / f"{file_name(self._layer)}-{self.pending[0]}.spool"

    def _load_spool(self, spool: Spool | None) -> tuple[int, int]:
        if spool is None or not self.pending or spool.chunk != self.pending[0]:
            return 0, 0
        n_rows, crc32 = spool.n_rows, spool.crc32
        start, stop = self.matrix.chunk_range(self.pending[0])
        if n_rows >= stop - start:
            return 0, 0
        nbytes = n_rows * self.matrix.n_features * 4
        try:
            with self._spool_path().open("rb+") as stream:
                content = stream.read(nbytes)
                # Cut off bytes that the journal does not name.
                stream.truncate(nbytes)
        except OSError:
            return 0, 0
        if len(content) != nbytes or zlib.crc32(content) != crc32:
            return 0, 0
        rows = np.frombuffer(content, "<f4").reshape(n_rows, self.matrix.n_features)
        self._rows, self.n_rows = [rows], n_rows
        return n_rows, crc32

    def missing_ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of missing rows, as (first, last + 1)."""
        ranges = [self.matrix.chunk_range(index) for index in self.pending]
        if ranges:
            ranges[0] = (ranges[0][0] + self.n_rows, ranges[0][1])
        return ranges

    def add(self, start: int, rows: np.ndarray) -> bool:
        """Add the missing rows of a block that begins at `start`; return whether a chunk ended."""
        closed = False
        for _ in range(len(self.pending)):
            first, last = self.matrix.chunk_range(self.pending[0])
            low, high = max(first + self.n_rows, start), min(last, start + len(rows))
            if low >= high:
                break
            if low != first + self.n_rows:
                raise StoreError(f"rows {first + self.n_rows} to {low - 1} are missing")
            self._rows.append(rows[low - start : high - start])
            self.n_rows += high - low
            if first + self.n_rows < last:
                break
            self._close_chunk()
            closed = True
        return closed

    def _close_chunk(self) -> None:
        spool, index = self._spool_path(), self.pending[0]
        path = self.matrix.write_chunk(index, np.concatenate(self._rows))
        sync_file(path)
        sync_folder(path.parent)
        sync_folder(path.parent.parent)
        self.hashes[index] = file_sha256(path)
        self._outdated.append(spool)
        self.pending.pop(0)
        self._rows, self.n_rows, self._spooled = [], 0, (0, 0)

    def take(self, hashes: Mapping[int, str]) -> None:
        """Add chunks that another process has written, if their files have these hashes."""
        for index, sha256 in hashes.items():
            path = self.matrix.chunk_path(index)
            if index not in self.pending or not path.is_file() or file_sha256(path) != sha256:
                continue
            if index == self.pending[0]:
                self._outdated.append(self._spool_path())
                self._rows, self.n_rows, self._spooled = [], 0, (0, 0)
            self.pending.remove(index)
            self.hashes[index] = sha256

    def spool(self) -> None:
        """Make the rows of the unfinished chunk durable."""
        n_spooled, crc32 = self._spooled
        if self.n_rows == n_spooled or not self.pending:
            return
        block = np.concatenate(self._rows)
        self._rows = [block]
        content = block[n_spooled:].astype("<f4").tobytes()
        with self._spool_path().open("ab" if n_spooled else "wb") as stream:
            stream.write(content)
        sync_file(self._spool_path())
        self._spooled = self.n_rows, zlib.crc32(content, crc32)

    def drop_outdated(self) -> None:
        """Delete the spools that the journal no longer names."""
        while self._outdated:
            self._outdated.pop().unlink(missing_ok=True)

    def spooled(self) -> Spool | None:
        """Return the durable rows of the unfinished chunk."""
        n_rows, crc32 = self._spooled
        return Spool(chunk=self.pending[0], n_rows=n_rows, crc32=crc32) if n_rows else None
