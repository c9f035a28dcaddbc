"""Bits, files and metadata that are not as they were written: found, named, never believed."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
from children import SMALL, extract_words, group_bytes, resumed
from makers import tree_bytes

from featstore.cli.main import _run
from featstore.errors import FeatstoreError, RunError
from featstore.runs.opening import open_run
from featstore.store.feature_store import open_store
from featstore.store.format import matrix as matrices
from featstore.store.verification import verify


def flip(path, rng):
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def readings(path):
    """Return what each way of reading gives; ways that refuse are left out."""

    def selected():
        return open_store(path).select()

    def the_set():
        return open_store(path).get("pictures")

    ways = {
        "memmap": lambda: np.array(selected().memmap()),
        "numpy": lambda: selected().numpy(),
        "dask": lambda: selected().dask().compute(),
        "labels": lambda: selected().y,
        "splits": lambda: selected().splits,
        "sample_ids": lambda: selected().sample_ids,
        "first_rows": lambda: selected().first_rows,
        "valid": lambda: selected().valid,
        "class_names": lambda: selected().class_names,
        "description": lambda: json.dumps(selected().describe().to_dict()),
        "info": lambda: json.dumps(the_set().info.to_dict()),
        "records": lambda: json.dumps(the_set().layer("stats").to_dict()),
        "rows": lambda: the_set().matrix("stats").read(0, 36),
    }
    found = {}
    for name, way in ways.items():
        try:
            found[name] = way()
        except FeatstoreError:
            continue
    return found


def check_readings(found, intact):
    for name, value in found.items():
        np.testing.assert_array_equal(value, intact[name], err_msg=name)


@pytest.fixture(scope="module")
def original(children, pictures, tmp_path_factory):
    """Return a store with one set, two runs and a decoded matrix, that no test changes."""
    store = tmp_path_factory.mktemp("original") / "store"
    resumed(children.command(store, *extract_words(pictures)))
    for clf in ("ridge", "softmax"):
        resumed(children.command(store, "fit", "--clf", clf, "--n-jobs", "1"))
    return store


@pytest.fixture
def store(original, tmp_path):
    return shutil.copytree(original, tmp_path / "store")


@pytest.fixture(scope="module")
def intact(original):
    found = readings(original)
    assert len(found) == 13
    return found


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(matrices, "CHUNK_NBYTES", SMALL["store.format.matrix.CHUNK_NBYTES"])


def verified(store, capsys):
    """Return the exit code of ``featstore store verify`` and what it says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        _run(["store", "verify", "--store", str(store)])
    return ended.value.code, capsys.readouterr().out


def files_of(feature_set, *, alike=True):
    """Return the files of a set; without `alike` the first and the last chunk alone of 12."""
    files = [path for path in sorted(feature_set.path.rglob("*")) if path.is_file()]
    chunks = [path for path in files if path.match("stats/c/*/0")]
    assert len(chunks) == 12
    passed_over = [] if alike else chunks[1:-1]
    return [path for path in files if path not in passed_over]


@pytest.mark.parametrize("n", [0, pytest.param(400, marks=pytest.mark.soak)])
def test_a_flipped_bit_in_any_file_of_a_set_is_found_and_never_read(
    n, store, intact, tally, capsys
):
    rng = random.Random(n)
    (feature_set,) = open_store(store).sets()
    files = files_of(feature_set, alike=n > 0)
    # Every file first, and then any.
    for path in files + rng.choices(files, k=max(0, n - len(files))):
        content = path.read_bytes()
        flip(path, rng)
        # Half of the times from the chunks, half from what was decoded of them before.
        if rng.random() < 0.5:
            shutil.rmtree(store / "cache", ignore_errors=True)
        check_readings(readings(store), intact)
        name = path.relative_to(feature_set.path).as_posix()
        found = verify(replace(feature_set))
        assert [damage.file for damage in found] == [name], found
        path.write_bytes(content)
        kind = "metadata" if name.endswith("zarr.json") else name.split("/")[0]
        kind = "chunks" if kind == "features.zarr" and "stats" in name else kind
        kind = {"features.zarr": "labels and ids", "layers": "records", "set.json": "records"}.get(
            kind, kind
        )
        tally.add("flipped bits of sets", kind, "all found, named and never read")
    assert verify(replace(feature_set)) == []


@pytest.mark.parametrize(
    ("what", "alike"),
    [
        ("gone", False),
        ("cut short", False),
        *(
            pytest.param(what, True, marks=pytest.mark.soak)
            for what in ("gone", "cut short", "empty")
        ),
    ],
)
def test_every_file_that_is_gone_or_cut_short_is_found_and_never_read(
    what, alike, store, intact, capsys, tally
):
    (feature_set,) = open_store(store).sets()
    for path in files_of(feature_set, alike=alike):
        # The command marks what is damaged.
        shutil.rmtree(feature_set.path)
        shutil.copytree(store.parent / "kept", feature_set.path)
        content = path.read_bytes()
        path.unlink()
        if what != "gone":
            path.write_bytes(content[: len(content) // 2 if what == "cut short" else 0])
        shutil.rmtree(store / "cache", ignore_errors=True)
        check_readings(readings(store), intact)
        code, out = verified(store, capsys)
        name = path.relative_to(feature_set.path).as_posix()
        assert code == 1, name
        assert name in out
        tally.add("files of sets", what, "all found, named and never read")


@pytest.fixture(autouse=True)
def _kept(request, tmp_path):
    if "store" in request.fixturenames:
        (feature_set,) = open_store(request.getfixturevalue("store")).sets()
        shutil.copytree(feature_set.path, tmp_path / "kept")


@pytest.mark.parametrize("n", [2, pytest.param(30, marks=pytest.mark.soak)])
def test_only_the_damaged_chunk_is_computed_again(n, store, pictures, capsys, small_chunks, tally):
    rng = random.Random(n)
    whole = group_bytes(store)
    words = [*extract_words(pictures), "--store", str(store)]
    (feature_set,) = open_store(store).sets()
    for _ in range(n):
        chunk = rng.randrange(12)
        flip(feature_set.matrix("stats").chunk_path(chunk), rng)
        code, out = verified(store, capsys)
        assert code == 1
        assert f"chunk {chunk} of stats (rows {3 * chunk} to {3 * chunk + 2})" in out
        assert "Repair with: featstore extract --model pixelstats" in out
        assert _run([*words, "--json"]) == 0
        # Three rows lie in one or two batches of four.
        assert json.loads(capsys.readouterr().out)["n_computed"] in (4, 8)
        assert group_bytes(store) == whole
        tally.add("chunks repaired", "one bit", "each alone, to the same bytes")


EDITS = {
    "shape": lambda m: m | {"shape": [30, 29]},
    "fewer columns": lambda m: m | {"shape": [36, 28]},
    "fill value": lambda m: m | {"fill_value": 0.0},
    "dtype": lambda m: m | {"data_type": "int32", "fill_value": 0},
    "no checksum": lambda m: m | {"codecs": m["codecs"][:-1]},
    "chunks": lambda m: (
        m | {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 29]}}}
    ),
    "attributes": lambda m: m | {"attributes": {}},
    "not json": lambda m: "{",
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_metadata_is_refused_and_made_again_without_computing(
    edit, store, intact, pictures, capsys, small_chunks
):
    whole = group_bytes(store)
    (feature_set,) = open_store(store).sets()
    path = feature_set.group / "stats" / "zarr.json"
    edited = EDITS[edit](json.loads(path.read_text()))
    path.write_text(edited if isinstance(edited, str) else json.dumps(edited))
    shutil.rmtree(store / "cache")
    found = readings(store)
    assert not {"memmap", "numpy", "dask", "rows"} & set(found)
    check_readings(found, intact)
    code, out = verified(store, capsys)
    assert code == 1
    assert "features.zarr/stats/zarr.json: its bytes are not those that were written" in out
    assert "Repair with: featstore extract" in out
    assert _run([*extract_words(pictures), "--store", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_computed"] == 0
    assert group_bytes(store) == whole


@pytest.mark.parametrize(
    "edit",
    [
        *("shape", "not json"),
        *(pytest.param(edit, marks=pytest.mark.soak) for edit in ("chunks", "no checksum")),
    ],
)
def test_edited_metadata_of_an_unfinished_layer_is_made_again(
    edit, children, pictures, unbroken, tmp_path
):
    store, words = tmp_path / "store", extract_words(pictures)
    killed = children.command(store, *words, fault={"at": 190})
    assert killed.code == -9
    (feature_set,) = open_store(store).sets()
    n_durable = len(feature_set.journal()["stats"].chunks)
    assert 0 < n_durable < 12
    path = feature_set.group / "stats" / "zarr.json"
    edited = EDITS[edit](json.loads(path.read_text()))
    path.write_text(edited if isinstance(edited, str) else json.dumps(edited))
    again = children.command(store, *words, "--json")
    # What was durable still is.
    assert again.result["n_computed"] < 36
    assert group_bytes(store) == unbroken


def test_labels_that_are_damaged_are_named_with_the_cure(store, pictures, capsys):
    (feature_set,) = open_store(store).sets()
    flip(feature_set.group / "label" / "c" / "0", random.Random(0))
    code, out = verified(store, capsys)
    assert code == 1
    assert "features.zarr/label/c/0: its bytes are not those that were written" in out
    assert f"featstore store rm {feature_set.set_id} --store {store}" in out
    assert _run(["store", "rm", feature_set.set_id, "--yes", "--store", str(store)]) == 0
    assert _run([*extract_words(pictures), "--store", str(store)]) == 0
    assert verify(open_store(store).sets()[0]) == []


@pytest.mark.parametrize("n", [3, pytest.param(100, marks=pytest.mark.soak)])
def test_a_flipped_bit_in_what_was_decoded_is_never_read(n, store, intact, tally):
    rng = random.Random(n)
    open_store(store).select().memmap()
    (matrix,) = (store / "cache").glob("*.npy")
    for i in range(n):
        path = matrix if i % 3 else matrix.with_suffix(".json")
        flip(path, rng)
        check_readings(readings(store), intact)
        np.testing.assert_array_equal(open_store(store).select().memmap(), intact["memmap"])
        tally.add("flipped bits of the cache", path.suffix, "all decoded anew")


def test_what_was_decoded_and_is_cut_short_or_foreign_is_never_read(store, intact):
    (matrix,) = (store / "cache").glob("*.npy")
    content = matrix.read_bytes()
    for wrong in (content[:-4], b"", content + b"x", b"x" * len(content)):
        matrix.write_bytes(wrong)
        np.testing.assert_array_equal(open_store(store).select().memmap(), intact["memmap"])
        assert matrix.read_bytes() == content


@pytest.mark.parametrize("n", [3, pytest.param(60, marks=pytest.mark.soak)])
def test_a_flipped_bit_in_the_list_of_hashes_never_makes_another_dataset(
    n, store, children, pictures, tally
):
    rng = random.Random(n)
    words = [*extract_words(pictures), "--json"]
    for _ in range(n):
        for path in (store / "cache" / "fingerprints").glob("*.json"):
            flip(path, rng)
        assert children.command(store, *words).result["n_computed"] == 0
        assert len(open_store(store).sets()) == 1
        tally.add("flipped bits of the cache", "hashes", "all decoded anew")


@pytest.mark.parametrize("n", [0, pytest.param(200, marks=pytest.mark.soak)])
def test_a_flipped_bit_in_any_file_of_a_run_is_found_and_never_read(n, store, capsys, tally):
    rng = random.Random(n)
    runs = {}
    for path in sorted((store / "runs").iterdir()):
        run = open_run(path)
        runs[path] = json.dumps(run.record.to_dict()), run.predictions, run.curves
    # Pictures are drawn from the other files, and again where they are damaged.
    files = [path for path in sorted((store / "runs").rglob("*.*")) if path.suffix != ".png"]
    assert {"curves.json", "model.skops", "predictions.csv"} <= {path.name for path in files}
    for path in files + rng.choices(files, k=max(0, n - len(files))):
        content = path.read_bytes()
        flip(path, rng)
        check_run(path, runs[path.parent])
        code, out = verified(store, capsys)
        assert code == 1
        assert f"{path.parent.name}: {path.name}: " in out
        path.write_bytes(content)
        tally.add("flipped bits of runs", path.name, "all found, named and never read")


def check_run(path, intact):
    """Check that nothing is read of a run's damaged file."""
    if path.name == "metrics.json":
        with pytest.raises(RunError, match="damaged"):
            open_run(path.parent)
        return
    run = open_run(path.parent)
    record, predictions, curves = intact
    assert json.dumps(run.record.to_dict()) == record
    for name, attribute, expected in (
        ("predictions.csv", "predictions", predictions),
        ("curves.json", "curves", curves),
    ):
        if path.name == name:
            with pytest.raises(RunError, match="not what fit wrote"):
                getattr(run, attribute)
        elif attribute == "curves":
            assert run.curves == expected
        else:
            assert all((run.predictions[k] == v).all() for k, v in expected.items())
    if path.name == "model.skops":
        with pytest.raises(RunError, match="not what fit wrote"):
            _ = run.model


def test_an_intact_store_is_called_intact(store, capsys):
    def kept():
        # The index of records may be written anew at any time.
        return {k: v for k, v in tree_bytes(store).items() if not k.startswith("cache/index/")}

    before = kept()
    assert _run(["store", "verify", "--store", str(store)]) == 0
    assert "1 feature set and 2 runs are intact." in capsys.readouterr().out
    assert kept() == before
