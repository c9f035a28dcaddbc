"""Print and store the benchmarks' measurements."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from featstore.cli import console, tables
from featstore.environment import machine, now, versions

FOLDER = Path(__file__).parent / "results"

PEERS = ("dask-ml", "joblib", "onnx", "onnxruntime", "pillow", "thingsvision", "timm")
"""Packages that featstore does not need, but results depend on."""


TINY = 1e-12
"""A difference of two measurements below this is rounding."""


def table(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Print measurements as a table, numbers to three digits."""
    columns = list(rows[0])
    cells = [[text(row.get(column)) for column in columns] for row in rows]
    right = [c for c in columns if any(isinstance(row.get(c), int | float) for row in rows)]
    tables.table(columns, cells, title, right=right)


def text(value: object) -> str:
    """Return a measurement as text with three digits; empty for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        if abs(value) < TINY:
            return "0"
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def save(
    name: str,
    rows: Sequence[dict[str, Any]],
    turns: Sequence[dict[str, Any]] = (),
    *,
    title: str = "",
    device: str = "",
    label: str = "",
    folder: Path = FOLDER,
) -> None:
    """Write measurements with their provenance to ``benchmarks/results/``.

    Parameters
    ----------
    name : str
        Name of the benchmark.
    rows : sequence of dict
        The table.
    turns : sequence of dict
        The single measurements that the table sums up.
    title : str
        Title of the table.
    device : str
        Where it was measured, as :func:`featstore.models.devices.describe_device` gives it. Another
        type of device makes another file.
    label : str
        Distinguishes further files of one benchmark.
    folder : Path
        Folder of the results.
    """
    folder.mkdir(exist_ok=True)
    kind = device.partition(":")[0].partition(" ")[0]
    path = folder / f"{'-'.join(part for part in (name, label, kind) if part)}.json"
    record = {
        "benchmark": name,
        "title": title,
        "command": _command(),
        "measured": now(),
        "device": device,
        "machine": machine(),
        "instructions": _instructions(),
        "versions": versions() | _peers(),
        "rows": list(rows),
        "turns": list(turns),
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console.say(f"Kept in {path}")


def _command() -> str:
    # On another machine, only the name of a path means something.
    script, *arguments = sys.argv
    words = ["python", f"benchmarks/{Path(script).name}"]
    for argument in arguments:
        option, equals, value = argument.rpartition("=")
        words.append(option + equals + (Path(value).name if Path(value).is_absolute() else value))
    return shlex.join(words)


def _instructions() -> str:
    """Return which vector instructions PyTorch uses here: a processor's name may not tell."""
    import torch

    from featstore.models.devices import has_fast_bf16

    found: str = torch.backends.cpu.get_cpu_capability()
    return f"{found} and bfloat16" if has_fast_bf16(torch.device("cpu")) else found


def _peers() -> dict[str, str]:
    found = {}
    for name in PEERS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
