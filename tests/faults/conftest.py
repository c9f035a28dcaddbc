"""What the tests of faults share: processes, an image tree, an unbroken run, and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import Children, extract_words, group_bytes
from makers import write_images


class Tally:
    """Counts of what was survived, by kind and part, for the last lines of a long run."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], Counter[str]] = {}

    def add(self, what: str, part: str, ending: str) -> None:
        """Count one that ended as it was promised to."""
        self.counts.setdefault((what, ending), Counter())[part] += 1

    def lines(self) -> list[str]:
        """Return a line for each kind."""
        return [
            f"{what}: {sum(parts.values())} "
            f"({', '.join(f'{part} {n}' for part, n in parts.items())}), {ending}"
            for (what, ending), parts in self.counts.items()
        ]


TALLY = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Tally()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if "soak" in (config.option.markexpr or "").replace("not soak", ""):
        for line in config.stash[TALLY].lines():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Tally:
    return pytestconfig.stash[TALLY]


@pytest.fixture(scope="session")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Children]:
    made = Children(tmp_path_factory.mktemp("children"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tree of 36 small images that no test changes."""
    return write_images(tmp_path_factory.mktemp("data") / "pictures", n=8, size=12)


@pytest.fixture(scope="session")
def whole_store(
    children: Children, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a store with a set that was extracted without a fault; no test changes it."""
    store = tmp_path_factory.mktemp("unbroken") / "store"
    assert children.command(store, *extract_words(pictures)).code == 0
    return store


@pytest.fixture(scope="session")
def unbroken(whole_store: Path) -> dict[str, bytes]:
    """Return the files of a set that was extracted without a fault."""
    return group_bytes(whole_store)
