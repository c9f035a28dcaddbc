"""Records edited by hand, their digests made to fit: no traceback, nothing outside is touched."""

from __future__ import annotations

import copy
import json
import random
import shutil

import pytest
from makers import tree_bytes, write_images

from featstore.cli.main import _run
from featstore.files import read_json, write_json
from featstore.fitting import fit
from featstore.store import open_store

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

N_QUICK, N_LONG = 15, 250


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


def check(world, tmp_path, seeds, tally, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wrong = []
    for seed in seeds:
        rng = random.Random(seed)
        store = tmp_path / "store"
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(world / "store", store)
        records = [
            *store.glob("sets/*/set.json"),
            *store.glob("sets/*/layers/*.json"),
            *store.glob("runs/*/metrics.json"),
        ]
        path = rng.choice(records)
        record, what = edited(read_json(path), rng)
        write_json(path, record)
        before = tree_bytes(world)
        (set_id,) = [p.name for p in store.glob("sets/*")]
        (run_id,) = [p.name for p in store.glob("runs/*")]
        places = {"SET": set_id, "RUN": run_id, "IMAGES": str(world / "images")}
        for command in rng.sample(COMMANDS, 3):
            words = [places.get(word, word) for word in command]
            try:
                code = _run([*words, "--store", str(store)])
            except SystemExit as stop:
                code = stop.code
            except BaseException as error:  # noqa: BLE001 - whatever comes up is told
                wrong.append(f"{seed} {path.name} {what}: {command[:2]}: {error!r}"[:300])
                continue
            out = capsys.readouterr()
            if code not in (0, 1):
                wrong.append(f"{seed} {path.name} {what}: {command[:2]}: code {code}")
            if "Traceback" in out.err + out.out:
                wrong.append(f"{seed} {path.name} {what}: {command[:2]}: a traceback")
            tally.add("edited records", path.name, "no traceback")
        if tree_bytes(world) != before:
            wrong.append(f"{seed} {path.name} {what}: something outside was changed")
    assert wrong == []


def test_edited_records_do_no_harm(world, tmp_path, tally, monkeypatch, capsys):
    check(world, tmp_path, range(N_QUICK), tally, monkeypatch, capsys)


@pytest.mark.soak
def test_many_edited_records_do_no_harm(world, tmp_path, tally, monkeypatch, capsys):
    check(world, tmp_path, range(1000, 1000 + N_LONG), tally, monkeypatch, capsys)


@pytest.mark.parametrize("name", ["set.json", "stats.json", "metrics.json"])
def test_an_edit_that_no_digest_was_made_for_is_found(world, tmp_path, name, capsys):
    shutil.copytree(world / "store", tmp_path / "store")
    (path,) = (tmp_path / "store").rglob(name)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra": 1}))
    with pytest.raises(SystemExit) as caught:
        _run(["store", "verify", "--store", str(tmp_path / "store")])
    assert caught.value.code == 1
    assert name in capsys.readouterr().out
