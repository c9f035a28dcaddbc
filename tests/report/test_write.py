import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from makers import Listener, altered, of_pixels

from featstore.errors import ConfigError, RunError, StoreError
from featstore.extraction.extract import extract
from featstore.fitting.fit import fit
from featstore.io.files import read_json, write_json
from featstore.report.summaries import compare_published, summarize
from featstore.report.write import _break_points, write_report
from featstore.runs.opening import list_runs, open_run
from featstore.store.feature_store import open_store

pytestmark = pytest.mark.usefixtures("blank_pictures")

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


WORST = """
from sklearn.dummy import DummyClassifier

class Worst(DummyClassifier):
    def __init__(self, random_state=None):
        super().__init__(strategy="constant", constant=0, random_state=random_state)
"""


@pytest.fixture(scope="module")
def page_of_sat4(sat4_store, tmp_path_factory):
    """Return the page of the shared store, with its figures, and what write_report returned."""
    path = tmp_path_factory.mktemp("page") / "new folder" / "report.html"
    report = write_report(sat4_store, list_runs(sat4_store), path)
    return path, report


def test_the_page_is_whole_valid_and_needs_no_network(sat4_store, page_of_sat4):
    store, (path, _) = sat4_store, page_of_sat4
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert set(checker.links) <= set(checker.ids)
    # Each run, and the commands of all.
    assert checker.tags.count("details") == 4
    # The bars, the probabilities, the curves of mlp, the features.
    assert checker.tags.count("svg") == 4
    assert page.count('<table class="confusion') == 3
    assert not re.search(r'(?:src|href)\s*=\s*"(?:https?:)?//', page)
    assert not re.search(r"@import|url\((?!#)", re.sub(r'url\("?data:', "", page))
    assert "prefers-color-scheme: dark" in page
    plain = re.sub(r"</?span[^>]*>", "", page)
    for run in list_runs(store):
        assert run.record.command in plain
        assert run.record.selection.digest in page
    assert "not converged" in page
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_the_table_says_what_the_runs_do(sat4_store, page_of_sat4):
    path, report = page_of_sat4
    json.dumps(report, allow_nan=False)
    assert report["runs"] == summarize(list_runs(sat4_store))
    accuracies = [line["accuracy"] for line in report["runs"]]
    assert accuracies == sorted(accuracies, reverse=True)
    page = path.read_text(encoding="utf-8")
    for line in report["runs"]:
        assert f">{100 * line['accuracy']:.1f}<" in page.replace("<strong>", "<")
        assert f"{line['kappa']:.3f}" in page


def test_the_page_names_the_best_run_and_the_command_that_labels_with_it(page_of_sat4):
    path, report = page_of_sat4
    (best,) = [line for line in report["runs"] if line["is_best"]]
    told = report["best"]["sat4"]
    assert (told["run_id"], told["name"]) == (best["run_id"], best["name"])
    page = re.sub(r"<wbr>|</?span[^>]*>", "", path.read_text(encoding="utf-8"))
    assert f"featstore predict {best['run_id']} images/ --store " in page
    assert told["choice"] in page
    details = re.findall(r'<details id="r-([0-9a-f]+)" open>', page)
    assert details == [best["run_id"][-8:]]


def test_repeats_open_with_their_mean_and_never_with_the_luckiest(run, sat4_store, tmp_path):
    lucky = (73, 70, 71, 71, 70, 72, 70, 69, 71, 76)
    runs = [altered(run, n_right=n, seed=i, split_seed=i) for i, n in enumerate(lucky)]
    other = altered(run, n_right=30, clf="knn")
    listener = Listener()
    report = write_report(
        sat4_store, [*runs, other], tmp_path / "r.html", files=tmp_path, progress=listener
    )
    nearest = min(r.run_id for r, n in zip(runs, lucky, strict=True) if n == 71)
    assert report["best"]["sat4"]["run_id"] == nearest
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    head = page.split('<h2 id="d-')[1].split("<table")[0]
    assert "89.1 ± 2.5 %" in re.sub(r"\s+", " ", head)
    # The luckiest, 95.0 %, is only in the list of all repeats.
    assert "95.0" not in page.split("<h3>Each run</h3>")[0]
    assert "95.0" in page.split("Accuracies in %:")[1].split("</p>")[0]
    assert [line["n_repeats"] for line in report["runs"]] == [10, 1]
    assert [row["accuracy"] for row in report["tables"]["runs-sat4"]["rows"]] == [
        pytest.approx(0.89125),
        0.375,
    ]
    for name in ("runs-sat4.md", "runs-sat4.tex"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "89.1 ± 2.5" in text
        assert "95.0" not in text
    # Each of the runs is a step of the bar.
    (phase,) = listener.named("Reporting")
    assert phase.n_done == phase.total > 4


def test_the_papers_table_stands_beside_ours(sat4_store, page_of_sat4):
    path, report = page_of_sat4
    lines = compare_published("sat4", list_runs(sat4_store))
    assert len(lines) == 7
    ours = lines[-1]
    assert ours["method"] == "ResNet50 features (proposed)"
    assert ours["published"] == 0.958
    assert ours["run_id"] == report["best"]["sat4"]["run_id"]
    assert ours["difference"] == pytest.approx(ours["ours"] - 0.958)
    assert (ours["n_runs"], ours["full"]) == (3, False)
    assert all("ours" not in line for line in lines[:-1])
    assert report["published"] == {"sat4": lines}
    page = path.read_text(encoding="utf-8")
    plain = re.sub(r"\s+", " ", page)
    assert re.search(
        r'<th scope="row">DeepSat \(Basu et al. 2015\)</th> <td[^>]*>97.946</td>', plain
    )
    assert "Not on all of the paper's images: ResNet50 on SAT-4" in plain.replace("&#39;", "'")


def test_your_own_images_have_no_tables_of_the_papers(sat4_store, run, tmp_path):
    own = altered(run, selection={"dataset": "folder", "title": "my images"})
    assert compare_published("folder", [own]) == []
    report = write_report(sat4_store, [own], tmp_path / "r.html")
    assert report["published"] == {}
    assert set(report["tables"]) == {"runs-my-images", "throughput"}
    page = (tmp_path / "r.html").read_text(encoding="utf-8").split("<main>")[1]
    assert "published" not in page
    assert "Table 3" not in page


def test_files_hold_what_the_page_does(sat4_store, tmp_path):
    runs = list_runs(sat4_store)
    report = write_report(sat4_store, runs, tmp_path / "r.html", files=tmp_path / "files")
    names = {path.name for path in (tmp_path / "files").iterdir()}
    for stem in ("published", "datasets", "runs-sat4", "throughput"):
        assert {f"{stem}.md", f"{stem}.tex"} <= names
    for stem in ("bars-sat4", "confusion-sat4", "curves-mlp-sat4", "features-sat4"):
        assert {f"{stem}.png", f"{stem}.svg"} <= names
    assert "report.json" in names
    assert {str(tmp_path / "files" / name) for name in names} == set(report["files"])
    told = json.loads((tmp_path / "files" / "report.json").read_text(encoding="utf-8"))
    assert told["runs"] == report["runs"]
    (best,) = [line["accuracy"] for line in report["runs"] if line["is_best"]]
    assert report["tables"]["published"]["rows"][-1]["ours on SAT-4"] == best


def test_the_page_says_what_was_left_out_and_how_to_repeat_it(sat4_store, run, tmp_path):
    write_report(
        sat4_store,
        [run],
        tmp_path / "r.html",
        command="featstore reproduce --quick",
        left_out=["sat6: found no <file>"],
    )
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Left out: sat6: found no &lt;file&gt;" in page
    assert "<pre>featstore reproduce --quick</pre>" in re.sub("</?span[^>]*>", "", page)


def test_features_that_are_gone_leave_the_rest(store, tmp_path):
    runs = list_runs(store)
    store.remove(store.sets()[0])
    write_report(store, runs, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("The features are gone.") == 2
    assert "What the features cost" not in page
    assert "All runs on sat4" in page


def test_mistakes_have_pictures_if_the_images_are_there(images, tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine_worst.py").write_text(WORST)
    monkeypatch.syspath_prepend(tmp_path / "code")
    store = open_store(tmp_path / "images-store")
    extract(store=store, **of_pixels(images))
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
    assert "are not those of" in page


def test_names_from_outside_are_escaped(make_store, tmp_path):
    evil = '<script>alert("x")</script>'
    store = make_store(
        dataset="folder", title=f"{evil}&", class_names=(evil, "b", "c", "d"), model="resnet50"
    )
    fit(store, ["lda", "ridge"], n_jobs=1)
    write_report(store, list_runs(store), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert evil not in page
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert" in page


def test_several_datasets_get_a_section_each(sat4_store, run, tmp_path):
    folder = {"dataset": "folder", "fingerprint": "other"}
    runs = [altered(run, selection=folder | {"title": title}) for title in ("b", "a")]
    write_report(sat4_store, runs, tmp_path / "r.html")
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
    with pytest.raises(RunError, match="featstore fit"):
        write_report(make_store(), [], tmp_path / "r.html")
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


def test_a_page_of_many_runs_shows_the_best_and_counts_the_others(store, tmp_path, monkeypatch):
    for name in ("MAX_CURVES", "MAX_ALONE"):
        monkeypatch.setattr(f"featstore.report.sections.{name}", 1)
    (mlp,) = (run for run in list_runs(store) if run.clf == "mlp")
    for i in range(4):
        path = shutil.copytree(mlp.path, mlp.path.with_name(f"mlp-{i}")) / "metrics.json"
        record = read_json(path)
        record["fit"]["params"]["copy"] = i
        record["metrics"]["test"]["accuracy"] = 0.98 if i else 0.25
        write_json(path, record)
    listener = Listener()
    runs = list_runs(store)
    report = write_report(store, runs, tmp_path / "r.html", top=6, progress=listener)
    assert len(report["runs"]) == len(report["tables"]["runs-sat4"]["rows"]) == 6
    assert 0.25 not in [line["accuracy"] for line in report["runs"]]
    assert sum(line["is_best"] for line in report["runs"]) == 1
    (left_out,) = report["left_out"]
    assert left_out == "1 of 7 fits on sat4. The page shows the best 6; --top shows more."
    assert f"Left out: {left_out}" in listener.lines
    assert report["tables"]["runs-sat4"]["title"] == "The best 6 of 7 fits on sat4"
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert f"Left out: {left_out}" in page
    # Of four fits with curves one is drawn with others, and one alone.
    assert (
        "3 more are below, each by itself, but for the last 2: featstore runs show RUN draws"
        in page
    )
    assert page.count("Training accuracy and loss by epoch of") == 1
    # The page holds its drawings: the runs' own would take a second each.
    assert not [*store.path.glob("runs/*/*.png")]
    with pytest.raises(ConfigError, match="top is 0; it must be 1 or more"):
        write_report(store, runs, tmp_path / "r.html", top=0)


def test_predictions_that_are_damaged_leave_the_rest(store, tmp_path):
    for run in list_runs(store):
        with (run.path / "predictions.csv").open("a") as stream:
            stream.write("x")
    report = write_report(store, list_runs(store), tmp_path / "r.html")
    assert report["mistakes"] == {"sat4": []}
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "predictions.csv is not what fit wrote" in page


def test_datasets_of_one_safe_name_have_files_of_their_own(sat4_store, run, tmp_path):
    titles = {"照片": "one", "图像": "two"}
    runs = [
        altered(run, selection={"dataset": "folder", "title": title, "fingerprint": images})
        for title, images in titles.items()
    ]
    report = write_report(sat4_store, runs, tmp_path / "r.html", files=tmp_path / "files")
    assert {"runs-unnamed", "runs-unnamed-2"} <= set(report["tables"])
    titles = [report["tables"][name]["title"] for name in ("runs-unnamed", "runs-unnamed-2")]
    assert sorted(titles) == ["All runs on 图像", "All runs on 照片"]
    for name in ("runs-unnamed.md", "runs-unnamed-2.md", "bars-unnamed-2.png"):
        assert (tmp_path / "files" / name).is_file()


def test_images_of_one_name_get_a_section_each(sat4_store, run, tmp_path):
    photos = {"dataset": "folder", "title": "photos"}
    runs = [altered(run, selection=photos | {"fingerprint": images}) for images in ("1a", "2b")]
    report = write_report(sat4_store, runs, tmp_path / "r.html")
    headings = re.findall(r"<h2[^>]*>(.*)</h2>", (tmp_path / "r.html").read_text(encoding="utf-8"))
    assert sum(heading.startswith("photos (images ") for heading in headings) == 2
    assert "Digits tell images of one name apart" in report["tables"]["datasets"]["note"]
    assert [row["dataset"] for row in report["tables"]["datasets"]["rows"]] == headings[1:3]


def test_table_4_is_of_all_folders_of_a_dataset(sat4_store, run, tmp_path):
    models = {"AlexNet features": "alexnet", "ResNet50 features (proposed)": "resnet50"}
    ucmerced = {"dataset": "ucmerced", "title": "UC Merced"}
    runs = [
        altered(run, n_right=70 + i, selection=ucmerced | {"model": model, "fingerprint": model})
        for i, model in enumerate(models.values())
    ]
    for given in (runs, runs[::-1]):
        report = write_report(sat4_store, given, tmp_path / "r.html")
        assert len(report["published"]) == 2
        rows = {row["method"]: row for row in report["tables"]["published"]["rows"]}
        for method, model in models.items():
            (own,) = [one for one in runs if one.selection.model == model]
            assert rows[method]["ours on UC Merced"] == own.metrics.test.accuracy


def test_an_unknown_projection_is_refused_before_anything_is_drawn(sat4_store, run, tmp_path):
    listener = Listener()
    with pytest.raises(ConfigError, match="one of pca, tsne, umap"):
        write_report(sat4_store, [run], tmp_path / "r.html", projection="isomap", progress=listener)
    assert not listener.phases


def test_a_classs_name_that_is_long_breaks_at_its_separators():
    parts = _break_points("mobilenet_v2 features.0+features.13.conv.2+classifier.1 · logreg")
    assert parts == [
        "mobilenet_v2 features.0+",
        "features.13.",
        "conv.2+",
        "classifier.1 · logreg",
    ]
    assert _break_points("88.3 ± 1.8") == ["88.3 ± 1.8"]
