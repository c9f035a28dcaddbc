"""The sink: feature batches -> whole chunks, and the journal of what is durable.

One background thread does all the writing, in order. What it has written is in the journal only
after it is on the disk, so that a kill at any moment leaves a journal that speaks the truth. Rows
of a chunk that is not yet whole are spooled now and then, so that a kill costs seconds of
computing however long a chunk takes.
"""

from __future__ import annotations

import shutil
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np

from featstore.errors import CorruptionError, FeatstoreError, StoreError
from featstore.io.files import file_sha256, sync_file, sync_folder, write_error, write_json
from featstore.store.format.matrix import Matrix
from featstore.store.format.schema import read_record
from featstore.store.set_folder import SetFolder
from featstore.text import file_name

CHECKPOINT_S = 10.0
"""Longest time between two moments at which everything computed so far is made durable."""


JOURNAL_S = 1.0
"""Shortest time between two writes of the journal."""


SHARE = "share-"
"""How the names of shares' journals begin."""


QUEUE_NBYTES = 64 * 2**20
"""Rows that may wait to be written before the computing waits for the disk."""


class LayerWriter:
    """One layer's chunks: which are durable, and the rows of the one that is being filled.

    Parameters
    ----------
    feature_set : SetFolder
        Whose layer it is; its matrix exists.
    layer : str
        The layer's name.
    journal : mapping
        ``chunks`` (index -> sha256 of its file) and ``spool`` (``chunk``, ``n_rows``, ``crc32``)
        as an earlier pass left them.
    chunks : sequence of int or None
        Write these alone, beside other processes that write others; None for all that the journal
        does not have.
    """

    def __init__(
        self,
        feature_set: SetFolder,
        layer: str,
        journal: Mapping[str, Any],
        chunks: Sequence[int] | None = None,
    ) -> None:
        self.matrix: Matrix = feature_set.writable_matrix(layer)
        if chunks is None:
            self.matrix.sweep()
        # As it is now: what it becomes meanwhile is not what was written.
        self.metadata = file_sha256(self.matrix.path / "zarr.json")
        self.hashes = {int(k): str(v) for k, v in journal.get("chunks", {}).items()}
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
        self._spooled = self._load_spool(journal.get("spool"))

    def _spool_path(self) -> Path:
        return self._folder / f"{file_name(self._layer)}-{self.pending[0]}.spool"

    def _load_spool(self, spool: Mapping[str, Any] | None) -> tuple[int, int]:
        if not spool or not self.pending or spool["chunk"] != self.pending[0]:
            return 0, 0
        n_rows, crc32 = int(spool["n_rows"]), int(spool["crc32"])
        start, stop = self.matrix.chunk_range(self.pending[0])
        if n_rows >= stop - start:
            return 0, 0
        nbytes = n_rows * self.matrix.n_features * 4
        try:
            with self._spool_path().open("rb+") as stream:
                content = stream.read(nbytes)
                # Bytes that came after the journal's last word.
                stream.truncate(nbytes)
        except OSError:
            return 0, 0
        if len(content) != nbytes or zlib.crc32(content) != crc32:
            return 0, 0
        rows = np.frombuffer(content, "<f4").reshape(n_rows, self.matrix.n_features)
        self._rows, self.n_rows = [rows], n_rows
        return n_rows, crc32

    def missing_ranges(self) -> list[tuple[int, int]]:
        """Return the rows (first, after the last) that are still to be computed."""
        ranges = [self.matrix.chunk_range(index) for index in self.pending]
        if ranges:
            ranges[0] = (ranges[0][0] + self.n_rows, ranges[0][1])
        return ranges

    def add(self, start: int, rows: np.ndarray) -> bool:
        """Take what is missing of `rows`, which begin at row `start`; return if a chunk closed."""
        closed = False
        for _ in range(len(self.pending)):
            first, last = self.matrix.chunk_range(self.pending[0])
            low, high = max(first + self.n_rows, start), min(last, start + len(rows))
            if low >= high:
                break
            if low != first + self.n_rows:
                raise StoreError(f"rows {first + self.n_rows} to {low - 1} never came")
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
        self.hashes[index] = file_sha256(path)
        self._outdated.append(spool)
        self.pending.pop(0)
        self._rows, self.n_rows, self._spooled = [], 0, (0, 0)

    def take(self, hashes: Mapping[str, str]) -> None:
        """Note chunks that another process says it has made durable, where they are as it says."""
        for index, sha256 in ((int(name), sha256) for name, sha256 in hashes.items()):
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

    def journal(self) -> dict[str, Any]:
        """Return what is durable, for the journal."""
        n_rows, crc32 = self._spooled
        spool = {"chunk": self.pending[0], "n_rows": n_rows, "crc32": crc32} if n_rows else None
        return {"chunks": {str(k): v for k, v in sorted(self.hashes.items())}, "spool": spool}


class FeatureWriter:
    """Writes the features of one pass over a dataset.

    Use it as a context manager: leaving it, also by an error, makes durable what came in.

    Parameters
    ----------
    feature_set : SetFolder
        The set; the caller holds its lock.
    layers : list of str
        The layers that the pass computes; their matrices exist.
    numerics : mapping
        What must be the same when the pass is resumed (device type, batch size), since features
        depend on it in their last bits.
    command : str
        What to type to resume the pass.
    share : str or None
        Name of the share that this process was given of a pass that another one keeps the journal
        of: it has a small journal of its own, which that process takes over.
    chunks : mapping of str to sequence of int, or None
        By layer, the chunks of the share.
    check : callable, optional
        Called before anything is written; raises when the share is no longer wanted.
    """

    def __init__(
        self,
        feature_set: SetFolder,
        layers: list[str],
        numerics: Mapping[str, Any],
        command: str,
        share: str | None = None,
        chunks: Mapping[str, Sequence[int]] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.feature_set = feature_set
        self._check = check
        self._share = share
        self.command = command
        own = _read_share(feature_set, share) if share else feature_set.journal()
        self._others = {k: v for k, v in own.items() if k not in layers}
        self.layers = {
            name: LayerWriter(
                feature_set, name, own.get(name, {}), chunks[name] if chunks else None
            )
            for name in layers
        }
        self.masked: dict[int, str] = {
            int(row): cause
            for name in layers
            for row, cause in own.get(name, {}).get("masked", {}).items()
        }
        self.numerics = dict(numerics)
        self._queue: Queue[tuple[int, dict[str, np.ndarray], dict[int, str]] | None] = Queue()
        self._room = threading.Condition()
        self._waiting_nbytes = 0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="sink", daemon=True)
        self.write_s = 0.0
        self.wait_s = 0.0

    @property
    def dtypes(self) -> dict[str, str]:
        """What each layer's features are stored as, ``float32`` or ``float16``."""
        return {name: sink.matrix.dtype for name, sink in self.layers.items()}

    def missing_rows(self, n_samples: int) -> np.ndarray:
        """Return which rows some layer still needs, (n_samples,) bool."""
        missing = np.zeros(n_samples, dtype=bool)
        for sink in self.layers.values():
            for start, stop in sink.missing_ranges():
                missing[start:stop] = True
        return missing

    def __enter__(self) -> FeatureWriter:
        self.feature_set.journal_path.mkdir(exist_ok=True)
        if self._share is None:
            for path in (self.feature_set.path / "layers").glob(".*.tmp"):
                path.unlink()
            self.gather()
        self._save_journal()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None and kind is None:
            self._raise()

    def add(self, start: int, features: Mapping[str, np.ndarray], masked: dict[int, str]) -> None:
        """Take the features of the rows that begin at `start`, each (k, n_features) float32.

        Waits while too much is still to be written.

        Raises
        ------
        StoreError
            When the disk would not take what came before.
        """
        began = time.perf_counter()
        nbytes = sum(rows.nbytes for rows in features.values())
        with self._room:
            while self._waiting_nbytes > QUEUE_NBYTES and self._failure is None:
                self._room.wait()
            self._waiting_nbytes += nbytes
        self.wait_s += time.perf_counter() - began
        if self._failure is not None:
            self._raise()
        self._queue.put((start, dict(features), masked))

    def _raise(self) -> None:
        cause = self._failure
        if isinstance(cause, OSError) and not isinstance(cause, FeatstoreError):
            raise write_error(cause, self.feature_set.path, self.command) from cause
        raise StoreError(
            f"{self.feature_set.path} can't be written: {cause}. What was written before is kept; "
            f"when the disk has room, go on with: {self.command}"
        ) from cause

    def _write(self) -> None:
        durable_at = journal_at = time.monotonic()
        try:
            while (item := self._queue.get()) is not None:
                began = time.perf_counter()
                start, features, masked = item
                self._check()
                self.masked |= masked
                closed = [self.layers[name].add(start, features[name]) for name in features]
                now = time.monotonic()
                if now - durable_at > CHECKPOINT_S:
                    self._checkpoint()
                    durable_at = journal_at = now
                elif any(closed) and now - journal_at > JOURNAL_S:
                    self._save_journal()
                    journal_at = now
                self.write_s += time.perf_counter() - began
                with self._room:
                    self._waiting_nbytes -= sum(rows.nbytes for rows in features.values())
                    self._room.notify()
            self._checkpoint()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that computes
            with self._room:
                self._failure = error
                self._room.notify()

    def gather(self, share: str = "*") -> None:
        """Take over what other processes have made durable of a share, or of all."""
        paths = sorted(self.feature_set.journal_path.glob(f"{SHARE}{share}.json"))
        for path in paths:
            for name, own in _read_layers(path, self.feature_set.n_samples).items():
                # What was dropped or damaged since is not what the share's process wrote.
                if name in self.layers and own["numerics"] == self.numerics:
                    self.layers[name].take(own["chunks"])
                    self.masked |= {int(row): cause for row, cause in own["masked"].items()}
        self._save_journal()
        for path in paths:
            path.unlink(missing_ok=True)

    def _checkpoint(self) -> None:
        for sink in self.layers.values():
            sink.spool()
        self._save_journal()

    def _save_journal(self) -> None:
        self._check()
        masked = {str(row): cause for row, cause in sorted(self.masked.items())}
        layers = {
            name: {
                **sink.journal(),
                "metadata": sink.metadata,
                "numerics": self.numerics,
                "masked": masked,
                "command": self.command,
            }
            for name, sink in self.layers.items()
        }
        name = f"{SHARE}{self._share}" if self._share else "journal"
        write_json(
            self.feature_set.journal_path / f"{name}.json", {"layers": self._others | layers}
        )
        for sink in self.layers.values():
            sink.drop_outdated()

    def finish(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Declare the layers complete, once all their chunks are durable.

        Parameters
        ----------
        records : mapping of str to mapping
            For each layer, what its record is to say beside its files' hashes.
        """
        for name, sink in self.layers.items():
            if sink.pending:
                raise StoreError(f"{len(sink.pending)} chunks of {name} are missing")
            metadata = sink.matrix.path / "zarr.json"
            sync_file(metadata)
            files = {f"{name}/zarr.json": sink.metadata} | {
                f"{name}/c/{index}/0": sha256 for index, sha256 in sorted(sink.hashes.items())
            }
            write_json(
                self.feature_set.layer_path(name),
                {**records[name], "numerics": self.numerics, "files": files},
            )
        if self._others:
            self.feature_set.write_journal(self._others)
        else:
            shutil.rmtree(self.feature_set.journal_path)


def _read_share(feature_set: SetFolder, share: str) -> dict[str, Any]:
    path = feature_set.journal_path / f"{SHARE}{share}.json"
    return _read_layers(path, feature_set.n_samples)


def _read_layers(path: Path, n_rows: int) -> dict[str, Any]:
    """Return what a share's journal says of its layers; one that is gone or torn says nothing."""
    try:
        return dict(read_record(path, "JOURNAL", n_rows)["layers"]) if path.is_file() else {}
    except CorruptionError:
        return {}
