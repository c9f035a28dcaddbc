"""What is installed with featstore: listed, bounded, and pinned for those who want it again."""

from __future__ import annotations

import configparser
import re

from makers import ROOT
from packaging.requirements import Requirement


def requirements():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"]]
    texts += [v for k, v in config["options.extras_require"].items() if k not in ("test", "check")]
    return [Requirement(line) for text in texts for line in text.strip().splitlines()]


def test_each_dependency_has_a_lower_bound_and_no_upper_one():
    for requirement in requirements():
        assert [one.operator for one in requirement.specifier] == [">="], requirement


def test_each_dependency_is_listed_with_its_licence():
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| ([\w-]+) \| (.+) \|$", page, flags=re.MULTILINE))
    assert set(listed) - {"package"} == {r.name for r in requirements()}
    assert not any("UNKNOWN" in licence for licence in listed.values())


def test_constraints_pin_each_dependency_within_its_bounds():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {}
    for line in lines:
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pinned.setdefault(pin.name, []).append(next(iter(pin.specifier)).version)
    for requirement in requirements():
        # It needs an older antlr4 than moto.
        if requirement.name == "torchgeo":
            continue
        assert pinned[requirement.name], requirement
        assert all(requirement.specifier.contains(v) for v in pinned[requirement.name])
