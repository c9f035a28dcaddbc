"""How the benchmarks show and keep what they measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featstore.cli import console
from featstore.provenance import command, machine, now, versions

FOLDER = Path(__file__).parent / "results"


def table(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Print measurements as a table, numbers to three digits."""
    columns = list(rows[0])
    cells = [
        [f"{v:.3g}" if isinstance(v, float) and v < 1000 else _text(v) for v in row.values()]
        for row in rows
    ]
    right = [c for c in columns if isinstance(rows[0][c], int | float)]
    console.table(columns, cells, title, right=right)


def _text(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else str(value)


def save(name: str, rows: Sequence[dict[str, Any]], arguments: Sequence[str]) -> None:
    """Keep measurements with their provenance under ``benchmarks/results/``."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    record = {
        "benchmark": name,
        "arguments": list(arguments),
        "command": command(),
        "measured": now(),
        "machine": machine(),
        "versions": versions(),
        "rows": list(rows),
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console.say(f"Kept in {path}")
