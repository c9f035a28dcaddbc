"""Images with several classes, or a number, from a table of labels to predictions and maps."""

import csv
import io
import json

import numpy as np
import pytest
import rasterio
from makers import write_scene
from PIL import Image

import featstore
from featstore.cli.main import _run
from featstore.errors import ConfigError
from featstore.extraction.extract import extract
from featstore.fitting.fit import fit
from featstore.inference.maps.result import NumberMap
from featstore.inference.predictions import LabelsPrediction, NumberPrediction, write_csv
from featstore.report.misclassified import find_mistakes
from featstore.report.write import write_report
from featstore.runs.compare import compare, compare_all
from featstore.runs.find import find_run_folder
from featstore.store.exports import export
from featstore.store.feature_store import open_store

pytestmark = pytest.mark.usefixtures("blank_pictures")

COLORS = {"forest": (30, 90, 40), "sand": (200, 180, 120), "water": (20, 60, 150)}
N, SIDE = 60, 24


class World:
    """Images of one to three classes, and of some brightness; a store and a run for either."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        self.images, self.store = folder / "tiles", open_store(folder / "store")
        self.images.mkdir()
        tags, shades = [["path,label,split"], ["path,label,split"]]
        for i in range(N):
            own = [name for name in COLORS if rng.random() < 0.5] or ["sand"]
            pixels = np.full((SIDE, SIDE, 3), 128.0)
            for name in own:
                y, x = rng.integers(0, SIDE // 2, 2)
                pixels[y : y + SIDE // 2, x : x + SIDE // 2] = COLORS[name]
            shade = rng.random()
            pixels = (pixels * (0.3 + 0.7 * shade) + rng.normal(0, 8, pixels.shape)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(self.images / f"t{i:02d}.png")
            split = "train" if i < 40 else "test"
            tags.append(f"t{i:02d}.png,{';'.join(own)},{split}")
            shades.append(f"t{i:02d}.png,{100 * shade:.2f},{split}")
        for name, lines in (("tags", tags), ("shade", shades)):
            (self.images / f"{name}.csv").write_text("\n".join(lines) + "\n")
            task = "regression" if name == "shade" else None
            extract(
                "pixelstats",
                "table",
                root=str(self.images / f"{name}.csv"),
                store=self.store,
                **({"task": task} if task else {}),
            )
        self.tags = fit(self.store, ["ridge", "logreg"], dataset="tags", n_jobs=1)
        self.shades = fit(self.store, ["ridge", "knn"], dataset="shade", n_jobs=1)
        self.paths = [self.images / f"t{i:02d}.png" for i in range(40, N)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from conftest import blank_figures

    with blank_figures():
        return World(tmp_path_factory.mktemp("world"))


def test_several_classes_are_predicted_with_their_scores(world):
    run = world.tags[1]
    found = featstore.predict(run, world.paths, store=world.store)
    assert all(isinstance(one, LabelsPrediction) for one in found)
    rows = run.predictions
    for i, one in enumerate(found):
        assert list(one.scores) == list(run.class_names)
        for name, score in one.scores.items():
            assert score == pytest.approx(rows[f"score:{name}"][i], rel=1e-4)
        expected = [name for name in run.class_names if one.scores[name] > 0.5]
        assert set(one.labels) == set(expected)
        assert [one.scores[name] for name in one.labels] == sorted(
            (one.scores[name] for name in one.labels), reverse=True
        )
    (everything,) = featstore.predict(run, world.paths[0], store=world.store, threshold=0.0)
    assert set(everything.labels) == set(run.class_names)
    with pytest.raises(ConfigError, match="threshold is 2; the scores of .* from 0 to 1"):
        featstore.predict(run, world.paths[0], store=world.store, threshold=2)


def test_numbers_are_predicted(world):
    run = world.shades[0]
    found = featstore.predict(run, world.paths, store=world.store)
    assert all(isinstance(one, NumberPrediction) for one in found)
    np.testing.assert_allclose([p.value for p in found], run.predictions["predicted"], rtol=1e-5)
    with pytest.raises(ConfigError, match="A threshold is for runs with several classes"):
        featstore.predict(run, world.paths, store=world.store, threshold=0.5)


@pytest.mark.parametrize("kind", ["tags", "shades"])
def test_unreadable_images_have_an_error_and_others_their_labels(world, kind, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    run = getattr(world, kind)[0]
    first, second = featstore.predict(run, [bad, world.paths[0]], store=world.store)
    assert "bad.png" in first.error
    assert second.error is None
    stream = io.StringIO()
    write_csv([first, second], stream)
    lines = list(csv.DictReader(io.StringIO(stream.getvalue())))
    if kind == "tags":
        scored = [f"score:{name}" for name in run.class_names]
        assert list(lines[0]) == ["path", "classes", "score_kind", "familiarity", "error", *scored]
        assert lines[0]["classes"] == lines[0]["score:sand"] == ""
        assert float(lines[1]["score:sand"]) == pytest.approx(second.scores["sand"], rel=1e-4)
        assert lines[1]["classes"] == "; ".join(second.labels)
    else:
        assert list(lines[0]) == ["path", "value", "familiarity", "error"]
        assert lines[0]["value"] == ""
        assert float(lines[1]["value"]) == pytest.approx(second.value, rel=1e-5)


def run_command(world, capsys, *words):
    code = _run([*map(str, words), "--store", str(world.store.path)])
    return code, capsys.readouterr()


def test_the_command_line_shows_several_classes(world, capsys):
    run = world.tags[1].run_id
    code, out = run_command(world, capsys, "predict", run, world.paths[0], "--threshold", "0.1")
    assert code == 0
    assert "classes, probability above 0.1" in out.out
    code, out = run_command(world, capsys, "predict", run, world.paths[0], "--json")
    (found,) = json.loads(out.out)["predictions"]
    names = {"path", "labels", "scores", "score_kind", "threshold", "familiarity", "error"}
    assert set(found) == names
    code, out = run_command(world, capsys, "runs", "show", run)
    assert "% of 20 test images (95 % interval" in out.out
    assert "AP  precision  recall" in out.out
    code, out = run_command(world, capsys, "fit", "--dataset", "tags", "--clf", "logreg,ridge")
    assert "mAP  95 % interval  micro F1  macro F1  all right" in out.out
    code, out = run_command(world, capsys, "fit", "--dataset", "tags", "--json")
    assert {"map", "micro_f1", "macro_f1", "cv_map"} <= set(json.loads(out.out)["runs"][0])


def test_the_command_line_shows_numbers(world, capsys):
    run = world.shades[0].run_id
    code, out = run_command(world, capsys, "predict", run, world.paths[0])
    assert code == 0
    assert out.out.split()[:2] == ["image", "label"]
    code, out = run_command(world, capsys, "runs", "show", run)
    assert "R²" in out.out
    assert "RMSE" in out.out
    assert "precision" not in out.out
    code, out = run_command(world, capsys, "runs", "ls")
    assert "shade: R² of the test images" in out.out
    assert "tags: mean average precision (mAP) of the test images in %" in out.out
    code, out = run_command(world, capsys, "fit", "--dataset", "shade")
    assert code == 1
    assert "The labels are numbers, which logreg can't predict. Choose ridge" in out.err
    code, out = run_command(
        world,
        capsys,
        "curve",
        "--dataset",
        "shade",
        "--clf",
        "ridge",
        "--repeats",
        "1",
        "--out",
        world.images.parent / "curve.png",
    )
    assert "R² on 20 test rows" in out.out


def test_a_map_of_numbers_lies_upon_the_scene(world, tmp_path, capsys):
    run = world.shades[0]
    dark = np.full((3, SIDE, SIDE), 60, np.uint8)
    pixels = np.concatenate([dark, dark + 100], axis=2)
    scene = write_scene(tmp_path / "scene.tif", pixels)
    done = featstore.map_scene(run, scene, tmp_path / "map.tif", store=world.store)
    assert isinstance(done, NumberMap)
    assert (done.n_rows, done.n_cols, done.target_name) == (1, 2, "label")
    with rasterio.open(done.path) as raster, rasterio.open(scene) as below:
        assert raster.dtypes == ("float32",)
        assert np.isnan(raster.nodata)
        assert raster.crs == below.crs
        assert raster.bounds == below.bounds
        assert raster.descriptions == ("label",)
        values = raster.read(1)
    expected = featstore.predict(
        run, [np.moveaxis(half, 0, 2) for half in (dark, dark + 100)], store=world.store
    )
    np.testing.assert_allclose(values[0], [one.value for one in expected], rtol=1e-4)
    assert (done.lowest, done.highest) == (values.min(), values.max())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.png", "map.tif", "scene.tif"]
    with pytest.raises(ConfigError, match="--probability is for classes"):
        featstore.map_scene(run, scene, store=world.store, probability=True)
    with pytest.raises(ConfigError, match="several classes, and a cell of a map holds one"):
        featstore.map_scene(world.tags[0], scene, store=world.store)
    code, out = run_command(world, capsys, "map", run.run_id, scene, "--out", tmp_path / "b.tif")
    assert code == 0
    assert "1 x 2 cells" in out.out
    assert "on average" in out.out


def test_empty_cells_of_a_map_of_numbers_are_not_a_number(world, tmp_path):
    pixels = np.full((3, SIDE, 2 * SIDE), 60, np.uint8)
    mask = np.full((SIDE, 2 * SIDE), 255, np.uint8)
    mask[:, SIDE:] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, mask=mask)
    done = featstore.map_scene(world.shades[0], scene, tmp_path / "m.tif", store=world.store)
    with rasterio.open(done.path) as raster:
        assert np.isnan(raster.read(1)[0]).tolist() == [False, True]
    assert done.n_empty == 1


@pytest.mark.parametrize("kind", ["tags", "shades"])
def test_runs_are_compared_by_their_scores(world, kind, capsys):
    a, b = getattr(world, kind)
    found = compare(a, b)
    assert found.difference == pytest.approx(a.score - b.score, abs=1e-5)
    assert found.interval[0] < found.difference < found.interval[1]
    assert found.significant == (not found.interval[0] <= 0 <= found.interval[1])
    assert compare(a, a).p_value == 1.0
    ((one, p_value),) = compare_all(a, [b])
    assert (one.p_value, p_value) == (found.p_value, found.p_value)
    code, out = run_command(world, capsys, "compare", a.run_id, b.run_id)
    assert code == 0
    assert f"{a.scoring.name} of A less B" in out.out
    code, out = run_command(world, capsys, "compare", a.run_id, b.run_id, a.run_id)
    assert "infinitesimal jackknife over the test images with Holm's" in out.out


def test_runs_of_two_tasks_are_not_compared(world):
    with pytest.raises(ConfigError, match="the task multilabel, the second of regression"):
        compare(world.tags[0], world.shades[0])


def test_a_report_shows_both_tasks(world, tmp_path, no_umap):
    page = tmp_path / "report.html"
    runs = [*world.tags, *world.shades]
    report = write_report(world.store, runs, page, files=tmp_path / "files", projection="pca")
    text = page.read_text(encoding="utf-8")
    for words in ("mAP", "micro F1", "R²", "RMSE", "farthest from the true ones"):
        assert words in text
    assert "confusion" not in text.partition("</style>")[2]
    assert {"shade", "tags"} == set(report["best"])
    assert (tmp_path / "files" / "predicted-shade.png").is_file()
    assert "mAP" in (tmp_path / "files" / "runs-tags.md").read_text(encoding="utf-8")
    assert len(report["mistakes"]["shade"]) == 8


def test_mistakes_are_the_farthest_numbers_and_the_surest_wrong_classes(world):
    (first, *_) = find_mistakes(world.store, world.shades[0])
    rows = world.shades[0].predictions
    errors = np.abs(rows["true"] - rows["predicted"])
    assert first.image.sample_id == rows["sample_id"][errors.argmax()]
    run = world.tags[0]
    for mistake in find_mistakes(world.store, run):
        at = run.predictions["sample_id"].tolist().index(mistake.image.sample_id)
        true = {name for name in run.class_names if run.predictions[f"true:{name}"][at]}
        assert set(mistake.image.label.split("; ")) == true
        assert set(mistake.predicted.split("; ")) != true


def test_neighbors_have_their_labels(world):
    found = featstore.find_neighbors(world.tags[0], "t45.png", store=world.store)
    (query,) = found.queries
    names = {name for one in query.neighbors for name in one.labels}
    assert set(query.shares) == names
    assert query.neighbors[0].label == "; ".join(query.neighbors[0].labels)
    found = featstore.find_neighbors(world.shades[0], "t45.png", store=world.store)
    assert found.queries[0].shares == {}
    assert float(found.queries[0].neighbors[0].label) > 0


def test_exports_hold_the_labels(world, tmp_path):
    for dataset, n in (("tags", 3), ("shade", 1)):
        selection = world.store.select(dataset=dataset)
        export(selection, tmp_path / "a.npz")
        with np.load(tmp_path / "a.npz") as held:
            np.testing.assert_array_equal(held["targets"], selection.targets)
            assert held["target_names"].tolist() == list(selection.target_names)
        export(selection, tmp_path / "a.csv")
        with (tmp_path / "a.csv").open(newline="") as stream:
            lines = list(csv.DictReader(stream))
        columns = [name for name in lines[0] if name.startswith("target:")]
        assert len(columns) == n
        values = [[float(line[name]) for name in columns] for line in lines]
        np.testing.assert_allclose(values, selection.targets, rtol=1e-5)


def test_best_and_last_name_runs_of_one_task(world):
    assert find_run_folder("last:shade", world.store).name.startswith("shade")
    assert find_run_folder("best:tags", world.store).name.startswith("tags")
