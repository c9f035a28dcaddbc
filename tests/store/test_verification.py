from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from makers import LAYER_JOURNAL, of_pixels, tiny, tree_bytes

from featstore.errors import CorruptionError, IncompleteError
from featstore.extraction.extract import extract
from featstore.io.files import read_json, write_json
from featstore.store import verification
from featstore.store.backend import Backend
from featstore.store.feature_set import FeatureSet
from featstore.store.feature_store import open_store
from featstore.store.format import matrix
from featstore.store.verification import schedule_repair, verify


@pytest.fixture
def store(shared_pixels, tmp_path, five_rows):
    """Return a store of pixel statistics, 27 rows in chunks of five."""
    return open_store(shutil.copytree(shared_pixels, tmp_path / "store"))


def extract_again(store, images):
    """Extract the same again."""
    return extract(store=store, **of_pixels(images, batch_size=4))


def flip(path, position=-1, bit=0):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_an_intact_set_has_no_damage(store):
    assert verify(store.sets()[0]) == []


def test_a_flipped_bit_in_any_file_is_found_and_named(store):
    (feature_set,) = store.sets()
    files = [path for path in sorted(feature_set.path.rglob("*")) if path.is_file()]
    assert len(files) > 12
    for i, path in enumerate(files):
        content = path.read_bytes()
        flip(path, i * 7919 % len(content), i % 8)
        found = verify(replace(feature_set))
        assert found, path
        assert str(path.relative_to(feature_set.path)) in [damage.file for damage in found]
        path.write_bytes(content)
    assert verify(replace(feature_set)) == []


def test_a_missing_chunk_is_found_by_its_rows(store):
    (feature_set,) = store.sets()
    feature_set.matrix("stats").chunk_path(2).unlink()
    (damage,) = verify(feature_set)
    assert (damage.layer, damage.chunk) == ("stats", 2)
    assert "rows 10 to 14" in damage.problem
    assert "missing" in damage.problem


def test_a_stray_file_is_named(store):
    (feature_set,) = store.sets()
    (feature_set.group / "stats" / "c" / "99").mkdir()
    (feature_set.group / "stats" / "c" / "99" / "0").write_bytes(b"x")
    (damage,) = verify(feature_set)
    assert "did not write" in damage.problem


def test_extract_repairs_only_the_damaged_chunk(store, shared_images, monkeypatch):
    (feature_set,) = store.sets()
    intact = tree_bytes(feature_set.group)
    flip(feature_set.matrix("stats").chunk_path(2), 30)
    with pytest.raises(CorruptionError, match="Chunk 2"):
        store.select().memmap()
    (damage,) = schedule_repair(feature_set, verify(feature_set))
    assert (damage.layer, damage.chunk) == ("stats", 2)
    with pytest.raises(IncompleteError, match=r"damaged \(chunks 2\).*--model pixelstats"):
        store.select()
    written = []
    original = matrix.Matrix.write_chunk
    monkeypatch.setattr(
        matrix.Matrix, "write_chunk", lambda m, i, b: written.append(i) or original(m, i, b)
    )
    result = extract_again(store, shared_images)
    # Rows 10 to 14 lie in the batches that begin at 8 and 12.
    assert result.n_computed == 8
    assert written == [2]
    assert tree_bytes(feature_set.group) == intact
    assert verify(feature_set) == []


def test_a_missing_chunk_is_computed_again_without_an_audit(store, shared_images):
    (feature_set,) = store.sets()
    intact = tree_bytes(feature_set.group)
    feature_set.matrix("stats").chunk_path(2).unlink()
    assert extract_again(store, shared_images).n_computed == 8
    assert tree_bytes(feature_set.group) == intact


def test_damage_beside_an_unfinished_layer_is_repaired_with_it(
    shared_network, shared_images, tmp_path
):
    store = open_store(shutil.copytree(shared_network, tmp_path / "store"))
    (feature_set,) = store.sets()
    intact = tree_bytes(feature_set.group)
    feature_set.matrix("conv1").chunk_path(0).unlink()
    schedule_repair(feature_set, verify(feature_set))
    feature_set.matrix("fc").chunk_path(4).unlink()
    schedule_repair(feature_set, verify(feature_set))
    assert feature_set.unfinished() == ["conv1", "fc"]
    with pytest.raises(IncompleteError, match=r"damaged \(chunks 4\).*--layers conv1,fc"):
        store.select(layers="fc")
    extract(store=store, **tiny(shared_images, layers="conv1,fc"))
    assert tree_bytes(feature_set.group) == intact


def test_masks_survive_a_repair(shared_images, tmp_path, five_rows):
    images = shutil.copytree(shared_images, tmp_path / "images")
    next(images.rglob("sand01.png")).write_bytes(b"nothing")
    store = open_store(tmp_path / "masked")
    settings = of_pixels(images, batch_size=4, on_error="mask")
    extract(store=store, **settings)
    before = store.select().valid.tolist()
    (feature_set,) = store.sets()
    feature_set.matrix("stats").chunk_path(0).unlink()
    schedule_repair(feature_set, verify(feature_set))
    extract(store=store, **settings)
    assert store.select().valid.tolist() == before
    assert before.count(False) == 1


MOMENTS = [
    (Backend, "problems"),
    (verification, "_lost_layers"),
    (verification, "_strays"),
]


def at_once(monkeypatch, module, name, act):
    """Let another process act, once, before a function of a module is called."""
    original, acts = getattr(module, name), [act]

    def call(*args, **options):
        if acts:
            acts.pop()()
        return original(*args, **options)

    monkeypatch.setattr(module, name, call)


@pytest.mark.parametrize(("owner", "moment"), MOMENTS)
def test_a_layer_that_is_finished_meanwhile_is_no_damage(store, monkeypatch, owner, moment):
    (feature_set,) = store.sets()
    path = feature_set.layer_path("stats")
    record = read_json(path)
    journal = {"layers": {"stats": LAYER_JOURNAL}}
    path.unlink()
    write_json(feature_set.journal_path / "journal.json", journal)

    def finish():
        write_json(path, record)
        shutil.rmtree(feature_set.journal_path)

    at_once(monkeypatch, owner, moment, finish)
    assert verify(feature_set) == []
    assert path.is_file()


@pytest.mark.parametrize(
    ("owner", "moment"), [(Backend, "problems"), (verification, "_still_wrong")]
)
def test_a_chunk_that_is_repaired_meanwhile_is_no_damage(store, monkeypatch, owner, moment):
    (feature_set,) = store.sets()
    path = feature_set.matrix("stats").chunk_path(2)
    intact = path.read_bytes()
    flip(path)
    at_once(monkeypatch, owner, moment, lambda: path.write_bytes(intact))
    assert verify(feature_set) == []


def test_a_chunk_that_is_repaired_before_the_lock_is_had_is_not_marked(store):
    (feature_set,) = store.sets()
    paths = [feature_set.matrix("stats").chunk_path(index) for index in (2, 4)]
    intact = paths[0].read_bytes()
    for path in paths:
        flip(path)
    damages = verify(feature_set)
    paths[0].write_bytes(intact)
    assert [damage.chunk for damage in schedule_repair(feature_set, damages)] == [4]
    assert feature_set.journal()["stats"].damaged == (4,)


def test_damage_that_another_verify_marked_is_reported_and_marked_once(store, shared_images):
    (feature_set,) = store.sets()
    flip(feature_set.matrix("stats").chunk_path(2), 30)
    damages = verify(feature_set)
    assert schedule_repair(feature_set, damages) == damages
    assert schedule_repair(feature_set, damages) == damages
    extract_again(store, shared_images)
    assert schedule_repair(feature_set, damages) == []
    assert feature_set.unfinished() == []


@pytest.mark.parametrize(
    ("owner", "moment"),
    [(FeatureSet, "layer"), (Backend, "problems"), (verification, "_strays")],
)
def test_a_set_that_is_removed_meanwhile_is_no_damage(store, monkeypatch, owner, moment):
    (feature_set,) = store.sets()
    at_once(monkeypatch, owner, moment, lambda: store.remove(feature_set))
    assert verify(feature_set) == []
