"""Records edited by hand, their digests made to fit: no traceback, nothing outside is touched."""

from __future__ import annotations

import copy
import json
import pickle
import random
import shutil
from contextlib import nullcontext
from pathlib import Path

import google_crc32c
import numcodecs
import numpy as np
import pytest
from makers import LAYER_JOURNAL, tree_bytes, write_images

from featstore.cli.main import _run
from featstore.errors import CorruptionError, FormatError
from featstore.fitting.fit import fit
from featstore.io.files import file_sha256, read_json, write_json
from featstore.store.feature_store import open_store
from featstore.store.format.layer_schema import LayerRecord
from featstore.store.format.run_schema import RunRecord
from featstore.store.format.set_schema import SetRecord

VALUES = (
    *(None, True, -1, 0, 1, 3.5, 10**30, "", "x", "../../outside", "/etc/passwd", "a\x00b"),
    *([], [1, 2], ["../outside"], {}, {"a": 1}, {"../../outside": "0" * 64}, "é" * 300),
)
"""What takes the place of a value."""

COMMANDS = (
    ("store", "ls"),
    ("store", "show", "SET"),
    ("store", "verify"),
    ("store", "export", "OUT.npz"),
    ("fit", "--clf", "ridge", "--n-jobs", "1"),
    ("report", "--out", "OUT.html", "--projection", "pca"),
    ("predict", "RUN", "IMAGES"),
    ("neighbors", "RUN", "IMAGES", "--out", "OUT.png"),
    ("extract", "--model", "pixelstats", "--dataset", "folder", "--root", "IMAGES"),
)

MASKED = {"sample_id": "x", "error": "cut short"}

N_QUICK, N_LONG = 4, 250


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with images, a store of one set and one run, and something outside of it."""
    folder = tmp_path_factory.mktemp("world")
    images = write_images(folder / "images", n=4, size=12)
    words = ["extract", "--model", "pixelstats", "--dataset", "folder", "--root", str(images)]
    assert _run([*words, "--store", str(folder / "store")]) == 0
    fit(open_store(folder / "store"), "logreg", n_jobs=1)
    (folder / "outside").write_text("not to be read or written")
    return folder


def leaves(value, path=()):
    """Return the paths of all values within a record."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += leaves(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value[:3]):
            found += leaves(inner, (*path, i))
    return found


def edited(record, rng):
    """Return a record with one value replaced, renamed or removed, and what was done."""
    record = copy.deepcopy(record)
    path = rng.choice(leaves(record))
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    if rng.random() < 0.15:
        del inner[path[-1]]
        return record, f"without {path}"
    if isinstance(inner, dict) and rng.random() < 0.1:
        inner["../../outside"] = inner.pop(path[-1])
        return record, f"renamed {path}"
    inner[path[-1]] = rng.choice(VALUES)
    return record, f"{path} = {inner[path[-1]]!r}"


def is_let_in(path, record):
    """Write a record over another; return whether it is not refused for what it says."""
    write_json(path, record)
    kind = {"set.json": SetRecord, "metrics.json": RunRecord}.get(path.name, LayerRecord)
    try:
        kind.read(path)
    except (CorruptionError, FormatError):
        return False
    return True


class Harm:
    """Copies of the world's store, and what commands do to them that they must not."""

    def __init__(self, world, tmp_path, capsys):
        self.world, self.capsys = world, capsys
        self.store = tmp_path / "store"
        self.places = {
            "SET": next((world / "store" / "sets").glob("*")).name,
            "RUN": next((world / "store" / "runs").glob("*")).name,
            "IMAGES": str(world / "images"),
        }
        self.before = tree_bytes(world)
        self.wrong = []

    def fresh(self):
        """Make a new copy of the store; return its records."""
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(self.world / "store", self.store)
        records = ("sets/*/set.json", "sets/*/layers/*.json", "runs/*/metrics.json")
        return [path for pattern in records for path in self.store.glob(pattern)]

    def run(self, command, what):
        """Run a command; note what goes wrong."""
        words = [self.places.get(word, word) for word in command]
        try:
            code = _run([*words, "--store", str(self.store)])
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:  # noqa: BLE001 - whatever comes up is told
            self.wrong.append(f"{what}: {command[:2]}: {error!r}"[:300])
            return
        out = self.capsys.readouterr()
        if code not in (0, 1) or "Traceback" in out.err + out.out:
            self.wrong.append(f"{what}: {command[:2]}: code {code}: {out.err[-200:]}")

    def look_outside(self, what):
        if tree_bytes(self.world) != self.before:
            self.wrong.append(f"{what}: something outside was changed")


@pytest.fixture
def harm(world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    return Harm(world, tmp_path, capsys)


def check(harm, seeds, tally):
    for seed in seeds:
        rng = random.Random(seed)
        path = rng.choice(harm.fresh())
        whole = read_json(path)
        record, what = edited(whole, rng)
        # Most edits are refused by what a record may hold; every other one gets past that.
        while not is_let_in(path, record) and seed % 2:
            record, what = edited(whole, rng)
        for command in rng.sample(COMMANDS, 3):
            harm.run(command, f"{seed} {path.name} {what}")
            tally.add("edited records", path.name, "no traceback")
        harm.look_outside(f"{seed} {path.name} {what}")
    assert harm.wrong == []


def test_edited_records_do_no_harm(harm, tally, blank_pictures):
    check(harm, range(N_QUICK), tally)


@pytest.mark.soak
def test_many_edited_records_do_no_harm(harm, tally):
    check(harm, range(1000, 1000 + N_LONG), tally)


@pytest.mark.soak
def test_any_value_that_is_gone_does_no_harm(harm, tally):
    n_refused = 0
    for at, name in enumerate(harm.fresh()):
        whole = read_json(name)
        for place in leaves(whole):
            path = harm.fresh()[at]
            record = copy.deepcopy(whole)
            inner = record
            for key in place[:-1]:
                inner = inner[key]
            del inner[place[-1]]
            commands = COMMANDS[:1]
            if is_let_in(path, record):
                commands = random.Random(str(place)).sample(COMMANDS, 3)
            n_refused += len(commands) == 1
            for command in commands:
                harm.run(command, f"{path.name} without {place}")
            tally.add("edited records", f"{path.name} without a value", "no traceback")
    harm.look_outside("all")
    assert harm.wrong == []
    assert n_refused > 50


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize(
    "layers",
    [
        {"stats": []},
        {"../../../outside-too": LAYER_JOURNAL | {"damaged": []}},
        {"stats": LAYER_JOURNAL | {"numerics": {}}},
        {"stats": LAYER_JOURNAL | {"masked": {"x": "cut short"}}},
        {"stats": LAYER_JOURNAL | {"spool": {"chunk": 0, "n_rows": 2**60, "crc32": 0}}},
    ],
)
def test_an_edited_journal_is_named_and_does_no_harm(harm, layers, marked, capsys):
    harm.fresh()
    (feature_set,) = open_store(harm.store).sets()
    if marked:
        feature_set.layer_path("stats").unlink()
    write_json(feature_set.journal_path / "journal.json", {"layers": layers})
    beside = sorted(harm.store.parent.iterdir())
    what = f"{layers} {marked}"
    for command in (*COMMANDS[:3], COMMANDS[-1]):
        harm.run(command, what)
    assert harm.wrong == []
    assert sorted(harm.store.parent.iterdir()) == beside
    harm.look_outside(what)
    with pytest.raises(SystemExit, match="1"):
        _run(["store", "verify", "--store", str(harm.store)])
    said = capsys.readouterr().out
    assert "journal.json holds what featstore does not write" in said
    assert "Delete the file" in said
    assert "store rm" not in said
    # The cure that is named cures.
    (feature_set.journal_path / "journal.json").unlink()
    words = [harm.places.get(word, word) for word in COMMANDS[-1]]
    assert _run([*words, "--store", str(harm.store)]) == 0
    assert _run(["store", "verify", "--store", str(harm.store)]) == 0


def test_beside_an_edited_journal_all_else_is_verified(harm, capsys):
    harm.fresh()
    (feature_set,) = open_store(harm.store).sets()
    write_json(feature_set.journal_path / "journal.json", {"layers": {"stats": []}})
    chunk = feature_set.group / "stats" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(SystemExit, match="1"):
        _run(["store", "verify", "--store", str(harm.store)])
    said = capsys.readouterr().out
    assert "journal.json holds what featstore does not write" in said
    assert "stats/c/0/0" in said


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("set.json", lambda r: r["dataset"].update(class_names=["one"])),
        ("layers/stats.json", lambda r: r["masked"].append(MASKED | {"row": 18})),
        ("layers/stats.json", lambda r: r["masked"].append(MASKED | {"row": 3.0})),
    ],
)
def test_rows_and_classes_that_are_not_there_end_in_plain_words(harm, file, edit, capsys):
    harm.fresh()
    path = open_store(harm.store).sets()[0].path / file
    record = read_json(path)
    edit(record)
    write_json(path, record)
    for command in (("store", "export", "OUT.csv"), COMMANDS[3], COMMANDS[4]):
        words = [harm.places.get(word, word) for word in command]
        assert _run([*words, "--store", str(harm.store)]) == 1
        assert path.name in capsys.readouterr().err


def test_a_journal_with_nodes_that_were_read_otherwise_loses_no_layer(harm):
    harm.fresh()
    (feature_set,) = open_store(harm.store).sets()
    feature_set.layer_path("stats").unlink()
    numerics = {"device": "cpu", "engine": "numpy", "batch_size": 64}
    for nodes in ({}, {"nodes": []}, {"nodes": ["nothing"]}):
        journal = LAYER_JOURNAL | {"numerics": numerics | nodes}
        write_json(feature_set.journal_path / "journal.json", {"layers": {"stats": journal}})
        harm.run(COMMANDS[-1], str(nodes))
    assert harm.wrong == []


class Touching:
    """An object whose pickle makes a file where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def rewrite(record, group, own, files):
    """Write files of an array, and name them in a record instead of the array's others."""
    for name, content in files.items():
        (group / own / name).write_bytes(content)
    content = read_json(record)
    kept = {k: v for k, v in content["files"].items() if not k.startswith(f"{own}/")}
    named = {f"{own}/{name}": file_sha256(group / own / name) for name in files}
    write_json(record, content | {"files": kept | named})


def test_no_code_of_a_store_s_metadata_is_run(harm, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    harm.fresh()
    (feature_set,) = open_store(harm.store).sets()
    ran = tmp_path / "ran"
    metadata = {
        **{"zarr_format": 2, "shape": [18], "chunks": [18], "dtype": "|O", "order": "C"},
        **{"fill_value": "", "filters": [{"id": "vlen-utf8"}]},
        "compressor": {"id": "pickle", "protocol": 5},
    }
    shutil.rmtree(feature_set.group / "sample_id")
    (feature_set.group / "sample_id").mkdir()
    files = {".zarray": json.dumps(metadata).encode(), "0": pickle.dumps(Touching(ran))}
    rewrite(feature_set.path / "set.json", feature_set.group, "sample_id", files)
    for command in (*COMMANDS[2:6], COMMANDS[8]):
        words = [harm.places.get(word, word) for word in command]
        with pytest.raises(SystemExit) if command[1] == "verify" else nullcontext():
            code = _run([*words, "--store", str(harm.store)])
        assert not ran.exists(), command
        said = capsys.readouterr()
        if command[0] != "report":
            assert "sample_id/zarr.json is missing" in said.out + said.err, (command, code)


def test_arrays_that_featstore_does_not_write_are_damage(harm, capsys):
    harm.fresh()
    (feature_set,) = open_store(harm.store).sets()
    for record, own in (("set.json", "label"), ("layers/stats.json", "stats")):
        files = {
            path.relative_to(feature_set.group / own).as_posix(): path.read_bytes()
            for path in (feature_set.group / own).rglob("*")
            if path.is_file()
        }
        content = json.loads(files["zarr.json"])
        content["shape"][0] = 10**13
        files["zarr.json"] = json.dumps(content).encode()
        rewrite(feature_set.path / record, feature_set.group, own, files)
    for command in COMMANDS[3:5]:
        words = [harm.places.get(word, word) for word in command]
        assert _run([*words, "--store", str(harm.store)]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "shape.0: " in said
    with pytest.raises(SystemExit, match="1"):
        _run(["store", "verify", "--store", str(harm.store)])
    said = capsys.readouterr().out
    for own in ("label", "stats"):
        assert f"{own}/zarr.json: " in said
    assert said.count("found 10000000000000") == 2
    assert f"featstore store rm {feature_set.set_id}" in said


def test_a_chunk_that_would_fill_the_memory_is_damage_and_computed_again(harm, capsys):
    harm.fresh()
    (feature_set,) = open_store(harm.store).sets()
    before = np.array(open_store(harm.store).select().memmap())
    shutil.rmtree(harm.store / "cache")
    bomb = numcodecs.Blosc("zstd", 9).encode(bytes(2**24))
    own = feature_set.group / "stats"
    content = {"zarr.json": (own / "zarr.json").read_bytes(), "c/0/0": bomb + b"\0" * 4}
    rewrite(feature_set.layer_path("stats"), feature_set.group, "stats", content)
    words = [harm.places.get(word, word) for word in COMMANDS[3]]
    assert _run([*words, "--store", str(harm.store)]) == 1
    assert "its header states 16,777,216 bytes; expected" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        _run(["store", "verify", "--store", str(harm.store)])
    assert "stats/c/0/0: chunk 0 of stats" in capsys.readouterr().out
    words = [harm.places.get(word, word) for word in COMMANDS[-1]]
    assert _run([*words, "--store", str(harm.store)]) == 0
    np.testing.assert_array_equal(open_store(harm.store).select().memmap(), before)


def test_a_chunk_of_ids_that_would_fill_the_memory_is_damage(harm, capsys):
    harm.fresh()
    (feature_set,) = open_store(harm.store).sets()
    own = feature_set.group / "sample_id"
    content = (2**32 - 1).to_bytes(4, "little") + bytes(4 * 18)
    chunk = numcodecs.Blosc("zstd", 1).encode(content)
    chunk += google_crc32c.value(chunk).to_bytes(4, "little")
    files = {"zarr.json": (own / "zarr.json").read_bytes(), "c/0": chunk}
    rewrite(feature_set.path / "set.json", feature_set.group, "sample_id", files)
    for command in (COMMANDS[2], ("store", "export", str(harm.store / "out.csv")), COMMANDS[4]):
        with pytest.raises(SystemExit) if command[1] == "verify" else nullcontext():
            assert _run([*command, "--store", str(harm.store)]) == 1
        said = capsys.readouterr()
        assert "it has 4,294,967,295 texts; expected 18" in said.out + said.err, command


@pytest.mark.parametrize("name", ["set.json", "stats.json", "metrics.json"])
def test_an_edit_that_no_digest_was_made_for_is_found(world, tmp_path, name, capsys):
    shutil.copytree(world / "store", tmp_path / "store")
    (path,) = (tmp_path / "store").rglob(name)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra": 1}))
    with pytest.raises(SystemExit) as caught:
        _run(["store", "verify", "--store", str(tmp_path / "store")])
    assert caught.value.code == 1
    assert name in capsys.readouterr().out
