import errno
import json

import pytest
from PIL import Image

from featstore.cli.main import main
from featstore.io import files


def call(*args):
    """Run the command line as a shell would; return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(["curve", *map(str, args)])
    return caught.value.code


def test_a_curve_is_a_table_a_figure_and_json(make_store, tmp_path, capsys):
    store = make_store()
    out = tmp_path / "curve.png"
    asked = ("--store", store.path, "--clf", "ridge", "--sizes", "20,80,240", "--out", out)
    assert call(*asked) == 0
    printed = capsys.readouterr().out
    assert "demo: accuracies in % on 80 test rows" in printed
    assert f"The figure: {out}" in printed
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.width > 500
    assert call(*asked, "--json") == 0
    (curve,) = json.loads(capsys.readouterr().out)["curves"]
    assert [point["n_train"] for point in curve["points"]] == [20, 80, 240]
    assert [len(point["scores"]) for point in curve["points"]] == [3, 3, 1]


def test_shots_have_a_column_of_their_own(make_store, tmp_path, capsys):
    store, out = make_store(), tmp_path / "curve.png"
    asked = ("--store", store.path, "--clf", "ridge", "--out", out)
    assert call(*asked, "--shots", "1,5", "--episodes", 2) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["model", "layers", "clf", "shots", "rows", "accuracy", "train"] in lines
    assert [line[3:5] for line in lines if "ridge" in line] == [["1", "4"], ["5", "20"]]
    assert call(*asked, "--shots", "1,5", "--repeats", 2) == 2
    assert "--repeats is not for --shots" in capsys.readouterr().err
    assert call(*asked, "--episodes", 2) == 2
    assert "--episodes is for --shots" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["file/x.png", "folder.png", "curve.svg"])
def test_a_wrong_place_for_the_figure_is_told_before_anything_is_fitted(
    make_store, tmp_path, capsys, monkeypatch, name
):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr("featstore.fitting.learning_curve.learning_curve", None)
    assert call("--store", make_store().path, "--clf", "ridge", "--out", tmp_path / name) == 1
    assert f"Error: {tmp_path / name} " in capsys.readouterr().err


def test_the_numbers_are_shown_even_where_the_figure_can_not_be_written(
    make_store, tmp_path, capsys, monkeypatch
):
    store, out = make_store(), tmp_path / "curve.png"
    whole = files.atomic_write

    def full(path):
        if path == out:
            raise OSError(errno.ENOSPC, "No space left on device", f".{path.name}.tmp")
        return whole(path)

    monkeypatch.setattr(files, "atomic_write", full)
    asked = ("--store", store.path, "--clf", "ridge", "--sizes", "240", "--out", out)
    for more in ([], ["--json"]):
        assert call(*asked, *more) == 1
        printed, err = capsys.readouterr()
        assert "240" in printed
        assert f"Error: {out} can't be written: No space left on device.\n" in err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--sizes", "many"], 2, "is not a list of whole numbers"),
        (["--sizes", "3"], 1, "with 240 training rows it may be from 5 to 236, or 240"),
        (["--sizes", "241"], 1, "A size is 241"),
        (["--sizes", "238"], 1, "A size is 238"),
        (["--repeats", "0"], 2, "--repeats"),
        (["--clf", "cnn"], 1, "There is no classifier 'cnn'"),
        (["--layers", "conv9"], 1, "conv9"),
    ],
)
def test_mistakes_end_with_a_message_and_the_right_code(
    make_store, tmp_path, capsys, args, code, message
):
    out = tmp_path / "curve.png"
    assert call("--store", make_store().path, "--out", out, *args) == code
    printed, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert printed == ""
    assert not out.exists()
