from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from featstore.cli.main import main


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATSTORE_DATA", raising=False)


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):  # noqa: ANN201
    def call(*args: str) -> Result:
        with pytest.raises(SystemExit) as stopped:
            main(["datasets", *args])
        return Result(int(stopped.value.code or 0), *capsys.readouterr())

    return call


def plant(root: Path) -> None:
    for split, n in (("train", 3), ("test", 1)):
        for class_name in ("forest", "lake"):
            for i in range(n):
                path = root / split / class_name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (20 * i, 90, 40)).save(path)
    (root / "train" / "forest" / "notes.txt").write_text("x")


def test_the_list_tells_needs_places_and_finds(run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sat-4-full.mat").write_bytes(b"")
    result = run()
    assert result.code == 0
    for part in ("sat4", "sat6", "ucmerced", "folder", "demo", "sat-6-full.mat", "data/sat6"):
        assert part in result.out
    assert "FEATSTORE_DATA" in result.out
    listed = json.loads(run("--json", "--root", "data").out)
    found = {entry["name"]: entry["found"] for entry in listed["datasets"]}
    assert found["sat4"] == "data/sat-4-full.mat"
    assert found["sat6"] is None


def test_the_list_fits_a_terminal_of_100_columns(run, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = run().out.splitlines()
    table = [line for line in lines if line.startswith(" ")]
    assert max(map(len, table)) <= 100
    assert "SAT" not in table[2]
    assert table[2].split()[:2] == ["sat4", "500,000"]


def test_show_reads_bands_as_extract_does(run, tmp_path: Path) -> None:
    plant(tmp_path / "mine")
    result = run("show", "mine", "--bands", "3,1", "--range", "0,100", "--json")
    assert json.loads(result.out)["bands"] == ["blue", "red"]
    result = run("show", "mine", "--window", "8")
    assert (result.code, "window is a setting of the dataset scene" in result.err) == (1, True)


def test_show_counts_and_draws(run, tmp_path: Path) -> None:
    plant(tmp_path / "mine")
    result = run("show", "folder", "--root", "mine")
    assert result.code == 0
    assert "mine: 8 images" in result.out
    assert "Left out 1 file that is not of an image format: 1 .txt." in result.out
    rows = [line.split() for line in result.out.splitlines()]
    assert ["forest", "3", "1", "4"] in rows
    assert ["all", "images", "6", "2", "8"] in rows
    with Image.open(tmp_path / "mine-sheet.png") as sheet:
        assert sheet.width > 100


def test_show_as_json_is_one_object(run, tmp_path: Path) -> None:
    plant(tmp_path / "mine")
    result = run("show", "folder", "--root", "mine", "--json", "--out", "s.png", "--limit", "6")
    shown = json.loads(result.out)
    assert shown["n_samples"] == 6
    assert shown["counts"]["lake"] == {"train": 2, "test": 1, "total": 3}
    assert shown["left_out"]["n_files_by_ending"] == {".txt": 1}
    assert shown["sheet"] == "s.png"
    assert (tmp_path / "s.png").is_file()


def test_show_counts_images_without_classes(run, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flat" / "1.png")
    result = run("show", "flat", "--json")
    assert json.loads(result.out)["counts"] == {"no class": {"train": 1, "total": 1}}
    assert "have no labels" in result.err
    assert (tmp_path / "flat-sheet.png").is_file()


def test_get_demo_makes_the_size_and_seed_asked_for(run, tmp_path: Path) -> None:
    result = run("get", "demo", "--root", "d", "--seed", "2", "--n-train", "12", "--n-test", "8")
    assert result.code == 0
    assert result.out.strip() == "d/demo/demo-seed2-full.mat"
    shown = json.loads(run("show", "demo", "--root", "d", "--seed", "2", "--json").out)
    assert shown["n_samples"] == 20


@pytest.mark.parametrize("name", ["sat4", "sat6"])
def test_get_sat_says_in_two_lines_where(run, name: str) -> None:
    result = run("get", name)
    assert result.code == 1
    assert result.out == ""
    assert len(result.err.strip().splitlines()) == 2
    assert "https://csc.lsu.edu/~saikat/deepsat/" in result.err
    assert f"crawford/deepsat-{name}" in result.err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("show", "sat4"), 1, "root data does not exist"),
        (("show", "sat5"), 1, "Did you mean sat"),
        (("show", "folder"), 1, "needs --root"),
        (("get", "nothing"), 1, "nothing is neither a dataset nor a folder"),
        (("get", "folder"), 1, "can't be fetched"),
        (("get", "ucmerced", "--n-train", "12"), 2, "--n-train is for the demo alone"),
        (("get", "demo", "--n-train", "1"), 1, "n_train is 1"),
        (("show",), 2, "Missing argument"),
        (("--root", "x", "show", "demo"), 2, "Give the options after show"),
    ],
)
def test_errors_are_one_message(run, args: tuple[str, ...], code: int, message: str) -> None:
    result = run(*args)
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err
