"""Records are read once, and again only when they change: the index answers for all others."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter

import pytest
from makers import Listener, of_pixels

from featstore.errors import RunError, SelectionError
from featstore.extraction.extract import extract
from featstore.fitting.plan import select_all
from featstore.io.files import json_digest, read_json, write_json
from featstore.io.stamped_cache import RECENT_S, StampedCache
from featstore.runs.listing import list_fits
from featstore.runs.opening import list_runs
from featstore.store.feature_store import open_store
from featstore.store.format import fields
from featstore.store.record_index import index_path, open_index
from featstore.text import MAX_LISTED

N = 30


@pytest.fixture
def reads(monkeypatch):
    """Count how often each kind of record is read."""
    found = Counter()

    def counted(path):
        found[path.name] += 1
        return read_json(path)

    monkeypatch.setattr(fields, "read_json", counted)
    return found


@pytest.fixture(scope="module")
def many(pixel_sample, tmp_path_factory):
    """Return a store of 30 sets, the last of them genuine, and of 30 runs."""
    store = pixel_sample.copy(tmp_path_factory.mktemp("many"))
    shutil.rmtree(store.cache_dir)
    (feature_set,), (run,) = store.sets(), list_runs(store)
    shutil.rmtree(index_path(store.backend, "sets").parent)
    for i in range(N - 1):
        path = store.path / "sets" / f"{i}-{json_digest(i)[:12]}"
        shutil.copytree(feature_set.path, path)
        record = read_json(path / "set.json")
        record["facets"]["title"], record["dataset"]["fingerprint"] = f"title {i}", str(i)
        write_json(path / "set.json", record)
        path = store.runs_dir / f"{run.run_id[:-8]}{json_digest(i)[:8]}"
        shutil.copytree(run.path, path)
        record = read_json(path / "metrics.json")
        record["fit"]["seed"] = i + 1
        write_json(path / "metrics.json", record)
    time.sleep(2 * RECENT_S)
    return store.path


@pytest.fixture
def store(many, tmp_path):
    """Return a copy of the store, old enough to be kept in an index."""
    shutil.copytree(many, tmp_path / "store", copy_function=os.link)
    time.sleep(2 * RECENT_S)
    return open_store(tmp_path / "store")


def summaries(store):
    return [run.summary() for run in list_runs(store)]


def test_each_run_is_read_once_and_then_the_index_answers(store, reads):
    first = summaries(store)
    assert reads == {"metrics.json": N}
    assert summaries(store) == first
    assert reads == {"metrics.json": N}
    again = open_store(store.path)
    assert summaries(again) == first
    lines = list_fits(again, all_runs=True)
    assert [line["is_repeat"] for line in lines] == [False, *[True] * N]
    assert reads["metrics.json"] <= N + 2
    assert [run.record.fit.seed for run in list_runs(again)].count(7) == 1


def test_a_changed_run_is_read_again_and_a_removed_one_forgotten(store, reads):
    first, second, *rest = list_runs(store)
    record = read_json(first.path / "metrics.json")
    record["metrics"]["test"]["accuracy"] = 0.125
    write_json(first.path / "metrics.json", record)
    store.backend.remove_run(second.run_id)
    (rest[0].path / "model.skops").unlink()
    reads.clear()
    said = Listener()
    found = {run.run_id: run.summary() for run in list_runs(open_store(store.path), said)}
    assert reads["metrics.json"] == 2
    assert found[first.run_id]["accuracy"] == 0.125
    assert found.keys() == {run.run_id for run in (first, *rest[1:])}
    assert "lacks model.skops" in said.lines[0]


@pytest.mark.parametrize("damage", ["flipped", "cut", "other version", "gone", "no folder"])
def test_an_index_that_is_damaged_or_can_not_be_written_costs_time_alone(store, reads, damage):
    first, path = summaries(store), index_path(store.backend, "runs")
    content = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(content.replace(b'"seed": 7', b'"seed": 9', 1))
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "other version":
        StampedCache(path, "0").save(())
        cache = StampedCache(path, "0")
        cache.put("x", "1 1 1 1", 1)
        cache.save("x")
    else:
        shutil.rmtree(store.cache_dir)
    if damage == "no folder":
        # Nothing can be written below a file, whoever writes.
        store.cache_dir.write_bytes(b"")
    reads.clear()
    for _ in range(2):
        assert summaries(open_store(store.path)) == first
    assert reads["metrics.json"] == N * (1 + (damage == "no folder"))


def test_an_index_is_never_believed_over_a_record(store):
    first, path = summaries(store), index_path(store.backend, "runs")
    keys, stamps, values = json.loads(path.read_bytes()[64:])
    values[0]["summary"]["accuracy"] = 2.0
    cache = open_index(store.backend, "runs")
    for key, stamp, value in zip(keys, stamps, values, strict=True):
        cache.put(key, stamp, value)
    cache.save(keys)
    (wrong,) = (run for run in list_runs(open_store(store.path)) if run.run_id == keys[0])
    assert wrong.summary()["accuracy"] == 2.0
    with pytest.raises(RunError, match="was fitted again since it was listed"):
        _ = wrong.record
    assert summaries(open_store(store.path)) == first


def test_a_selection_reads_each_set_once_and_then_only_its_own(store, reads):
    chosen = store.select("title 3")
    assert (reads["set.json"], reads["stats.json"]) == (N, N)
    described = chosen.describe()
    reads.clear()
    again = open_store(store.path)
    (found,) = select_all(again, "title 3", None, None, {})
    assert found.describe() == described
    assert reads["set.json"] == reads["stats.json"] == 1
    with pytest.raises(SelectionError, match=r"30 feature sets fit\.(.*\n)+  and 10 more"):
        again.select()
    again.check_names("title 4", layers="stats")
    (set_id,) = {set_id for set_id, _ in found.parts}
    assert again.get(set_id).set_id == set_id
    assert reads["set.json"] <= 1 + MAX_LISTED


def test_a_changed_set_is_read_again(store, reads):
    store.sets()
    (path,) = (store.path / "sets").glob("3-*")
    for change in ("set.json", "layers/stats.json"):
        write_json(path / change, read_json(path / change))
        reads.clear()
        open_store(store.path).sets()
        assert reads["set.json"] == 1
    # Under another name it is no layer's record.
    (path / "layers/stats.json").rename(path / "layers/other.json")
    with pytest.raises(SelectionError, match="No feature set fits --dataset title 3"):
        open_store(store.path).select("title 3")


def test_an_extraction_reads_no_set_but_its_own(store, reads, pixel_sample):
    time.sleep(2 * RECENT_S)
    settings = of_pixels(pixel_sample.images)
    assert extract(store=store.path, **settings).n_computed == 0
    reads.clear()
    assert extract(store=store.path, **settings).n_computed == 0
    assert reads["set.json"] == 1
