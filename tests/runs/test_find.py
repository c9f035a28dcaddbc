import pytest
from conftest import add_features, blobs

from featstore.errors import RunError, SelectionError
from featstore.fitting.fit import fit
from featstore.runs import find
from featstore.runs.opening import list_runs, open_run
from featstore.runs.ranking import Ranking
from featstore.runs.tags import (
    read_tags,
    remove_run,
    remove_tag,
    run_to_remove,
    tag_run,
    tags_of,
)


@pytest.fixture
def two_runs(store, run):
    """Return the store's run, and one of ridge that is made after it."""
    return [run, *fit(store, "ridge", n_jobs=1)]


def test_last_is_the_run_that_was_made_last(store, two_runs):
    assert open_run("last", store).run_id == two_runs[1].run_id
    assert open_run("last:demo", store).run_id == two_runs[1].run_id


def test_best_is_the_choice_of_the_ranking(store, two_runs):
    best = Ranking(list_runs(store)).choice.best["run_id"]
    assert open_run("best", store).run_id == best


def test_best_of_several_datasets_asks_for_one(store, run):
    X, y = blobs(320, 9)
    (first,) = store.sets()
    add_features(store, {"fc8": X}, y, first.splits, title="other", model="alexnet")
    (other,) = fit(store, dataset="other", n_jobs=1)
    with pytest.raises(RunError, match=r"Choose one: best:demo, best:other"):
        open_run("best", store)
    assert open_run("best:other", store).run_id == other.run_id
    assert open_run("last", store).run_id in (run.run_id, other.run_id)
    with pytest.raises(RunError, match="No runs are on 'othre'. Did you mean other"):
        open_run("best:othre", store)


def test_the_beginning_of_a_run_s_key_names_it(store, run):
    assert open_run(run.run_id[-8:-4], store) == run
    assert open_run(run.run_id[:12], store) == run


def test_a_wrong_name_is_answered_with_those_like_it(store, run):
    tag_run(store, run, "paper")
    with pytest.raises(RunError, match=r"Did you mean paper\?"):
        open_run("papr", store)
    with pytest.raises(RunError, match=r"Did you mean best or .*\?|Did you mean best\?"):
        open_run("bets", store)
    with pytest.raises(SelectionError, match="neither a run nor a feature set"):
        find.open_run_or_set("nothing", store)


def test_a_tag_names_a_run_until_it_is_taken_away(store, two_runs):
    first, second = two_runs
    before = (first.path / "metrics.json").read_bytes()
    assert tag_run(store, first, "paper") is None
    assert open_run("paper", store) == first
    assert (first.path / "metrics.json").read_bytes() == before
    assert tag_run(store, second, "paper") == first.run_id
    assert tags_of(store) == {second.run_id: ["paper"]}
    assert remove_tag(store, "paper") == second.run_id
    with pytest.raises(RunError, match="No run is named 'paper'"):
        open_run("paper", store)
    with pytest.raises(RunError, match="Tags are: none"):
        remove_tag(store, "paper")


def test_a_refit_keeps_the_tag(store, run):
    tag_run(store, run, "paper")
    fit(store, refit=True, n_jobs=1)
    assert open_run("paper", store).run_id == run.run_id


@pytest.mark.parametrize("tag", ["last", "best", "all", "a/b", "a:b", "", "-a", "x" * 65, "ü"])
def test_names_with_another_meaning_are_no_tags(store, run, tag):
    with pytest.raises(RunError, match="can't name a run"):
        tag_run(store, run, tag)


def test_the_name_of_a_run_is_no_tag_of_another(store, two_runs):
    with pytest.raises(RunError, match="is the name of a run itself"):
        tag_run(store, two_runs[0], two_runs[1].run_id)


def test_a_removed_run_takes_its_tags_with_it(store, two_runs):
    first, second = two_runs
    tag_run(store, first, "paper")
    tag_run(store, second, "other")
    remove_run(store, first)
    assert [run.run_id for run in list_runs(store)] == [second.run_id]
    assert read_tags(store) == {"other": second.run_id}
    assert not first.path.exists()


def test_too_short_a_part_of_a_name_removes_nothing(store, run):
    with pytest.raises(SelectionError, match="too little of a name"):
        run_to_remove(run.run_id[:8], store)
    for name in (run.run_id, run.run_id[-6:], run.run_id[-8:-2], "last", str(run.path)):
        assert run_to_remove(name, store) == run
