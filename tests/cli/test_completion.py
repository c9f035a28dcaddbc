import os
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from featstore.cli.main import cli
from featstore.store.feature_store import open_store


def completed(*words):
    """Return what a shell offers for the last word."""
    *args, incomplete = words
    found = ShellComplete(cli, {}, "featstore", "_X").get_completions(list(args), incomplete)
    return [item.value for item in found], {item.type for item in found}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("extract", "--model", "resnet50"), ["resnet50", "resnet50_v1"]),
        (("extract", "--dataset", "sat"), ["sat4", "sat6"]),
        (("extract", "--model", "resnet50", "--layers", "fc"), ["fc1000"]),
        (("fit", "--clf", "logreg,li"), ["logreg,linear-svm"]),
        (("models", "show", "vgg19"), ["vgg19", "vgg19_bn"]),
    ],
)
def test_names_are_offered(words, offered):
    assert completed(*words)[0] == offered


def test_what_the_store_holds_is_offered(run, monkeypatch):
    store = open_store(run.path.parent.parent)
    monkeypatch.chdir(store.path.parent)
    monkeypatch.setenv("FEATSTORE_STORE", "store")
    (feature_set,) = store.sets()
    assert completed("predict", "")[0] == ["last", "best", run.run_id]
    assert completed("runs", "rm", "demo")[0] == [run.run_id]
    assert completed("store", "show", "")[0] == [feature_set.set_id]
    assert completed("fit", "--layers", "fc")[0] == ["fc1000"]
    assert completed("fit", "--model", "")[0] == ["resnet50"]
    assert completed("fit", "--dataset", "")[0] == ["demo"]
    assert completed("neighbors", "demo")[0] == [run.run_id, feature_set.set_id]
    assert completed("neighbors", "run", "--metric", "")[0][:2] == ["cosine", "euclidean"]
    assert run.run_id in completed("neighbors", "run", "--metric", "")[0]


def test_names_that_move_the_cursor_are_not_offered(make_store, monkeypatch):
    store = make_store(n_samples=40, title="a\x1b[2J")
    monkeypatch.setenv("FEATSTORE_STORE", str(store.path))
    assert completed("fit", "--dataset", "")[0] == []
    assert completed("fit", "--layers", "")[0] == ["fc1000"]


def test_a_store_that_is_not_there_offers_what_is_always_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert completed("fit", "--layers", "")[0] == []
    assert completed("store", "show", "")[0] == []


def test_paths_are_left_to_the_shell():
    assert completed("predict", "best", "im") == (["im"], {"file"})
    assert completed("extract", "--root", "im") == (["im"], {"dir"})
    assert completed("extract", "--weights", "my/")[1] == {"file"}
    assert completed("extract", "--weights", "image")[0] == ["imagenet"]


def test_the_shell_s_answer_loads_no_torch(store):
    code = (
        "import sys\nfrom featstore.cli.main import main\n"
        "try: main([])\n"
        "finally: print([m for m in ('torch', 'sklearn', 'zarr') if m in sys.modules])"
    )
    env = os.environ | {
        "_FEATSTORE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"featstore predict --store {store.path} b",
        "COMP_CWORD": "4",
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "plain,best\n[]\n"
