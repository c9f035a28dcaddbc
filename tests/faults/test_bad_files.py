"""Files that are not what they should be: refused in plain words, in bounded time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mutants
import pytest

N_QUICK, N_LONG = 12, 120


def damaged_files(kind, folder, seed, n):
    command = [sys.executable, mutants.__file__, str(folder), kind, str(seed), str(n)]
    # One thread: what the libraries' pools take of address space is not the file's doing.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(kind, folder, seed, n, tally):
    told = damaged_files(kind, folder, seed, n)
    assert told["wrong"] == []
    assert told["refused"] + told["read"] == n
    # Damage that is noticed is the rule, or the damage would be none.
    assert told["refused"] > n // 10
    for ending in ("refused", "read"):
        for _ in range(told[ending]):
            tally.add("damaged files", kind, ending)


@pytest.mark.parametrize("kind", mutants.KINDS)
def test_damaged_files_are_refused_in_plain_words(kind, tmp_path, tally):
    check(kind, tmp_path, 0, N_QUICK, tally)


@pytest.mark.soak
@pytest.mark.parametrize("kind", mutants.KINDS)
def test_many_damaged_files_are_refused_in_plain_words(kind, tmp_path, tally):
    check(kind, tmp_path, 1, N_LONG, tally)


def test_damage_is_damage(tmp_path):
    """The harness tells a reader that falls over, hangs or takes memory without end."""
    script = Path(mutants.__file__).read_text(encoding="utf-8")
    broken = {
        "ValueError: no error of ours": 'raise ValueError("no error of ours")',
        "HangError: ": "import time; time.sleep(30)",
        "MemoryError: ": "bytes(8 << 30)",
    }
    for told, line in broken.items():
        careless = script.replace(
            "    from featstore.datasets.decode import decode\n", f"    {line}\n"
        )
        careless = careless.replace("    read(source)\n    size", "    size")
        careless = careless.replace("LIMIT_S = 20", "LIMIT_S = 1")
        path = tmp_path / "careless.py"
        path.write_text(careless, encoding="utf-8")
        command = [sys.executable, str(path), str(tmp_path), "PNG", "0", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        ((_, problem),) = json.loads(done.stdout)["wrong"]
        assert problem.startswith(told.strip())
