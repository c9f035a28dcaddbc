import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import add_features, blobs
from makers import Listener, tiny

from featstore.errors import RunError, StoreError
from featstore.extraction.extract import extract
from featstore.fitting.fit import fit
from featstore.report.summaries import compare_published, summarize
from featstore.report.write import write_report
from featstore.runs.run import list_runs, open_run
from featstore.store.feature_store import open_store

pytestmark = pytest.mark.usefixtures("no_umap")

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


@pytest.fixture(autouse=True)
def _a_classifier_that_is_often_wrong(tmp_path, monkeypatch):
    code = """
import numpy as np
from sklearn.dummy import DummyClassifier

class Worst(DummyClassifier):
    def __init__(self, random_state=None):
        super().__init__(strategy="constant", constant=0, random_state=random_state)
"""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine_worst.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "code")


@pytest.fixture
def store(make_store):
    store = make_store(dataset="sat4", weights="IMAGENET1K_V2")
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
    # Each run, and the commands of all.
    assert checker.tags.count("details") == 4
    # Three confusion matrices, the bars, the curves of mlp, twice, the features.
    assert checker.tags.count("svg") == 7
    assert not re.search(r'(?:src|href)\s*=\s*"(?:https?:)?//', page)
    assert not re.search(r"@import|url\((?!#)", re.sub(r'url\("?data:', "", page))
    assert "prefers-color-scheme: dark" in page
    for run in list_runs(store):
        assert run.record.command in page
        assert run.record.selection.digest in page
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
    assert ours["ours"] == max(r.metrics.test.accuracy for r in list_runs(store))
    assert ours["difference"] == pytest.approx(ours["ours"] - 0.958)
    assert (ours["n_runs"], ours["full"]) == (3, False)
    assert all("ours" not in line for line in lines[:-1])
    report = write_report(store, list_runs(store), tmp_path / "r.html")
    assert report["published"] == {"sat4": lines}
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    plain = re.sub(r"\s+", " ", page)
    assert re.search(
        r'<th scope="row">DeepSat \(Basu et al. 2015\)</th> <td[^>]*>97.946</td>', plain
    )
    assert "Not on all of the paper's images: ResNet50 on SAT-4" in plain.replace("&#39;", "'")


def test_other_datasets_have_no_published_table(make_store, tmp_path):
    store = make_store(dataset="folder", title="my images")
    fit(store)
    assert compare_published("folder", list_runs(store)) == []
    assert write_report(store, list_runs(store), tmp_path / "r.html")["published"] == {}
    assert "published" not in (tmp_path / "r.html").read_text(encoding="utf-8").split("<main>")[1]


def test_files_hold_what_the_page_does(store, tmp_path):
    report = write_report(store, list_runs(store), tmp_path / "r.html", files=tmp_path / "files")
    names = {path.name for path in (tmp_path / "files").iterdir()}
    for stem in ("published", "datasets", "runs-sat4", "throughput"):
        assert {f"{stem}.md", f"{stem}.tex"} <= names
    for stem in ("bars-sat4", "confusion-sat4", "curves-mlp-sat4", "features-sat4"):
        assert {f"{stem}.png", f"{stem}.svg"} <= names
    assert "report.json" in names
    assert {str(tmp_path / "files" / name) for name in names} == set(report["files"])
    told = json.loads((tmp_path / "files" / "report.json").read_text(encoding="utf-8"))
    assert told["runs"] == report["runs"]
    best = max(line["accuracy"] for line in report["runs"])
    assert report["tables"]["published"]["rows"][-1]["ours on SAT-4"] == best


def test_what_was_left_out_and_how_to_do_it_again_is_said(store, tmp_path):
    write_report(
        store,
        list_runs(store),
        tmp_path / "r.html",
        command="featstore reproduce --quick",
        left_out=["sat6: found no <file>"],
    )
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Left out: sat6: found no &lt;file&gt;" in page
    assert "<pre>featstore reproduce --quick</pre>" in page


def test_features_that_are_gone_leave_the_rest(store, tmp_path):
    runs = list_runs(store)
    store.remove(store.sets()[0])
    write_report(store, runs, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("not there any more") >= 2
    assert "What the features cost" not in page
    assert "All runs on sat4" in page


def test_mistakes_have_pictures_where_the_images_are(images, tmp_path):
    store = open_store(tmp_path / "images-store")
    extract(store=store, **tiny(images))
    runs = fit(store, "mine_worst:Worst", n_jobs=1)
    report = write_report(store, runs, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    mistakes = report["mistakes"]["my images"]
    assert len(mistakes) == 6
    assert {m["predicted"] for m in mistakes} == {"forest"}
    assert page.count('src="data:image/') == 6 * 4
    (images / "test" / "sand" / "sand00.png").unlink()
    write_report(store, runs, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "src=" not in page
    assert "are not those any more" in page


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
    assert re.findall(r"<h2[^>]*>(.*)</h2>", page) == [
        "Images",
        "a",
        "b",
        "What the features cost",
        "To do it again",
    ]
    assert 'aria-label="Datasets"' in page


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
    (mlp,) = (run for run in runs if run.clf == "mlp")
    (mlp.path / "curves.json").write_text("{}")
    with pytest.raises(
        RunError, match=r"All runs .*damaged\.\n.*curves\.json is not what fit wrote"
    ):
        write_report(store, [open_run(mlp.path)], tmp_path / "old.html")
    assert (tmp_path / "old.html").read_text() == "old"


def test_a_damaged_run_is_passed_over_and_named(store, tmp_path):
    (mlp,) = (run for run in list_runs(store) if run.clf == "mlp")
    with (mlp.path / "curves.json").open("a") as stream:
        stream.write(" ")
    listener = Listener()
    report = write_report(
        store, list_runs(store), tmp_path / "r.html", left_out=["sat6"], progress=listener
    )
    assert {line["clf"] for line in report["runs"]} == {"logreg", "ridge"}
    other, damaged = report["left_out"]
    assert other == "sat6"
    assert f"{mlp.path} is damaged: curves.json is not what fit wrote" in damaged
    assert listener.lines == [f"Passed over: {damaged}"]
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert f"Left out: {mlp.path} is damaged" in page


def test_predictions_that_are_damaged_leave_the_rest(store, tmp_path):
    for run in list_runs(store):
        with (run.path / "predictions.csv").open("a") as stream:
            stream.write("x")
    report = write_report(store, list_runs(store), tmp_path / "r.html")
    assert report["mistakes"] == {"sat4": []}
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "predictions.csv is not what fit wrote" in page


def test_datasets_whose_names_are_written_alike_have_files_of_their_own(make_store, tmp_path):
    store = make_store(title="照片", dataset="folder")
    X, y = blobs(200, 9)
    splits = (np.arange(200) >= 150).astype(np.uint8)
    add_features(store, {"fc8": X}, y, splits, dataset="folder", title="图像")
    for feature_set in store.sets():
        fit(store, "lda", set_id=feature_set.set_id)
    report = write_report(store, list_runs(store), tmp_path / "r.html", files=tmp_path / "files")
    assert {"runs-unnamed", "runs-unnamed-2"} <= set(report["tables"])
    titles = [report["tables"][name]["title"] for name in ("runs-unnamed", "runs-unnamed-2")]
    assert sorted(titles) == ["All runs on 图像", "All runs on 照片"]
    for name in ("runs-unnamed.md", "runs-unnamed-2.md", "bars-unnamed-2.png"):
        assert (tmp_path / "files" / name).is_file()


def test_images_of_one_name_get_a_section_each(make_store, tmp_path):
    store = make_store(title="photos", dataset="folder")
    X, y = blobs(200, 9)
    splits = (np.arange(200) >= 150).astype(np.uint8)
    more = {"dataset": "folder", "title": "photos", "model": "alexnet"}
    add_features(store, {"fc8": X}, y, splits, **more)
    for feature_set in store.sets():
        fit(store, "lda", set_id=feature_set.set_id)
    report = write_report(store, list_runs(store), tmp_path / "r.html")
    headings = re.findall(r"<h2[^>]*>(.*)</h2>", (tmp_path / "r.html").read_text(encoding="utf-8"))
    assert sum(heading.startswith("photos (images ") for heading in headings) == 2
    assert "the digits tell the images apart" in report["tables"]["datasets"]["note"]
    assert [row["dataset"] for row in report["tables"]["datasets"]["rows"]] == headings[1:3]


def test_table_4_is_of_all_folders_of_a_dataset(make_store, tmp_path):
    more = {"dataset": "ucmerced", "weights": "IMAGENET1K_V1"}
    store = make_store(title="UC Merced", **more)
    X, y = blobs(200, 9)
    splits = (np.arange(200) >= 150).astype(np.uint8)
    add_features(store, {"fc8": X}, y, splits, title="UC Merced", model="alexnet", **more)
    for feature_set in store.sets():
        fit(store, "lda", set_id=feature_set.set_id)
    for runs in (list_runs(store), list_runs(store)[::-1]):
        report = write_report(store, runs, tmp_path / "r.html")
        assert len(report["published"]) == 2
        rows = {row["method"]: row for row in report["tables"]["published"]["rows"]}
        for method, model in (
            ("AlexNet features", "alexnet"),
            ("ResNet50 features (proposed)", "resnet50"),
        ):
            (run,) = [run for run in runs if run.selection.model == model]
            assert rows[method]["ours on UC Merced"] == run.metrics.test.accuracy
