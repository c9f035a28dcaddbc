"""A process that has imported all there is to import, and forks children that do one command each.

It reads requests from stdin, a line of JSON each, and answers each with a line on stdout. Importing
takes seconds and forking milliseconds, so that a test can afford hundreds of real processes. What
takes long and is not tested here is done once or left out: versions are looked up, figures are
blank, and nobody waits for the disk.
"""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from operations import Operations
from PIL import Image
from pydantic import BaseModel

MODULES = (
    "featstore.cli.main",
    "featstore.cli.extract",
    "featstore.cli.fit",
    "featstore.cli.store",
    "featstore.datasets.formats.folder",
    "featstore.extraction.extract",
    "featstore.plotting",
    "featstore.fitting.fit",
    "featstore.runs.model_file",
    "featstore.extraction.pipeline",
    "featstore.models.pixelstats",
    "featstore.extraction.spec",
    "featstore.store.writer",
    "featstore.extraction.coordinator",
    "featstore.report.summaries",
    "featstore.runs.verification",
    "numcodecs.blosc",
    "rich.console",
    "sklearn.linear_model",
    "zarr",
)


def settle(constants: dict[str, float]) -> None:
    """Set constants of modules, by ``module.NAME``."""
    for name, value in constants.items():
        module, _, constant = name.rpartition(".")
        setattr(import_module(f"featstore.{module}"), constant, value)


def command(request: dict[str, Any]) -> int:
    """Do what the command line does, with what the request says goes wrong."""
    from featstore.cli.main import _run

    sys.argv = ["featstore", *request["args"]]
    settle(request.get("constants", {}))
    if "file_nbytes" in request:
        # Without this the signal would end the process, which is a kill like any other.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_nbytes"],) * 2)
    if "fault" in request:
        Operations(request["store"], **request["fault"]).install()
    if "clock" in request:
        shift_clock(request["clock"])
    if "batch_s" in request:
        slow_down(request["batch_s"])
    if "hold" in request:
        hold(**request["hold"])
    if "overwrite" in request:
        overwrite_when_reading(**request["overwrite"])
    if "touch" in request:
        touch_when_reading(**request["touch"])
    return _run(request["args"])


def shift_clock(steps_s: list[float]) -> None:
    """Let all clocks jump at every look at them, forwards and backwards in turn."""
    count = [0]

    def jumping(real: Callable[[], float], scale: float) -> Callable[[], float]:
        def look() -> float:
            count[0] += 1
            return type(scale)(real() + scale * steps_s[count[0] % len(steps_s)])

        return look

    for name, scale in (("time", 1.0), ("time_ns", 10**9), ("monotonic", 1.0)):
        setattr(time, name, jumping(getattr(time, name), scale))
    from featstore import environment
    from featstore.extraction import result
    from featstore.fitting import worker
    from featstore.io import locks
    from featstore.store import feature_set, feature_store

    def now(timespec: str = "seconds") -> str:
        at = datetime.fromtimestamp(max(0.0, time.time()), UTC)
        return at.isoformat(timespec=timespec)

    for module in (result, feature_set, locks, environment, feature_store, worker):
        if hasattr(module, "now"):
            module.now = now


def slow_down(delay_s: float) -> None:
    """Let each batch wait."""
    from featstore.models import pixelstats

    compute = pixelstats.PixelExtractor._compute

    def slow(self: Any, batch: Any) -> Any:
        time.sleep(delay_s)
        return compute(self, batch)

    pixelstats.PixelExtractor._compute = slow


def hold(row: int, until: str) -> None:
    """Let the batches from a row on wait until a file exists."""
    from featstore.models import pixelstats

    compute = pixelstats.PixelExtractor._compute

    def held(self: Any, batch: Any) -> Any:
        while batch.start >= row and not os.path.exists(until):
            time.sleep(0.015)
        return compute(self, batch)

    pixelstats.PixelExtractor._compute = held


def overwrite_when_reading(row: int, path: str, source: str, in_place: bool) -> None:
    """Replace an image, or without a source remove it, just before another one is read."""
    from featstore.datasets.base import FileDataset

    read, is_done = FileDataset.read, []

    def reading(self: Any, wanted: int, *more: Any) -> Any:
        if wanted == row and len(more) and not is_done:
            is_done.append(True)
            if not source:
                os.unlink(path)
            elif in_place:
                Path(path).write_bytes(Path(source).read_bytes())
            else:
                os.replace(source, path)
        return read(self, wanted, *more)

    FileDataset.read = reading


def touch_when_reading(row: int, path: str) -> None:
    """Change the time of a file of arrays when a row is read."""
    from featstore.datasets.base import ArrayDataset

    read = ArrayDataset.read_block

    def reading(self: Any, start: int, stop: int) -> Any:
        if start <= row < stop and stop - start < len(self):
            os.utime(path)
        return read(self, start, stop)

    ArrayDataset.read_block = reading


def watch(request: dict[str, Any]) -> int:
    """Read a store again and again until it holds a set, and say what was seen of it.

    The file at `refused` says that the store was read before it held the set.
    """
    import numpy as np

    from featstore.errors import CorruptionError, FeatstoreError
    from featstore.store.feature_store import open_store

    expected = np.load(request["expected"])
    n_seen = 0
    while n_seen < 3:
        try:
            selection = open_store(request["store"]).select()
            for rows in (selection.memmap(), selection.dask().compute()):
                if not np.array_equal(rows, expected):
                    print("TORN", flush=True)
                    return 1
            if selection.y.tolist() != request["labels"]:
                print("WRONG LABELS", flush=True)
                return 1
            n_seen += 1
        except CorruptionError as error:
            print("CORRUPT", error, flush=True)
            return 1
        except FeatstoreError:
            Path(request["refused"]).touch()
        time.sleep(0.015)
    return 0


def damage(request: dict[str, Any]) -> int:
    """Read damaged files, and say what happened."""
    import mutants

    print(json.dumps(mutants.run(folder=Path(request["place"]), **request["options"])), flush=True)
    return 0


def complete(model: type[BaseModel]) -> None:
    """Let all records be ready to validate."""
    for own in model.__subclasses__():
        if own.__module__.startswith("featstore."):
            own.model_rebuild()
            complete(own)


CALLS: dict[str, Callable[[dict[str, Any]], int]] = {
    "command": command,
    "watch": watch,
    "damage": damage,
}


def child(request: dict[str, Any]) -> None:
    """Do one request in a forked process and end it, without what Python does at an end."""
    folder = Path(request["folder"])
    for stream, name in ((1, "out"), (2, "err")):
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream)
    code = 99
    try:
        for name, value in request.get("environment", {}).items():
            os.environ[name] = value
        os.chdir(folder)
        code = CALLS[request["call"]](request)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Serve until stdin ends."""
    for name in MODULES:
        import_module(name)
    import_module("featstore.runs.model_file")._skops()
    Image.preinit()
    metadata.version = functools.cache(metadata.version)
    import_module("featstore.environment").versions()
    blank = io.BytesIO()
    Image.new("RGB", (1, 1)).save(blank, "png")
    Figure.savefig = lambda self, target, **_: target.write(blank.getvalue())
    charts = import_module("featstore.runs.charts")
    charts.draw_confusion = charts.draw_reliability = charts.draw_curves = lambda *_: Figure()
    # Pydantic and scikit-learn put off until first use what each child would do again.
    complete(BaseModel)
    import_module("sklearn.linear_model").RidgeClassifier().fit([[0.0], [1.0]], [0, 1])
    # Only a loss of power would show the wait for the disk, and no child has one.
    os.fsync = lambda fd: None
    # What a child collects it would copy first.
    gc.freeze()
    # What tests of Ctrl-C need, wherever they were started.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    print("{}", file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            found, status = os.waitpid(request["wait"], os.WNOHANG)
            print(json.dumps({"ended": bool(found), "status": status}), file=answers)
            continue
        for name in request.get("modules", ()):
            import_module(name)
        pid = os.fork()
        if not pid:
            # A child that read ahead of what the parent has read would take its requests.
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            child(request)
        print(json.dumps({"pid": pid}), file=answers)


if __name__ == "__main__":
    main()
