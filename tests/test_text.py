from __future__ import annotations

import pytest

from featstore.text import (
    duration_text,
    from_csv,
    join_some,
    model_text,
    nbytes_text,
    no_formula,
    run_text,
)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (4.2e6, "4.2 MB"), (3e12, "3.0 TB")],
)
def test_bytes_for_people(nbytes, text):
    assert nbytes_text(nbytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0.04, "0.0 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min"),
        (61, "1 min 1 s"),
        (600, "10 min"),
        (3599.9, "1 h"),
        (7260, "2 h 1 min"),
    ],
)
def test_durations_for_people(duration_s, text):
    assert duration_text(duration_s) == text


def test_of_long_lists_the_first_names_are_shown():
    assert join_some(["a", "b"]) == "a, b"
    assert join_some(range(5)) == "0, 1, 2, 3, 4"
    assert join_some(range(6)) == "0, 1, 2, 3, 4 and 1 more"
    assert join_some(range(2000), 1) == "0 and 1,999 more"


def test_random_weights_are_part_of_a_networks_name():
    assert model_text("alexnet", "IMAGENET1K_V1") == "alexnet"
    assert model_text("alexnet", "random:3") == "alexnet (random:3)"
    both = model_text("alexnet+resnet18", "IMAGENET1K_V1+random:0")
    assert both == "alexnet+resnet18 (IMAGENET1K_V1+random:0)"
    run = run_text("vgg19", "random:0", ["conv1_1", "fc8"], "lda")
    assert run == "vgg19 (random:0) conv1_1+fc8 · lda"


@pytest.mark.parametrize("text", ["=1+1", "'=1+1", "''-a", "@", "\tb", "'a", "a=1", "", "'"])
def test_no_text_is_a_formula_and_each_comes_back(text):
    shown = no_formula(text)
    assert not shown.startswith(("=", "+", "-", "@", "\t"))
    assert from_csv(shown) == text
    assert (shown != text) == ("'" in shown and text not in ("'a", "'"))
