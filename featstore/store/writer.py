"""Write the features of a pass in the background, and keep a journal of the durable chunks.

One thread writes everything, in order. The journal names a chunk only after the chunk is on the
disk, so a kill never makes it wrong.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np

from featstore.errors import CorruptionError, FeatstoreError, StoreError
from featstore.io.files import TEMPORARY, make_folder, write_error
from featstore.store.format.layer_schema import Journal, LayerJournal, LayerRecord, Numerics
from featstore.store.layer_writer import LayerWriter
from featstore.store.removal import remove_journal
from featstore.store.set_folder import SetFolder

CHECKPOINT_S = 10.0
"""Longest time until computed rows are durable."""


JOURNAL_S = 1.0
"""Shortest time between two writes of the journal."""


JOURNAL_SHARE = 20
"""Times that a write of the journal takes until the next one: of 200,000 chunks, it is 16 MB."""


SHARE = "share-"
"""Beginning of the names of the journals of shares."""


QUEUE_NBYTES = 64 * 2**20
"""Bytes of rows that wait to be written before computing waits for the disk."""


class FeatureWriter:
    """Writes the features of one pass over a dataset.

    Use it as a context manager: at its end, also after an error, all added rows are durable. The
    caller holds the set, and the matrices of `layers` exist. The last bits of features depend on
    `numerics`, so a resumed pass must have the same. `command` resumes the pass.

    A process that computes a share of a pass names it as `share`, with the share's `chunks` by
    layer. It writes a journal of its own, which the coordinating process takes over. `check` is
    called before each write; it raises if the share is no longer wanted.
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
            name: LayerWriter(feature_set, name, own.get(name), chunks[name] if chunks else None)
            for name in layers
        }
        self.masked: dict[int, str] = {}
        for name in layers:
            self.masked |= own[name].masked if name in own else {}
        self.numerics = Numerics.model_validate(numerics)
        self._queue: Queue[tuple[int, dict[str, np.ndarray], dict[int, str]] | None] = Queue()
        self._room = threading.Condition()
        self._waiting_nbytes = 0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self.write_s = 0.0
        self.wait_s = 0.0

    @property
    def dtypes(self) -> dict[str, str]:
        """The stored type of each layer, ``float32`` or ``float16``."""
        return {name: layer.matrix.dtype for name, layer in self.layers.items()}

    def missing_rows(self, n_samples: int) -> np.ndarray:
        """Return which rows at least one layer lacks, (n_samples,) bool."""
        missing = np.zeros(n_samples, dtype=bool)
        for layer in self.layers.values():
            for start, stop in layer.missing_ranges():
                missing[start:stop] = True
        return missing

    def __enter__(self) -> FeatureWriter:
        make_folder(self.feature_set.journal_path)
        if self._share is None:
            for path in (self.feature_set.path / "layers").glob(".*.tmp"):
                if TEMPORARY.fullmatch(path.name):
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
        """Add the features of rows that begin at `start`, each (k, n_features) float32.

        Waits while too many rows are in the queue. Raises StoreError if earlier rows could not be
        written.
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
        pause_s = JOURNAL_S
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
                elif any(closed) and now - journal_at > pause_s:
                    self._save_journal()
                    pause_s = max(JOURNAL_S, JOURNAL_SHARE * (time.monotonic() - now))
                    journal_at = now
                self.write_s += time.perf_counter() - began
                with self._room:
                    self._waiting_nbytes -= sum(rows.nbytes for rows in features.values())
                    self._room.notify()
            self._checkpoint()
        except BaseException as error:  # noqa: BLE001 - raised by the thread that computes
            with self._room:
                self._failure = error
                self._room.notify()

    def gather(self, share: str = "*") -> None:
        """Take over the durable chunks of a share, or of all shares."""
        paths = sorted(self.feature_set.journal_path.glob(f"{SHARE}{share}.json"))
        for path in paths:
            for name, own in _read_layers(path, self.feature_set.n_samples).items():
                # The layer may have been started again since the share was computed.
                if name in self.layers and own.numerics == self.numerics:
                    self.layers[name].take(own.chunks)
                    self.masked |= own.masked
        self._save_journal()
        for path in paths:
            path.unlink(missing_ok=True)

    def _checkpoint(self) -> None:
        for layer in self.layers.values():
            layer.spool()
        self._save_journal()

    def _save_journal(self) -> None:
        self._check()
        masked = dict(sorted(self.masked.items()))
        layers = {
            name: LayerJournal(
                chunks=dict(sorted(layer.hashes.items())),
                spool=layer.spooled(),
                metadata=layer.metadata,
                numerics=self.numerics,
                masked=masked,
                command=self.command,
            )
            for name, layer in self.layers.items()
        }
        name = f"{SHARE}{self._share}" if self._share else "journal"
        path = self.feature_set.journal_path / f"{name}.json"
        Journal(layers=self._others | layers).write(path)
        for layer in self.layers.values():
            layer.drop_outdated()

    def finish(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the records of the layers, once all their chunks are durable.

        `records` holds the content of each layer's record but its numerics and files.
        """
        for name, layer in self.layers.items():
            if layer.pending:
                raise StoreError(f"{len(layer.pending)} chunks of {name} are missing")
            files = {f"{name}/zarr.json": layer.metadata} | {
                f"{name}/c/{index}/0": sha256 for index, sha256 in sorted(layer.hashes.items())
            }
            content = {**records[name], "numerics": self.numerics, "files": files}
            LayerRecord.model_validate(content).write(self.feature_set.layer_path(name))
        if self._others:
            self.feature_set.write_journal(self._others)
        else:
            remove_journal(self.feature_set)


def _read_share(feature_set: SetFolder, share: str) -> dict[str, LayerJournal]:
    path = feature_set.journal_path / f"{SHARE}{share}.json"
    return _read_layers(path, feature_set.n_samples)


def _read_layers(path: Path, n_rows: int) -> dict[str, LayerJournal]:
    """Return the layers of a share's journal; none if it is missing or damaged."""
    try:
        return Journal.read(path, n_rows).layers if path.is_file() else {}
    except CorruptionError:
        return {}
