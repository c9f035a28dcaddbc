"""Power losses, replayed from what the store did: what is finished stays, and the rest resumes."""

from __future__ import annotations

import functools
import hashlib
import random
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import pytest
from children import run_content
from makers import of_pixels, tree_bytes, write_images
from power import KINDS, Event, PowerLog, build, moments

from featstore.datasets.formats import ucmerced
from featstore.extraction.extract import extract
from featstore.fitting.fit import fit
from featstore.io import downloads
from featstore.io.files import parse_json
from featstore.runs.opening import list_runs
from featstore.runs.tags import remove_run
from featstore.store import writer
from featstore.store.feature_store import open_store
from featstore.store.format import matrix
from featstore.store.set_folder import GROUP
from featstore.store.verification import verify_store

ROW_NBYTES = 4 * 29
"""Bytes of the statistics of an image of three bands."""


@functools.cache
def sha256(content):
    return hashlib.sha256(content).hexdigest()


@functools.cache
def parsed(content):
    return parse_json(content)


def file_at(folder, name):
    """Return the bytes of a file in a tree, or None."""
    for part in name.split("/"):
        folder = folder.get(part) if isinstance(folder, dict) else None
    return folder if isinstance(folder, bytes) else None


def problems_of(folder, record_name, files_in=""):
    """Yield what is wrong with a record and the files that it names, if the record is there."""
    if (content := file_at(folder, record_name)) is None:
        return
    if (record := parsed(content)) is None:
        yield f"{record_name} can't be read"
        return
    files = dict(record.get("files", {}))
    for layer, own in record.get("layers", {}).items():
        files[f"{layer}/zarr.json"] = own["metadata"]
        files |= {f"{layer}/c/{index}/0": digest for index, digest in own["chunks"].items()}
        if spool := own["spool"]:
            content = file_at(folder, f"journal/{layer}-{spool['chunk']}.spool") or b""
            if zlib.crc32(content[: spool["n_rows"] * ROW_NBYTES]) != spool["crc32"]:
                yield f"{record_name}: the spool has other bytes"
    for name, digest in files.items():
        if (content := file_at(folder, f"{files_in}{name}")) is None:
            yield f"{record_name}: {name} is missing"
        elif sha256(content) != digest:
            yield f"{record_name}: {name} has other bytes"


def problems(tree):
    """Yield what is wrong in a store: a record is intact, with all the files that it names.

    A folder of a set or of a run without its record would need a hand.
    """
    for name, own in visible(tree.get("sets", {})).items():
        if "set.json" not in own:
            yield f"{name} has no record"
        layers = [f"layers/{layer}" for layer in visible(own.get("layers", {}))]
        for record in ("set.json", *layers, "journal/journal.json"):
            yield from problems_of(own, record, f"{GROUP}/")
    for name, own in visible(tree.get("runs", {})).items():
        if "metrics.json" not in own:
            yield f"{name} has no record"
        yield from problems_of(own, "metrics.json")


def visible(tree):
    """Return a folder without what the next command sweeps."""
    return {name: node for name, node in tree.items() if not name.startswith(".")}


def names(tree):
    """Return the names of the sets and runs of a store."""
    return {name for kind in ("sets", "runs") for name in visible(tree.get(kind, {}))}


def finished(tree):
    """Return the sets and runs of a store, without what is of no use when a pass is over."""
    return {
        kind: {
            name: {k: v for k, v in visible(own).items() if k != "journal"}
            for name, own in visible(tree.get(kind, {})).items()
        }
        for kind in ("sets", "runs")
    }


def read(folder):
    """Return the tree of a store on the disk."""
    return {
        path.name: path.read_bytes() if path.is_file() else read(path)
        for path in folder.iterdir()
        if path.name not in ("cache", "locks")
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "pictures", n=4, size=12)


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Let few images make many chunks, and all that comes in be made durable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix, "CHUNK_NBYTES", 5 * ROW_NBYTES)
        patch.setattr(writer, "CHECKPOINT_S", 0.0)
        patch.setattr(writer, "JOURNAL_S", 0.0)
        yield


def extracting(pictures, store, **options):
    # Of datasets without files, no list of hashes makes the folder of the store.
    open_store(store).backend.lock_path("any")
    extract(store=store, **of_pixels(pictures, batch_size=3, **options))


def fitting(pictures, store):
    fit(store, "ridge", n_jobs=1)


def refitting(pictures, store):
    fit(store, "ridge", n_jobs=1, refit=True)


def repairing(pictures, store):
    opened = open_store(store)
    for feature_set in opened.sets():
        if feature_set.layers():
            path = feature_set.matrix("stats").chunk_path(1)
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert verify_store(opened).damages
    extracting(pictures, store)


def extracting_more(pictures, store):
    extracting(pictures, store, limit=8)


def removing(pictures, store):
    opened = open_store(store)
    for run in list_runs(opened):
        remove_run(opened, run)
    for feature_set in opened.sets():
        opened.remove(feature_set)


WORK = {
    part.__name__: part
    for part in (extracting, fitting, refitting, repairing, extracting_more, removing)
}


LAST_TO_KEEP = "extracting_more"
"""The part before the one that removes all sets and runs."""


RESUMES = {"repairing": extracting}
"""The parts that another one resumes."""


@dataclass
class Replay:
    """The events of all work, and the finished sets and runs after each part of it."""

    events: list[Event]
    left: dict[str, dict[str, Any]]
    contents: dict[str, dict[str, Any]]

    def problems(self, lost=""):
        """Yield what a power loss would break, if the fsyncs of a place did not happen."""
        wanted: dict[str, Any] = {}
        for moment in moments(self.events, lost):
            trees = {kind: tree.get("store", {}) for kind, tree in moment.trees.items()}
            for kind, tree in trees.items():
                gone = [f"{name} is gone" for name in names(wanted) - names(tree)]
                for problem in (*problems(tree), *gone):
                    yield f"{kind}, after {moment.event}: {problem}"
            journal = "/".join((*moment.event.path, "journal.json"))
            is_written = moment.event.kind == "sync" and moment.event.path[-1] == "journal"
            if is_written and file_at(moment.trees["strict"], journal) is None:
                yield f"{journal} is not durable"
            if moment.event.kind == "end":
                (part,) = moment.event.path
                if finished(trees["strict"]) != self.left[part]:
                    yield f"after {part}, not all is durable"
                # Only the part that removes sets and runs may lose one.
                wanted = {} if part == LAST_TO_KEEP else self.left[part]


@pytest.fixture(scope="module")
def replay(pictures, tmp_path_factory, _small):
    """Return the log of all work on one store."""
    folder = tmp_path_factory.mktemp("work")
    store = folder / "store"
    found = Replay([], {}, {})
    log = PowerLog(folder)
    with log.recording():
        for name, part in WORK.items():
            part(pictures, store)
            log.events.append(Event("end", (name,)))
            found.left[name] = finished(read(store))
            found.contents[name] = contents(store)
    found.events = log.events
    return found


def contents(store):
    """Return what the sets and runs of a store hold, without times."""
    opened = open_store(store)
    return {s.set_id: tree_bytes(s.group) for s in opened.sets()} | {
        run.run_id: run_content(run) for run in list_runs(opened)
    }


def test_a_power_loss_at_any_moment_leaves_whole_records_and_all_that_was_finished(replay):
    kinds = {event.kind for event in replay.events}
    assert kinds == {"create", "mkdir", "remove", "rename", "exchange", "sync", "end"}
    assert [*replay.problems()] == []


def test_no_fsync_of_the_store_can_be_left_out(replay):
    places = sorted({event.place for event in replay.events if event.place})
    assert len(places) > 15
    needless = [place for place in places if next(replay.problems(place), None) is None]
    assert not needless, "\n".join(needless)


def moments_by_part(events):
    """Return kinds of disks with moments, for each part of the work."""
    found, parts = {name: [] for name in WORK}, iter(WORK)
    part = next(parts)
    for moment in moments(events):
        # What a strict file system holds only changes with an fsync.
        kinds = [kind for kind in KINDS if kind != "strict" or moment.event.kind == "sync"]
        found[part] += [(kind, moment) for kind in kinds]
        if moment.event.kind == "end":
            part = next(parts, part)
    return found


@pytest.mark.parametrize("n_each", [1, pytest.param(60, marks=pytest.mark.soak)])
def test_work_resumes_after_a_power_loss_and_ends_in_the_same_bytes(
    n_each, replay, pictures, tmp_path, tally
):
    rng, store = random.Random(n_each), tmp_path / "store"
    for part, own in moments_by_part(replay.events).items():
        for kind, moment in rng.sample(own, min(n_each, len(own))):
            build(moment.trees[kind].get("store", {}), store)
            RESUMES.get(part, WORK[part])(pictures, store)
            assert contents(store) == replay.contents[part], (kind, str(moment.event))
            assert verify_store(open_store(store)).damages == []
            shutil.rmtree(store)
            tally.add(f"power losses, {kind} disk", part, "all resumed to the same bytes")


def test_a_power_loss_leaves_a_downloaded_dataset_whole_or_its_archive(tmp_path, monkeypatch):
    images = {f"{name}/{name}00.tif": name.encode() for name in ucmerced.CLASSES[:3]}

    def fetch(urls, path, known_hash, progress):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in images.items():
                archive.writestr(f"UCMerced_LandUse/Images/{name}", content)
        return path

    monkeypatch.setattr(downloads, "fetch_first", fetch)
    log = PowerLog(tmp_path)
    with log.recording():
        ucmerced.download(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["UCMerced_LandUse"]
    for moment in moments(log.events):
        for tree in moment.trees.values():
            if "UCMerced_LandUse" in tree:
                found = {name: file_at(tree, f"UCMerced_LandUse/Images/{name}") for name in images}
                assert found == images, str(moment.event)
    assert str(moment.event) == "remove UCMerced_LandUse.zip"
    assert "UCMerced_LandUse" in moment.trees["strict"]
