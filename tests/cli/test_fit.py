import json
import shlex
import statistics
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import blobs
from makers import tiny

import featstore
from featstore.cli.fit import command
from featstore.cli.main import main
from featstore.fitting.classifiers import CLASSIFIERS
from featstore.runs.opening import list_runs

pytestmark = pytest.mark.usefixtures("blank_pictures")


def call(*args):
    """Run the command line as a shell would; return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(["fit", *map(str, args)])
    return caught.value.code


def test_json_is_one_object_with_what_scripts_rely_on(store, capsys):
    assert call("--store", store.path, "--clf", "logreg", "--json") == 0
    out, err = capsys.readouterr()
    (run,) = json.loads(out)["runs"]
    promised = {"clf", "model", "dataset", "layers", "n_train", "n_test"}
    promised |= {"accuracy", "kappa", "duration_s", "run_dir"}
    assert promised <= set(run)
    assert (run["clf"], run["model"], run["dataset"]) == ("logreg", "resnet50", "demo")
    assert run["layers"] == ["fc1000"]
    assert (run["n_train"], run["n_test"]) == (240, 80)
    assert 0.9 < run["accuracy"] <= 1
    assert run["run_dir"] == str(list_runs(store)[0].path)
    assert run["reused"] is False
    assert "80 rows" in err


def test_a_search_is_advised_where_the_number_of_features_leaves_the_penalty_open(
    make_store, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["/bin/featstore", "fit", "--clf", "logreg,knn"])
    store = make_store(n_features=64, title="plain")
    make_store(80, n_features=64, title="few")
    make_store(n_features=63, title="narrow")
    make_store(n_features=1_000, title="wide")
    advice = "parameters of logreg are likely better. To search for them: featstore fit --clf"
    for options, is_advised in (
        (["--dataset", "plain", "--clf", "logreg,knn"], True),
        (["--dataset", "plain", "--clf", "logreg", "--search", "grid", "--grid", "C=1,10"], False),
        (["--dataset", "plain", "--clf", "logreg", "--param", "C=10"], False),
        (["--dataset", "plain", "--clf", "ridge"], False),
        (["--dataset", "plain", "--protocol", "corley"], False),
        (["--dataset", "few", "--clf", "logreg"], False),
        (["--dataset", "narrow", "--clf", "logreg"], False),
        (["--dataset", "wide", "--clf", "logreg"], False),
    ):
        call("--store", store.path, "--n-jobs", 1, *options)
        out = capsys.readouterr().out
        assert (f"{advice} logreg,knn --search grid" in out) == is_advised, options


def test_people_get_a_table_notes_and_what_to_type_next(store, capsys):
    args = ("--store", store.path, "--clf", "sgd", "--param", "max_iter=2", "--n-jobs", 1)
    assert call(*args) == 0
    out, err = capsys.readouterr()
    (run,) = list_runs(store)
    accuracy = f"{100 * run.metrics.test.accuracy:.1f}"
    (line,) = (line for line in out.splitlines() if line.strip().startswith("resnet50 "))
    assert f" {accuracy} " in line
    assert "sgd *" in line
    assert "demo: 240 rows to train (4 classes of 60), 80 to test" in out
    assert "had not converged after max_iter=2" in out
    assert f"featstore predict {run.run_id} IMAGE_OR_FOLDER --store {store.path}" in out
    assert f"{accuracy} % of 80 rows" in err
    assert "Warning" not in out + err


def test_the_recorded_command_makes_the_same_run(store, capsys):
    weights = "class_weight={'barren land': 2.0, 'trees': 0.5}"
    args = ("--clf", "sgd,mlp", "--param", "mlp:hidden_layer_sizes=(8, 4)", "--epochs", 4)
    assert call("--store", store.path, *args, "--param", f"sgd:{weights}", "--seed", 3) == 0
    runs = list_runs(store)
    assert {run.clf for run in runs} == {"sgd", "mlp"}
    for run in runs:
        words = shlex.split(run.record.command)
        assert words[:2] == ["featstore", "fit"]
        capsys.readouterr()
        assert call(*words[2:], "--json") == 0
        (again,) = json.loads(capsys.readouterr().out)["runs"]
        assert again["reused"] is True
        assert again["run_id"] == run.run_id


def test_what_failed_is_reported_beside_what_is_kept(store, capsys):
    args = ("--store", store.path, "--clf", "logreg", "--clf", "knn", "--n-jobs", 1)
    assert call(*args, "--param", "knn:n_neighbors=999", "--json") == 1
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [run["clf"] for run in result["runs"]] == ["logreg"]
    assert [failure["fit"] for failure in result["failures"]] == [
        "demo resnet50 (random:0) fc1000 · knn"
    ]
    assert "Error: 1 of 2 fits failed; the runs of the others are kept." in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--clf", "cnn"], 1, "There are logreg, linear-svm"),
        (["--param", "gamma=1"], 1, "logreg has no parameter gamma. It has C, "),
        (["--param", "C=-1"], 1, "'C' parameter"),
        (["--param", "C"], 1, "not name=value"),
        (["--layers", "conv9"], 1, "conv9"),
        (["--dataset", "sat6"], 1, "No feature set fits"),
        (["--n-jobs", "0"], 2, "--n-jobs"),
        (["--seed", "-1"], 2, "--seed"),
        (["--nonsense"], 2, "--nonsense"),
        (["--cv", "1"], 2, "--cv"),
        (["--search", "best"], 2, "--search"),
        (["--grid", "C=1,2"], 1, "add --search grid"),
        (["--search", "grid", "--grid", "C"], 1, "not name=value,value"),
        (["--search", "grid", "--grid", "C=1", "--param", "C=1"], 1, "both fixed and in the grid"),
        (["--memory", "much"], 2, "is not a size; use e.g. 8GB"),
        (["--memory", "1e400GB"], 2, "is not a size; use e.g. 8GB"),
        (["--cv", "3"], 2, "--cv is for --search grid or random or halving"),
        (["--search", "grid", "--n-candidates", "3"], 2, "--n-candidates is for --search random"),
        (["--clf", "svm", "--param", "decision_function_shape=ovo"], 1, "featstore sets it"),
        (["--clf", "lda", "--param", "solver=svd"], 1, "shrinkage not supported"),
        (["--clf", "lda", "--param", "priors=[0.1,0.1]"], 1, "lda can't be fitted"),
        (["--clf", "logreg", "--param", "class_weight={0: 1, 'a': 2}"], 1, "can't be recorded"),
        (["--param", "class_weight={'tree': 2}"], 1, "names the class 'tree'"),
        (["--param", "class_weight={tree: 2}"], 1, "class_weight={'trees': 2}"),
        (["--clf", "mlp", "--param", "hidden_layer_sizes=(0,)"], 1, "must be > 0"),
        (["--clf", "mlp", "--param", "solver=lbfgs", "--epochs", "3"], 1, "solver=lbfgs is not"),
        (["--memory", "1kB"], 1, "are allowed by --memory"),
        (["--epochs", "5"], 1, "--epochs is for mlp, dbn, sgd and softmax"),
        (["--clf-device", "tpu"], 1, "must be cpu, cuda or cuda:N"),
        (["--clf-device", "cuda", "--clf", "svm"], 1, "logreg, ridge and lda on a GPU, not svm"),
        (["--intelex"], 1, "speeds up svm"),
        (["--clf", "no.such:make"], 1, "No module named 'no'"),
        (["--scheduler", "nowhere"], 1, "No Dask scheduler answers"),
        (["--search", "grid", "--cv", "61"], 1, "Try --cv 60"),
    ],
)
def test_mistakes_end_with_a_message_and_the_right_code(store, capsys, args, code, message):
    assert call("--store", store.path, *args) == code
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_a_search_tells_what_it_chose_and_its_command_makes_the_same_run(store, capsys):
    args = ("--clf", "ridge,knn", "--search", "grid", "--grid", "ridge:alpha=0.1,10")
    args = (*args, "--grid", "knn:n_neighbors=1,3", "--grid", "knn:weights=uniform", "--cv", 3)
    assert call("--store", store.path, *args) == 0
    out, _ = capsys.readouterr()
    runs = {run.clf: run for run in list_runs(store)}
    assert set(runs) == {"ridge", "knn"}
    assert " cv " in out
    for run, n in ((runs["ridge"], 2), (runs["knn"], 4)):
        assert len(run.record.search.candidates) == n
        assert f"of {n} settings, by 3-fold cross-validation" in out
        words = shlex.split(run.record.command)
        assert call(*words[2:], "--json") == 0
        (again,) = json.loads(capsys.readouterr().out)["runs"]
        assert (again["run_id"], again["reused"]) == (run.run_id, True)
        assert again["cv_accuracy"] == run.record.search.accuracy


def test_repeats_are_one_line_with_mean_and_deviation(make_store, capsys):
    X, y = blobs(320, 20)
    X += np.random.default_rng(1).normal(size=X.shape).astype(np.float32) * 4
    store = make_store(X=X, y=y)
    assert call("--store", store.path, "--clf", "lda", "--repeats", 3, "--split-seed", 0) == 0
    out, _ = capsys.readouterr()
    runs = list_runs(store)
    accuracies = [100 * run.metrics.test.accuracy for run in runs]
    assert len(set(accuracies)) > 1
    expected = f"{statistics.fmean(accuracies):.1f} ± {statistics.stdev(accuracies):.1f}"
    (line,) = (line for line in out.splitlines() if line.strip().startswith("resnet50 "))
    assert "lda x 3" in line
    assert expected in line
    assert sorted(run.record.fit.split_seed for run in runs) == [0, 1, 2]


def test_repeats_of_an_official_split_say_that_they_keep_it(store, capsys):
    assert call("--store", store.path, "--clf", "lda", "--repeats", 2) == 0
    assert "The repeats keep the official split of demo" in capsys.readouterr().err
    assert {run.record.fit.split_seed for run in list_runs(store)} == {None}


def test_the_table_is_sorted_and_fits_80_columns(make_store, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    X, y = blobs(320, 20)
    store = make_store(layers={"a.long.name.of.a.layer": X, "another.layer": X[:, :2]}, y=y)
    layers = "a.long.name.of.a.layer,another.layer"
    assert call("--store", store.path, "--layers", layers, "--layers", "another.layer") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:8])) <= 80
    rows = [line.split() for line in lines[:8] if " logreg " in line]
    accuracies = [next(float(word) for word in row[3:] if word[0].isdigit()) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert [row[-1] for row in rows].count("best") == 1


def test_of_several_layers_the_feature_layer_is_used_and_said(make_store, capsys):
    X, y = blobs(320, 20)
    store = make_store(layers={"fc1000": X, "conv1": X[:, :2]}, y=y)
    assert call("--store", store.path, "--json") == 0
    out, err = capsys.readouterr()
    (run,) = json.loads(out)["runs"]
    assert run["layers"] == ["fc1000"]
    assert "resnet50 has the layers conv1, fc1000. Using its feature layer fc1000" in err
    (run,) = featstore.fit(store, "ridge", n_jobs=1)
    assert run.selection.layers == ("fc1000",)


def test_leaks_are_told_and_dropped(make_store, capsys):
    first_rows = np.arange(320)
    first_rows[[250, 251]] = [3, 4]
    store = make_store(first_rows=first_rows)
    assert call("--store", store.path) == 0
    assert "2 of the test images are also among the training images" in capsys.readouterr().out
    assert call("--store", store.path, "--drop-leaks") == 0
    out, _ = capsys.readouterr()
    assert "2 test images that are also training images were left out" in out
    assert "78 to test" in out


@pytest.mark.usefixtures("blank_pictures", "few_epochs")
def test_all_fits_the_whole_field(store, capsys):
    args = ("--store", store.path, "--clf", "all", "--n-jobs", 1, "--json")
    assert call(*args, "--epochs", 5) == 1
    out, err = capsys.readouterr()
    result = json.loads(out)
    trained = {run["clf"] for run in result["runs"]}
    assert trained == {"mlp", "dbn", "sgd", "softmax"}
    assert len(result["failures"]) == len(CLASSIFIERS) - 4


def test_help_names_every_classifier_and_loads_nothing_heavy():
    text = CliRunner().invoke(command, ["--help"]).output
    assert all(name in text for name in CLASSIFIERS)
    code = (
        "import sys, featstore.cli.fit, featstore.cli.report; "
        "print([m for m in ('numpy', 'sklearn', 'torch', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_baselines_are_of_the_images_that_were_extracted(images, tmp_path, monkeypatch, capsys):
    store = tmp_path / "store"
    featstore.extract(store=store, **tiny(images, weights="random:7"))
    # Where datasets are looked for is not where this folder is.
    monkeypatch.setenv("FEATSTORE_DATA", str(tmp_path / "nowhere"))
    args = ("--store", store, "--weights", "random:7", "--clf", "knn", "--baselines")
    assert call(*args) == 0
    out = capsys.readouterr().out
    assert "pixelstats" in out
    images.rename(tmp_path / "moved")
    assert call(*args, "--json", "--param", "knn:weights=distance") == 1
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [run["model"] for run in result["runs"]] == ["resnet18"]
    failed = [one["fit"] for one in result["failures"]]
    assert failed == ["my images pixelstats", "my images resnet18 (random:0)"]
    assert "2 of 3 fits failed; the runs of the others are kept." in err
    assert f"{images}" in err
