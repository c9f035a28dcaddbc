from __future__ import annotations

import shutil

import pytest
from conftest import store_in
from makers import LAYER_JOURNAL

from featstore.errors import CorruptionError
from featstore.fitting.fit import fit
from featstore.io.files import read_json, write_json
from featstore.runs.opening import list_runs
from featstore.store.feature_store import open_store
from featstore.store.format.layer_schema import Journal, LayerRecord
from featstore.store.format.run_schema import RunRecord
from featstore.store.format.set_schema import SetRecord

KINDS = {"SET": SetRecord, "LAYER": LayerRecord, "JOURNAL": Journal, "RUN": RunRecord}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filled")
    fit(store_in(folder), "logreg", n_jobs=1)
    return folder


@pytest.fixture
def records(filled, tmp_path):
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    store = open_store(tmp_path / "store")
    (run,) = list_runs(store)
    (feature_set,) = store.sets()
    journal = {"fc8": LAYER_JOURNAL | {"chunks": {"0": "0" * 64}, "masked": {"3": "cut short"}}}
    write_json(feature_set.journal_path / "journal.json", {"layers": journal})
    return {
        "SET": feature_set.path / "set.json",
        "LAYER": feature_set.layer_path("fc1000"),
        "JOURNAL": feature_set.journal_path / "journal.json",
        "RUN": run.path / "metrics.json",
    }


@pytest.mark.parametrize("kind", ["SET", "LAYER", "JOURNAL", "RUN"])
def test_what_featstore_writes_is_read(records, kind):
    record = KINDS[kind].read(records[kind])
    assert record.to_dict() == read_json(records[kind])
    record.write(records[kind])
    assert KINDS[kind].read(records[kind]) == record


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        ("SET", "facets.limit", "all"),
        ("SET", "facets.dtype", "object"),
        ("SET", "dataset.n_samples", -1),
        ("SET", "dataset.class_names", None),
        ("SET", "command", "a\x00b"),
        ("SET", "files", {"../../outside": "0" * 64}),
        ("SET", "files", {"/etc/passwd": "0" * 64}),
        ("SET", "files", {"label/c/0": "no hash"}),
        ("LAYER", "n_features", 0),
        ("LAYER", "n_features", 20.0),
        ("LAYER", "masked", [{"row": 3.0, "sample_id": "a", "error": "cut short"}]),
        ("LAYER", "masked", [{"row": -1, "sample_id": "a", "error": "cut short"}]),
        ("LAYER", "names", "fc1000"),
        ("LAYER", "numerics.batch_size", 1e300),
        ("LAYER", "files", {"a/../../b": "0" * 64}),
        ("JOURNAL", "layers", []),
        ("JOURNAL", "layers.fc8", []),
        ("JOURNAL", "layers.fc8.chunks", {"../../0": "0" * 64}),
        ("JOURNAL", "layers.fc8.chunks", {"0": "no hash"}),
        ("JOURNAL", "layers.fc8.spool", {"chunk": 0, "n_rows": 2**60, "crc32": 0}),
        ("JOURNAL", "layers.fc8.metadata", None),
        ("JOURNAL", "layers.fc8.numerics", {}),
        ("JOURNAL", "layers.fc8.masked", {"-1": "cut short"}),
        ("JOURNAL", "layers.fc8.damaged", ["0"]),
        ("RUN", "selection.features.0.set_id", "../outside"),
        ("RUN", "selection.features.0.layer", "/etc"),
        ("RUN", "metrics.test.accuracy", 17),
        ("RUN", "rows.test_split", "none"),
        ("RUN", "class_names", []),
        ("RUN", "files", {"..": "0" * 64}),
        ("RUN", "rows.n_train_of_class", [1]),
        ("RUN", "metrics.test.bootstrap.intervals", {"kappa": None}),
        ("RUN", "metrics.test.per_class", []),
        ("RUN", "metrics.test.confusion", []),
        ("RUN", "metrics.test.confusion.0", [1]),
        ("RUN", "metrics.test.confusion.0", [1, -1, 0, 0]),
        ("RUN", "metrics.test.confusion.0", [1, "1", 0, 0]),
    ],
)
def test_values_that_featstore_does_not_write_are_named_and_refused(records, kind, place, value):
    record = read_json(records[kind])
    *path, last = place.split(".")
    inner = record
    for key in path:
        inner = inner[int(key) if key.isdecimal() else key]
    inner[int(last) if last.isdecimal() else last] = value
    write_json(records[kind], record)
    with pytest.raises(CorruptionError, match="holds what featstore does not write") as caught:
        KINDS[kind].read(records[kind])
    assert place in str(caught.value)


@pytest.mark.parametrize(
    "layer", ["../../outside", "/etc", "a/b", "..", ".new", "", "a\x00b", "zarr.json", "é" * 300]
)
def test_a_journal_with_an_unsafe_layer_name_is_refused(records, layer):
    write_json(records["JOURNAL"], {"layers": {layer: LAYER_JOURNAL}})
    with pytest.raises(CorruptionError, match=r"journal\.json holds.*Delete the file: extract"):
        KINDS["JOURNAL"].read(records["JOURNAL"])


def test_a_journal_names_layers_as_networks_do(records):
    write_json(records["JOURNAL"], {"layers": {"layer4.0.conv1@max": LAYER_JOURNAL}})
    assert list(Journal.read(records["JOURNAL"]).layers) == ["layer4.0.conv1@max"]


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        ("LAYER", "masked", [{"row": 320, "sample_id": "a", "error": "cut short"}]),
        ("JOURNAL", "layers.fc8.masked", {"3": "cut short", "320": "cut short"}),
    ],
)
def test_masked_rows_beyond_the_set_are_named(records, kind, place, value):
    layers = {"fc8": LAYER_JOURNAL | {"masked": value}}
    record = {"layers": layers} if kind == "JOURNAL" else read_json(records[kind])
    write_json(records[kind], record if kind == "JOURNAL" else record | {"masked": value})
    assert KINDS[kind].read(records[kind], 321)
    with pytest.raises(CorruptionError, match=f"{place}: row 320 of 320 rows"):
        KINDS[kind].read(records[kind], 320)


NEEDED = {
    "SET": ("facets", "key", "dataset", "backbone", "preprocess", "command", "created", "files"),
    "LAYER": (
        *("masked", "completed", "command", "node", "names", "default", "n_features", "files"),
        *("request", "shape", "n_computed", "duration_s", "device"),
    ),
    "RUN": ("key", "fit", "params", "selection", "class_names", "rows", "metrics", "files"),
}


@pytest.mark.parametrize(("kind", "name"), [(k, name) for k in NEEDED for name in NEEDED[k]])
def test_a_missing_field_is_named(records, kind, name):
    whole = read_json(records[kind])
    write_json(records[kind], {k: v for k, v in whole.items() if k != name})
    with pytest.raises(CorruptionError, match=f"{name}: Field required"):
        KINDS[kind].read(records[kind])


def test_lengths_that_do_not_fit_the_classes_are_refused(records):
    write_json(records["RUN"], read_json(records["RUN"]) | {"class_names": ["one"]})
    with pytest.raises(CorruptionError, match=r"n_train_of_class: 4 values of 1 classes"):
        KINDS["RUN"].read(records["RUN"])


def test_files_of_another_layer_are_named(records):
    whole = read_json(records["LAYER"])
    for files, wrong in (
        ({}, "files: fc1000/zarr.json is missing"),
        (whole["files"] | {"fc1000/c/x/0": "0" * 64}, "fc1000/c/x/0 is not a file of fc1000"),
    ):
        write_json(records["LAYER"], whole | {"files": files})
        with pytest.raises(CorruptionError, match=wrong):
            KINDS["LAYER"].read(records["LAYER"])
