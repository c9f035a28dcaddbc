import os
import shutil
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from featstore.errors import StoreError
from featstore.io.locks import temporary_folder
from featstore.runs.opening import list_runs, open_run
from featstore.runs.writer import make_run_id, write_run


def written(store, run, **more):
    model = run.model
    columns = {"sample_id": np.array(["a"])}
    record = {k: v for k, v in run.record.to_dict().items() if k not in ("format", "files")} | more
    return lambda **how: write_run(store, run.run_id, record, model, columns, None, **how)


def test_the_first_of_two_writers_stays_unless_the_second_replaces_it(run, store):
    write = written(store, run, created="later")
    assert write().record.created == run.record.created
    assert write(replace=True).record.created == "later"
    assert [path.name for path in store.runs_dir.iterdir()] == [run.run_id]


def test_a_run_that_is_replaced_is_always_there(run, store):
    write, seen = written(store, run), []
    writer = threading.Thread(target=lambda: [write(replace=True) for _ in range(30)])
    writer.start()
    while writer.is_alive():
        seen.append(open_run(run.path).run_id)
    writer.join()
    assert set(seen) == {run.run_id}
    assert len(seen) > 30
    assert [path.name for path in store.runs_dir.iterdir()] == [run.run_id]


def test_a_damaged_run_gives_way(run, store):
    (run.path / "metrics.json").write_text("{}")
    assert written(store, run)().record.created == run.record.created


def test_leftovers_of_killed_writers_are_swept_and_those_of_living_ones_are_not(run, store):
    dead, alive = store.runs_dir / ".new-x-00000001", store.runs_dir / ".new-x-00000002"
    dead.mkdir()
    # Whatever the clocks say.
    os.utime(dead, (time.time() + 7200,) * 2)
    with temporary_folder(alive):
        os.utime(alive, (time.time() - 7200,) * 2)
        written(store, run)()
        assert not dead.exists()
        assert alive.exists()
        assert len(list_runs(store)) == 1
    assert [path.name for path in store.runs_dir.iterdir()] == [run.run_id]


def test_a_folder_that_can_not_be_written_is_named(run, store):
    write = written(store, run)
    shutil.rmtree(store.runs_dir)
    store.runs_dir.write_text("in the way")
    with pytest.raises(StoreError, match=r"runs can't be written"):
        write()


def test_run_ids_are_safe_and_bounded():
    selection = SimpleNamespace(title="../my images\n", model="a+b" * 40, layers=["x:y/z"] * 9)
    name = make_run_id(selection, "linear-svm", "0123456789abcdef")
    assert name.startswith("my-images-a+ba+b")
    assert name.endswith("-linear-svm-01234567")
    assert "/" not in name
    assert len(name) < 130
    empty = make_run_id(SimpleNamespace(title="☃", model="m", layers=["l"]), "c", "0" * 64)
    assert empty == "x-m-l-c-00000000"
