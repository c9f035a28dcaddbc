"""Files that are not what they should be: refused in plain words, in bounded time and memory."""

from __future__ import annotations

import mutants
import pytest

N_QUICK, N_LONG = 12, 120

MODULES = {
    "pth": ["featstore.models.backbone"],
    "safetensors": ["featstore.models.backbone"],
    "scene": ["featstore.datasets.windows"],
}
"""What reading a kind of file imports, beside what the zygote has imported."""


def damaged_files(children, folder, kind, seed, n, **options):
    options |= {"kind": kind, "seed": seed, "n": n}
    modules = MODULES.get(kind, [])
    return children.start("damage", place=str(folder), options=options, modules=modules).result


def check(children, kind, folder, seed, n, tally):
    told = damaged_files(children, folder, kind, seed, n)
    assert told["wrong"] == []
    assert told["refused"] + told["read"] == n
    # Damage that is noticed is the rule, or the damage would be none.
    assert told["refused"] > n // 10
    for ending in ("refused", "read"):
        for _ in range(told[ending]):
            tally.add("damaged files", kind, ending)


@pytest.mark.parametrize("kind", mutants.KINDS)
def test_damaged_files_are_refused_in_plain_words(kind, children, tmp_path, tally):
    check(children, kind, tmp_path, 0, N_QUICK, tally)


@pytest.mark.soak
@pytest.mark.parametrize("kind", mutants.KINDS)
def test_many_damaged_files_are_refused_in_plain_words(kind, children, tmp_path, tally):
    check(children, kind, tmp_path, 1, N_LONG, tally)


@pytest.mark.parametrize(
    ("careless", "problem"),
    [
        ("raise ValueError('no error of ours')", "ValueError: no error of ours"),
        ("while True: pass", "HangError: "),
        ("bytes(8 << 30)", "MemoryError: "),
    ],
)
def test_damage_is_damage(careless, problem, children, tmp_path):
    """The harness tells a reader that falls over, hangs or takes memory without end."""
    told = damaged_files(children, tmp_path, "PNG", 0, 1, limit_s=0.5, careless=careless)
    ((_, found),) = told["wrong"]
    assert found.startswith(problem.strip())
