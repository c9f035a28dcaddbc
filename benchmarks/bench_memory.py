"""Memory against the number of images: whole commands over SAT-4 files of two sizes.

    python benchmarks/bench_memory.py [--sizes 50000,500000] [--model pixelstats]

Each turn is `featstore extract` in a process of its own, from a MATLAB file in SAT-4's format to a
new store. The images of such a file are in memory once, as uint8. All other memory should not grow
with their number.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
from inputs import SAT4_SHAPE, write_sat4
from results import save, table
from turns import FEATSTORE, Turn, in_fresh_process, run_command, summary

from featstore.cli import console

COLUMNS = ("data MB", "peak RSS MB", "beside data MB", "seconds", "images/s")


def run_extract(root: Path, model: str, n_images: int, device: str) -> Turn:
    """Run the command, and return its peak memory and its seconds from start to end."""
    with tempfile.TemporaryDirectory() as store:
        words = [*FEATSTORE, "extract", "--model", model, "--dataset", "sat4", "--json"]
        words += ["--root", str(root), "--store", store, "--device", device]
        if model != "pixelstats":
            words += ["--weights", "random:0"]
        found = in_fresh_process(run_command, words)
    done = json.loads(found["printed"])
    data_mb = n_images * SAT4_SHAPE[0] * SAT4_SHAPE[1] * SAT4_SHAPE[2] / 1e6
    return {
        "data MB": data_mb,
        "peak RSS MB": found["command RSS MB"],
        "beside data MB": found["command RSS MB"] - data_mb,
        "seconds": found["seconds"],
        "images/s": n_images / found["seconds"],
        "pass images/s": done["images_per_s"],
        "engine": done["engine"],
        "precision": done["precision"],
        "batch": done["batch_size"],
    }


def write_file(root: Path, n_images: int) -> Turn:
    """Write a file of `n_images`; call it in a process of its own, which frees the memory."""
    write_sat4(root / "sat-4-full.mat", n_images)
    return {}


@click.command()
@click.option("--sizes", default="50000,500000", show_default=True, metavar="N,N")
@click.option("--model", default="pixelstats", show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(sizes: str, model: str, repeats: int) -> None:
    """Measure the peak memory of whole commands."""
    turns: list[Turn] = []
    with tempfile.TemporaryDirectory() as name:
        folders = {int(size): Path(name) / size for size in sizes.split(",")}
        for n_images, root in folders.items():
            in_fresh_process(write_file, root, n_images)
        for number in range(repeats):
            for n_images, root in folders.items():
                turn = run_extract(root, model, n_images, "cpu")
                console.say(
                    f"Round {number + 1}: {n_images:,} images, {turn['peak RSS MB']:,.0f} MB, "
                    f"{turn['seconds']:.1f} s"
                )
                turns.append({"round": number + 1, "contender": f"{n_images:,}", **turn})
    rows = [{"images": row.pop("contender"), **row} for row in summary(turns, COLUMNS)]
    for row in rows:
        row["growth MB"] = row["beside data MB"] - rows[0]["beside data MB"]
    title = f"featstore extract --model {model} over files in SAT-4's format"
    table(rows, f"{title}; medians of {repeats} rounds")
    save("memory", rows, turns, title=title, device="cpu")


if __name__ == "__main__":
    main()
