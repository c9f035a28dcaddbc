import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import add_features, blobs

from featstore.errors import RunError, StoreError
from featstore.fitting import fit
from featstore.report import PUBLISHED, compare_published, summarize, write_report
from featstore.runs import list_runs

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Checker(HTMLParser):
    """Collects ids and links, and checks that what is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if attrs.get("href", "").startswith("#"):
            self.links.append(attrs["href"][1:])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def store(make_store):
    store = make_store(dataset="sat4")
    fit(store, ["logreg", "mlp", "ridge"], n_jobs=1, params={"mlp:max_iter": 3})
    return store


def test_the_page_is_whole_valid_and_needs_no_network(store, tmp_path):
    path = tmp_path / "new folder" / "report.html"
    write_report(store, list_runs(store), path)
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert set(checker.links) <= set(checker.ids)
    assert checker.tags.count("details") == 3
    # Three confusion matrices, the bars, the curves of mlp.
    assert checker.tags.count("svg") == 5
    assert not re.search(r'(?:src|href)\s*=\s*"(?:https?:)?//', page)
    assert not re.search(r"@import|url\((?!#)", re.sub(r'url\("?data:', "", page))
    assert "prefers-color-scheme: dark" in page
    for run in list_runs(store):
        assert run.record["command"] in page
        assert run.record["selection"]["digest"] in page
    assert "not converged" in page
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_the_table_says_what_the_runs_do(store, tmp_path):
    runs = list_runs(store)
    report = write_report(store, runs, tmp_path / "r.html")
    json.dumps(report, allow_nan=False)
    assert report["runs"] == summarize(runs)
    accuracies = [line["accuracy"] for line in report["runs"]]
    assert accuracies == sorted(accuracies, reverse=True)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    for line in report["runs"]:
        assert f"<strong>{100 * line['accuracy']:.1f}</strong>" in page
        assert f"{line['kappa']:.3f}" in page


def test_the_papers_table_stands_beside_ours(store, tmp_path):
    lines = compare_published("sat4", list_runs(store))
    assert len(lines) == 7
    ours = lines[-1]
    assert ours["method"] == "ResNet50 features (proposed)"
    assert ours["published"] == 0.958
    assert ours["ours"] == max(r.metrics["test"]["accuracy"] for r in list_runs(store))
    assert ours["difference"] == pytest.approx(ours["ours"] - 0.958)
    assert (ours["n_runs"], ours["full"]) == (3, False)
    assert all("ours" not in line for line in lines[:-1])
    report = write_report(store, list_runs(store), tmp_path / "r.html")
    assert report["published"] == {"sat4": lines}
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert '<th scope="row">DeepSat (Basu et al. 2015)</th><td class="n">97.946</td>' in page
    assert "(not all of the paper's)" in page.replace("&#39;", "'")


def test_other_datasets_have_no_published_table(make_store, tmp_path):
    store = make_store(dataset="folder", title="my images")
    fit(store)
    assert compare_published("folder", list_runs(store)) == []
    assert write_report(store, list_runs(store), tmp_path / "r.html")["published"] == {}
    assert "published" not in (tmp_path / "r.html").read_text(encoding="utf-8").split("<main>")[1]


def test_published_numbers_are_table_4s():
    by_dataset = {name: [100 * row[2] for row in rows] for name, rows in PUBLISHED.items()}
    assert by_dataset["sat4"] == pytest.approx([97.946, 99.65, 99.72, 84, 89, 91, 95.8])
    assert by_dataset["sat6"] == pytest.approx([93.916, 99.54, 99.65, 82, 84, 89, 94.1])
    assert by_dataset["ucmerced"] == pytest.approx([97.99, 87, 89, 90, 98])


def test_names_from_outside_are_escaped(make_store, tmp_path):
    evil = '<script>alert("x")</script>'
    store = make_store(
        dataset="folder", title=f"{evil}&", class_names=(evil, "b", "c", "d"), model="resnet50"
    )
    fit(store, ["logreg", "ridge"], n_jobs=1)
    write_report(store, list_runs(store), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert evil not in page
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert" in page


def test_several_datasets_get_a_section_each(make_store, tmp_path):
    store = make_store(title="a", dataset="folder")
    X, y = blobs(320, 9, n_classes=2)
    splits = (np.arange(320) >= 240).astype(np.uint8)
    more = {"dataset": "folder", "title": "b", "class_names": ("x", "y")}
    add_features(store, {"fc8": X}, y, splits, model="alexnet", **more)
    fit(store, dataset="a")
    fit(store, dataset="b")
    write_report(store, list_runs(store), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert re.findall(r"<h2[^>]*>(.*)</h2>", page) == ["a", "b"]


def test_without_runs_it_says_how_to_make_one(make_store, tmp_path):
    store = make_store()
    with pytest.raises(RunError, match="featstore fit"):
        write_report(store, [], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_place_that_can_not_be_written_is_named_and_the_old_page_stays(store, tmp_path):
    runs = list_runs(store)
    (tmp_path / "r.html").mkdir()
    with pytest.raises(StoreError, match=r"r\.html can't be written"):
        write_report(store, runs, tmp_path / "r.html")
    (tmp_path / "old.html").write_text("old")
    runs = list_runs(store)
    (mlp,) = (run for run in runs if run.clf == "mlp")
    (mlp.path / "curves.json").write_text("{}")
    with pytest.raises(RunError, match=r"curves\.json is not what fit wrote"):
        write_report(store, runs, tmp_path / "old.html")
    assert (tmp_path / "old.html").read_text() == "old"
