"""The page of guarantees names tests that exist."""

from __future__ import annotations

import ast
import functools
import re

from makers import ROOT

PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


@functools.cache
def functions(path):
    """Return the names of the tests of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_test_that_the_page_names_exists():
    assert len(NAMED) > 40
    missing = [f"{path}::{name}" for path, name in NAMED if name not in functions(path)]
    assert missing == []


def test_each_promise_of_the_tables_names_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line]
    promises = [line for line in rows if not line.startswith("| Promise")]
    assert len(promises) > 30
    assert [line for line in promises if "`tests/" not in line] == []


def test_each_test_of_faults_is_named():
    # Of the two files of counts and helpers' own tests nothing is promised.
    own = {"test_the_counts_of_kills_are_of_different_phases"}
    named = {name for _, name in NAMED}
    for path in sorted((ROOT / "tests" / "faults").glob("test_*.py")):
        if path.name == "test_guarantees.py":
            continue
        tests = {f for f in functions(path.relative_to(ROOT).as_posix()) if f.startswith("test_")}
        assert tests - own <= named, path.name
