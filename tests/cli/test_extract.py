from __future__ import annotations

import json
from dataclasses import replace

import pytest
from PIL import Image

from featstore.cli import extract
from featstore.cli.main import _run
from featstore.extraction.extract import extract as extract_features
from featstore.extraction.result import BOTTLENECKS
from featstore.store import writer
from featstore.store.feature_store import open_store


@pytest.fixture
def args(images, tmp_path):
    return [
        *("extract", "--model", "resnet18", "--dataset", "folder", "--root", str(images)),
        *("--weights", "random:0", "--image-size", "32", "--store", str(tmp_path / "my store")),
    ]


def test_the_contract_of_json(args, capsys):
    assert _run([*args, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert {"path", "n_images", "n_computed", "n_reused", "layers"} <= set(result)
    assert result["layers"] == ["fc"]
    assert result["n_images"] == result["n_computed"] == 27
    assert result["duration_s"] > 0
    assert result["images_per_s"] > 0
    assert "Extracting" in captured.err
    assert _run([*args, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["n_computed"], again["n_reused"]) == (0, 27)


def test_people_are_told_what_happened_and_what_comes_next(args, capsys, tmp_path):
    assert _run(args) == 0
    out = capsys.readouterr().out
    assert "27 images computed" in out
    assert "arithmetic" in out
    assert any(sentence in out for sentence in BOTTLENECKS.values())
    assert f"featstore fit --clf logreg --store '{tmp_path / 'my store'}'" in out
    assert _run(args) == 0
    assert "nothing was computed" in capsys.readouterr().out


def test_the_rate_is_that_of_the_passes_and_the_time_of_all_stands_beside_it(
    images, tmp_path, capsys
):
    done = extract_features("pixelstats", str(images), store=tmp_path / "s")
    times = dict.fromkeys(done.times, 0.0) | {"open_s": 90.0, "forward_s": 10.0, "pass_s": 10.0}
    extract.show(replace(done, n_computed=50, images_per_s=5.0, times=times, duration_s=100.0))
    out = capsys.readouterr().out
    assert "50 images computed in 10.0 s (5.0 images/s on cpu" in out
    assert "The whole took 1 min 40 s: finding and hashing files 0 %, opening the model 90 %" in out


def test_a_folder_needs_no_option(args, images, capsys, monkeypatch):
    monkeypatch.setenv("FEATSTORE_DATA", "elsewhere")
    options = [*args[:3], *args[7:], "--json"]
    results = []
    for form in (
        ["--dataset", "folder", "--root", str(images)],
        ["--dataset", f"{images}/"],
        [str(images)],
    ):
        assert _run([*options, *form]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert len({result["path"] for result in results}) == 1
    assert [result["n_computed"] for result in results] == [27, 0, 0]
    assert {result["dataset"] for result in results} == {"folder"}
    for form, text in (([], "Give either"), ([str(images), "--dataset", "demo"], "Give either")):
        assert _run([*options, *form]) == 2
        assert text in capsys.readouterr().err
    assert _run([*options, "uc-merced"]) == 1
    assert "Did you mean ucmerced?" in capsys.readouterr().err


def test_the_current_folder_can_be_extracted_again(images, capsys, monkeypatch):
    """The store in it is not a class."""
    monkeypatch.chdir(images / "train")
    monkeypatch.delenv("FEATSTORE_STORE", raising=False)
    for n_computed in (18, 0):
        assert _run(["extract", "--model", "pixelstats", ".", "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["n_images"], result["n_computed"]) == (18, n_computed)


def test_what_is_left_out_is_in_the_summary(args, images, capsys):
    (images / "train" / "sand" / "notes.txt").touch()
    (images / "train" / "loose.jpg").touch()
    (images / "@eaDir").mkdir()
    for _ in range(2):
        assert _run(args) == 0
        out = capsys.readouterr().out
        assert "Left out 1 file that is not of an image format: 1 .txt." in out
        assert "Left out 1 image outside the class folders." in out
        assert "Left out 1 folder, hidden or of the system: 1 @eaDir." in out
    assert _run([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {
        "n_files": 2,
        "n_files_by_ending": {".txt": 1},
        "n_images_outside_classes": 1,
        "n_images_unlisted": 0,
        "n_folders_by_name": {"@eaDir": 1},
    }


def test_links_out_of_the_folder_are_an_option(args, images, capsys, tmp_path):
    (images / "train" / "sand" / "sand00.png").rename(tmp_path / "blob")
    (images / "train" / "sand" / "sand00.png").symlink_to(tmp_path / "blob")
    assert _run(args) == 1
    assert "Add --follow-links" in capsys.readouterr().err
    assert _run([*args, "--follow-links", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_images"] == 27


def test_images_without_classes_are_extracted_but_not_fitted(args, images, capsys):
    flat = images / "test" / "sand"
    assert _run([*args[:3], *args[7:], str(flat)]) == 0
    captured = capsys.readouterr()
    assert "3 images computed" in captured.out
    assert "have no labels" in captured.err
    assert "featstore fit" not in captured.out
    assert _run(["fit", "--clf", "ridge", *args[-2:]]) == 1
    assert "None of the 3 images has a label" in capsys.readouterr().err


@pytest.mark.parametrize(
    "layers", [["--layers", "conv1,fc"], ["--layers", "conv1", "--layers", "fc"]]
)
def test_layers_are_taken_both_ways(args, layers, capsys):
    assert _run([*args, *layers, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == ["conv1", "fc"]


@pytest.mark.parametrize(
    ("option", "code", "text"),
    [
        (["--batch-size", "many"], 2, "neither a number nor auto"),
        (["--batch-size", "0"], 1, "batch_size"),
        (["--pool", "sum"], 2, "gem"),
        (["--layers", "conv7"], 1, "no layer 'conv7'"),
        (["--weights", "imagenet-22k"], 1, "random:SEED"),
        (["--dataset", "sat5"], 1, "sat4"),
        (["--image-size", "3"], 1, "image_size"),
    ],
)
def test_mistakes_are_answered(args, option, code, text, capsys):
    assert _run([*args, *option]) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_ctrl_c_is_130_and_says_how_to_go_on(args, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer.FeatureWriter, "add", interrupt)
    assert _run(args) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_masked_images_are_counted_and_listed(args, images, capsys):
    next(images.rglob("sand01.png")).write_bytes(b"")
    assert _run(args) == 1
    assert "--on-error mask" in capsys.readouterr().err
    assert _run([*args, "--on-error", "mask"]) == 0
    assert "1 image" in capsys.readouterr().out
    (set_id,) = [one.set_id for one in open_store(args[-1]).sets()]
    assert _run(["store", "show", set_id, *args[-2:]]) == 0
    assert "masked: test/sand/sand01.png: " in capsys.readouterr().out


def test_a_table_with_groups_is_extracted_and_fitted(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["file,class,place,part"]
    for i in range(40):
        Image.new("RGB", (8, 8), (6 * i, 0, 90 * (i % 2))).save(f"{i}.png")
        lines.append(f"{i}.png,{'ab'[i % 2]},p{i // 4},{'train' if i % 4 else 'test'}")
    (tmp_path / "tiles.csv").write_text("\n".join(lines))
    columns = "path=file,label=class,group=place"
    pixels = ["extract", "--model", "pixelstats", "tiles.csv", "--columns"]
    assert _run([*pixels, columns]) == 0
    out = capsys.readouterr()
    assert "Images: 28 train, 12 test (grouped by column place)." in out.out
    assert "Grouped by column place; images of each of 10 groups: 4." in out.err
    assert "Next: featstore fit --clf logreg" in out.out
    assert _run(["fit", "--clf", "lda"]) == 0
    assert "28 rows to train (2 classes of 14), 12 to test, grouped by column place; " in (
        capsys.readouterr().out
    )
    assert _run([*pixels, f"{columns},split=part"]) == 0
    cut = "10 groups have images to train on and to test with, which makes the test too easy."
    out = capsys.readouterr().out
    assert "(official split)." in out
    assert cut in out
    (other,) = (
        one.set_id
        for one in open_store("feature-store").sets()
        if "split" not in one.info.dataset.identity
    )
    assert _run(["fit", "--clf", "lda", "--set", other]) == 0
    assert f"{cut} --split-seed 1 draws a split that cuts none." in capsys.readouterr().out
    for option, value in (("--columns", "path=file"), ("--task", "regression")):
        assert _run(["extract", "--model", "pixelstats", "demo", option, value]) == 1
        assert "demo is no table: leave out --columns and --task" in capsys.readouterr().err
