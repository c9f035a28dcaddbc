from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from conftest import blank_figures
from makers import ROOT, tiny, write_images
from PIL import Image

from featstore.cli.main import _run
from featstore.deploy import export
from featstore.deploy.check import run_file
from featstore.deploy.export import export_run
from featstore.errors import ExportError
from featstore.extraction.extract import extract
from featstore.fitting.fit import fit
from featstore.inference.predict import predict
from featstore.io.gdal import write_tiff
from featstore.progress import SILENT
from featstore.store.feature_store import open_store

pytest.importorskip("tiny_networks")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Images, and a run on two networks that resize images each in its own way."""
    folder = tmp_path_factory.mktemp("export")
    images = write_images(folder / "my images")
    store = open_store(folder / "store")
    for model in ("timm:tiny_resnet", "timm:tiny_vit"):
        extract(store=store, **tiny(images, model=model))
    with blank_figures():
        (run,) = fit(store, "logreg", model="timm:tiny_resnet,timm:tiny_vit", n_jobs=1)
        (svm,) = fit(store, "linear-svm", model="timm:tiny_vit", n_jobs=1, calibrate=False)
        (unknown,) = fit(store, "svm", model="timm:tiny_vit", n_jobs=1)
    return images, store, run, svm, unknown


@pytest.fixture(scope="module")
def exported(sample, tmp_path_factory):
    _, store, run, *_ = sample
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return export_run(run, path, store=store, progress=SILENT)


def test_the_file_predicts_new_images_of_any_size_as_featstore_does(sample, exported, capfd):
    _, store, run, *_ = sample
    rng = np.random.default_rng(5)
    images = [
        rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for height, width in ((32, 32), (40, 70), (100, 64))
    ]
    expected = predict(run, images, store=store, device="cpu")
    found = run_file(exported.path, [image[np.newaxis] for image in images])
    assert found["class"].tolist() == [one.label for one in expected]
    assert found["probability"].max(axis=1) == pytest.approx([p.score for p in expected], abs=1e-4)
    assert found["probability"].sum(axis=1) == pytest.approx(1, abs=1e-5)
    batch = onnxruntime.InferenceSession(exported.path).run(
        None, {"images": np.stack([images[0]] * 3)}
    )
    assert batch[0].tolist() == [expected[0].label] * 3
    # onnxruntime warns of what no operation uses.
    assert "[W:" not in capfd.readouterr().err


def test_the_page_s_program_needs_neither_featstore_nor_pytorch(exported, sample):
    images, store, run, *_ = sample
    page = (ROOT / "docs" / "exporting.md").read_text(encoding="utf-8")
    (program,) = [p for p in re.findall("```python\n(.*?)```", page, re.S) if "sys.argv" in p]
    loaded = "print({'torch', 'featstore', 'sklearn'} & {*sys.modules})"
    paths = sorted((images / "test").rglob("*.png"))[::4]
    done = subprocess.run(
        [sys.executable, "-c", program + loaded, *map(str, paths)],
        capture_output=True,
        text=True,
        cwd=exported.path.parent,
    )
    *lines, modules = done.stdout.splitlines()
    assert (modules, done.stderr) == ("set()", "")
    expected = predict(run, paths, store=store, device="cpu")
    assert lines == [f"{p.path} {p.label} {p.score:.3f}" for p in expected]


def test_the_file_says_where_it_is_from_and_how_it_was_checked(sample, exported):
    run = sample[2]
    found = onnxruntime.InferenceSession(exported.path).get_modelmeta().custom_metadata_map
    assert found["run_id"] == run.run_id
    assert json.loads(found["class_names"]) == {"0": "forest", "1": "sand", "2": "water"}
    assert float(found["test_accuracy"]) == pytest.approx(run.metrics.test.accuracy, abs=1e-5)
    networks = json.loads(found["networks"])
    assert [one["model"] for one in networks] == ["timm:tiny_resnet", "timm:tiny_vit"]
    assert all(one["weights_sha256"] for one in networks)
    assert found["calibration"].startswith("calibrated: temperature")
    assert "24 stored images" in found["checked"]
    assert exported.difference < 1e-4
    assert exported.nbytes == exported.path.stat().st_size


def test_the_command_shows_the_check(sample, tmp_path, capsys):
    _, store, _, svm, _ = sample
    given = ["export", svm.run_id, str(tmp_path / "m.onnx"), "--store", str(store.path)]
    assert _run(given) == 0
    assert "largest difference" in capsys.readouterr().out
    assert _run([*given, "--tile-size", "64"]) == 2
    assert "--for deepness" in capsys.readouterr().err
    found = run_file(tmp_path / "m.onnx", [np.zeros((1, 40, 40, 3), np.uint8)])
    assert found["decision_value"].shape == (1, 3)


def test_a_file_for_deepness_gives_a_tile_the_scores_of_its_class(sample, tmp_path, capsys):
    images, store, run, *_ = sample
    path = tmp_path / "tiles.onnx"
    given = ["export", run.run_id, str(path), "--store", str(store.path), "--json"]
    assert _run([*given, "--for", "deepness", "--resolution", "30"]) == 0
    metadata = json.loads(capsys.readouterr().out)["metadata"]
    assert json.loads(metadata["model_type"]) == "Segmentor"
    assert (metadata["resolution"], metadata["tile_size"]) == ("30.0", "40")
    assert json.loads(metadata["seg_thresh"]) == 0
    picture = next((images / "test" / "water").glob("*.png"))
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    tile = np.float32(pixels * 1.0 / 255.0).transpose(2, 0, 1)[np.newaxis]
    scores = run_file(path, [tile])["map"]
    assert scores.shape == (1, 3, 40, 40)
    (expected,) = predict(run, picture, store=store, device="cpu")
    assert run.class_names[scores[0, :, 20, 20].argmax()] == expected.label
    assert scores[0, :, 0, 39].max() == pytest.approx(expected.score, abs=1e-4)


def test_deepness_gets_the_bands_and_values_of_the_run(tmp_path, capsys):
    # Deepness divides the values of a raster by 255 whatever their type.
    rng = np.random.default_rng(0)
    for i in range(16):
        split, name = ("train", "test")[i % 4 == 3], ("bare", "green")[i // 2 % 2]
        path = tmp_path / "chips" / split / name / f"{i}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        low = np.array([9000, 300, 900, 1500 if name == "green" else 200, 50])[:, None, None]
        values = (low + rng.integers(0, 900, (5, 32, 32))).astype(np.uint16)
        write_tiff(path, values)
    store, chosen = open_store(tmp_path / "store"), {"bands": "4,3,2", "value_range": "100,3000"}
    extract(store=store, **tiny(tmp_path / "chips", model="timm:tiny_vit", **chosen))
    with blank_figures():
        (run,) = fit(store, "ridge", n_jobs=1)
    file = tmp_path / "tiles.onnx"
    command = ["export", run.run_id, str(file), "--store", str(store.path)]
    assert _run([*command, "--for", "deepness"]) == 0
    assert "choose these input channels, in order: 4, 3, 2." in capsys.readouterr().err
    tile = np.float32(values[[3, 2, 1]] * 1.0 / 255.0)[np.newaxis]
    scores = run_file(file, [tile])["map"][0, :, 0, 0]
    (expected,) = predict(run, path, store=store, device="cpu")
    assert run.class_names[scores.argmax()] == expected.label
    assert scores.max() == pytest.approx(expected.score, abs=1e-3)


def test_a_file_that_gives_other_scores_is_not_left(sample, tmp_path, monkeypatch):
    _, store, _, svm, _ = sample

    def wrong(path, images):
        found = run_file(path, images)
        found["decision_value"][3, 1] += 0.05
        return found

    monkeypatch.setattr(export, "run_file", wrong)
    with pytest.raises(ExportError, match=r"differ by 0\.0"):
        export_run(svm, tmp_path / "m.onnx", store=store, progress=SILENT)
    assert not list(tmp_path.iterdir())


def test_without_the_images_generated_ones_check_the_file(sample, tmp_path, monkeypatch):
    images, store, _, svm, _ = sample
    hidden = images.rename(images.with_name("hidden"))
    try:
        found = export_run(svm, tmp_path / "m.onnx", store=store, progress=SILENT)
    finally:
        hidden.rename(images)
    assert found.images_are == "generated images"
    assert "gone" in found.notes[0]


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_several_classes_and_numbers_are_exported_too(sample, tmp_path, task):
    images = sorted(sample[0].rglob("*.png"))
    classes, numbers = ("sand;water", "forest", "water"), (3.5, 1.25, 700)
    lines = ["path,label,split"]
    for i, path in enumerate(images):
        label = (classes if task == "multilabel" else numbers)[i % 3]
        lines.append(f"{path},{label},{'test' if i % 4 == 0 else 'train'}")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(lines) + "\n")
    store, options = open_store(tmp_path / "store"), {"model": "timm:tiny_vit", "dataset": "table"}
    extract(store=store, **tiny(table, task=task, **options))
    with blank_figures():
        (run,) = fit(store, "ridge", n_jobs=1)
    path = tmp_path / "model.onnx"
    assert export_run(run, path, store=store, progress=SILENT).difference < 1e-4
    image = np.asarray(Image.open(images[0]).convert("RGB"))
    found = run_file(path, [image[np.newaxis]])
    (expected,) = predict(run, image, store=store, device="cpu")
    if task == "regression":
        assert found["value"] == pytest.approx([expected.value], rel=1e-4)
    else:
        scores = list(expected.scores.values())
        assert found["probability"][0] == pytest.approx(scores, abs=1e-4)
    with pytest.raises(ExportError, match="Deepness shows one class"):
        export_run(run, path, store=store, target="deepness", progress=SILENT)


def test_what_can_not_be_exported_is_refused(sample, pixel_sample, tmp_path):
    _, store, run, _, unknown = sample
    with pytest.raises(ExportError, match="SVC can't be written"):
        export_run(unknown, tmp_path / "m.onnx", store=store, progress=SILENT)
    own = pixel_sample
    with pytest.raises(ExportError, match="pixelstats is no network"):
        export_run(own.run, tmp_path / "m.onnx", store=own.store, progress=SILENT)
    with pytest.raises(ExportError, match="does not end with .onnx"):
        export_run(run, tmp_path / "m.pt", store=store, progress=SILENT)
    assert not list(tmp_path.iterdir())
