from __future__ import annotations

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from conftest import blank_figures, measured, store_in, tagged
from PIL import Image

from featstore.cli.main import _run
from featstore.errors import ConfigError, FeatstoreError
from featstore.fitting.fit import fit
from featstore.progress import SILENT
from featstore.report import explorer
from featstore.report.explorer_page import write_explorer
from featstore.report.write import write_report
from featstore.runs.opening import list_runs

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
HOSTILE = ("<script>alert(1)</script>", "</script><img src=x onerror=alert(2)>", "=1+1", "plain")


def read_data(path):
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def unpack(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


@pytest.fixture(scope="module")
def page(pixel_sample, tmp_path_factory):
    """Return what a page with pictures holds."""
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    sample = pixel_sample
    write_explorer(sample.store, sample.run, path, projection="pca", progress=SILENT)
    return read_data(path)


def test_the_page_has_each_image_s_class_split_and_prediction(page, pixel_sample):
    assert len(page["names"]) == 27
    labels, splits = unpack(page["labels"], "<i2"), unpack(page["splits"], "u1")
    for name, label, split in zip(page["names"], labels, splits, strict=True):
        assert name.split("/")[:2] == [page["split_names"][split], page["classes"][label]]
    (run,) = page["runs"]
    predicted = unpack(run["predicted"], "<i2")
    assert (predicted[splits == 0] == -1).all()
    columns = pixel_sample.run.predictions
    expected = dict(zip(columns["sample_id"], columns["predicted"], strict=True))
    found = {
        page["names"][i]: page["classes"][predicted[i]] for i in np.flatnonzero(predicted >= 0)
    }
    assert found == expected


def test_pictures_are_those_of_the_images(page, pixel_sample):
    pictures = page["pictures"]
    (sheet,) = pictures["sheets"]
    data = base64.b64decode(sheet.partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(data)), np.float64)
    side = pictures["side"]
    for i, name in enumerate(page["names"]):
        row, col = divmod(i, pictures["columns"])
        tile = pixels[row * side : (row + 1) * side, col * side : (col + 1) * side]
        image = np.asarray(Image.open(pixel_sample.images / name), np.float64)
        assert tile.mean(axis=(0, 1)) == pytest.approx(image.mean(axis=(0, 1)), abs=4)


def test_vectors_find_the_nearest_rows(page):
    vectors = unpack(page["vectors"], "i1").reshape(27, -1).astype(float)
    labels = unpack(page["labels"], "<i2")
    cosines = vectors @ vectors.T / 127**2
    assert np.diag(cosines) == pytest.approx(1, abs=0.05)
    np.fill_diagonal(cosines, -1)
    assert np.mean(labels[cosines.argmax(axis=1)] == labels) > 0.8


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A page whose classes are named as scripts, without pictures."""
    folder = tmp_path_factory.mktemp("hostile")
    store = store_in(folder, class_names=HOSTILE, title="</title><script>x</script>")
    with blank_figures():
        (run,) = fit(store, "lda", n_jobs=1)
    path = folder / "explorer.html"
    write_explorer(store, run, path, projection="pca", limit=300, progress=SILENT)
    return path


def test_no_name_is_html(hostile):
    text = hostile.read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script>") == 2
    assert "<img" not in text
    data = read_data(hostile)
    assert tuple(data["classes"]) == HOSTILE
    assert (len(data["names"]), data["n_samples"]) == (300, 320)
    assert data["pictures"] is None
    assert "root" in data["why_no_pictures"]


def test_several_classes_and_numbers_have_colours_too(tmp_path):
    of_tags = explorer.find_subject("newest", tagged(tmp_path / "tags"), None, SILENT)
    rows = explorer.choose_rows(of_tags.selection, 320)
    names, codes = explorer._labels(of_tags.selection, rows)
    assert names[-2:] == ["several classes", "no class"]
    targets = of_tags.selection.targets
    for code, own in zip(codes, targets, strict=True):
        n = np.nansum(own)
        expected = -1 if np.isnan(own).any() else 4 if n > 1 else 5 if n == 0 else own.argmax()
        assert code == expected
    of_numbers = explorer.find_subject("newest", measured(tmp_path / "m"), None, SILENT)
    names, codes = explorer._labels(of_numbers.selection, rows)
    assert len(names) == 5
    assert np.bincount(codes[codes >= 0]).tolist() == pytest.approx([64] * 5, abs=1)


def test_layers_are_refused_with_a_run_which_has_its_own(pixel_sample):
    with pytest.raises(ConfigError, match="is a run, which has its layers"):
        explorer.find_subject(pixel_sample.run, pixel_sample.store, "fc", SILENT)


def test_a_map_needs_three_images(make_store):
    store = make_store(n_samples=8)
    subject = explorer.find_subject("newest", store, None, SILENT)
    options = {"projection": "pca", "root": None, "random_state": 0, "progress": SILENT}
    with pytest.raises(FeatstoreError, match="needs 3 or more"):
        explorer.page_data(subject, store, limit=2, **options)


@pytest.mark.usefixtures("blank_pictures")
def test_the_command_writes_the_page_and_the_report_links_to_it(pixel_sample, tmp_path, capsys):
    store = pixel_sample.store
    page = tmp_path / "explorer.html"
    given = ["explore", "--out", str(page), "--store", str(store.path), "--projection", "pca"]
    write_report(store, list_runs(store), tmp_path / "alone.html", progress=SILENT)
    assert _run([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_images"], found["has_pictures"]) == (27, True)
    assert found["runs"] == [pixel_sample.run.run_id]
    assert found["nbytes"] == page.stat().st_size
    write_report(store, list_runs(store), tmp_path / "report.html", progress=SILENT)
    bare = store_in(tmp_path / "bare")
    given = ["explore", "--out", str(tmp_path / "bare.html"), "--projection", "pca"]
    assert _run([*given, "--store", str(bare.path)]) == 0
    assert "320 images, drawn by PCA" in capsys.readouterr().out
    assert read_data(tmp_path / "bare.html")["runs"] == []
    link = 'href="explorer.html"'
    assert link in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert link not in (tmp_path / "alone.html").read_text(encoding="utf-8")


@pytest.mark.soak
@pytest.mark.parametrize(("width", "scheme"), [(1300, "light"), (320, "dark")])
def test_the_page_works_in_a_browser(hostile, width, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no browser here: " + ", ".join(BROWSERS))
    trouble = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path)
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text))
        page.on("dialog", lambda dialog: trouble.append(dialog.message))
        page.goto(hostile.as_uri())
        assert page.inner_text("#status") == "300 of 300 images shown."
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.focus("#map")
        page.keyboard.press("ArrowRight")
        assert page.locator("#near .item").count() == 8
        first = page.inner_text("#chosen dd >> nth=0")
        page.locator("#near .item").first.press("Enter")
        assert page.inner_text("#chosen dd >> nth=0") != first
        page.select_option("#verdict", "wrong")
        n_wrong = int(page.inner_text("#status").split()[0])
        assert page.locator("#list .item").count() == min(n_wrong, 12 if width < 700 else 48)
        page.select_option("#verdict", "all")
        page.click("#no-classes")
        assert page.inner_text("#status").startswith("0 of 300")
        page.get_by_label(HOSTILE[2]).check()
        page.click("#lasso")
        page.evaluate("document.getElementById('map-box').scrollIntoView()")
        box = page.locator("#map").bounding_box()
        corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98)]
        at = [(box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in corners]
        page.mouse.move(*at[0])
        page.mouse.down()
        for place in [*at[1:], at[0]]:
            page.mouse.move(*place, steps=5)
        page.mouse.up()
        status = page.inner_text("#status")
        n_of_class, n_selected = int(status.split()[0]), int(status.split()[-2])
        assert n_selected == n_of_class > 60
        with page.expect_download() as download:
            page.click("#csv")
        lines = download.value.path().read_text(encoding="utf-8").splitlines()
        assert lines[0] == "name,class,split,predicted,score"
        # To a spreadsheet it is no formula.
        assert len(lines) == n_selected + 1
        assert all('"\'=1+1"' in line for line in lines[1:])
        browser.close()
    assert trouble == []
