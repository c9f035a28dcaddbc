"""Every code block of the README and of docs/ is run, page by page, in the order of the page.

Each page has a folder of its own, in which lie what its readers have: ``my-images``,
``new-images``, a scene, and below /data the paper's datasets, in their own formats and small. The
networks' weight files are where torchvision keeps them, under their own names, with seeded random
numbers in them; UC Merced's archive comes from a server on the loopback interface, and a bucket is
there too.

What runs, by the block's language:

- ``console``: lines that begin with ``$ `` are commands, the lines below one its output.
- ``sh``, ``bash`` and ``fish``: every line is a command.
- ``python``: executed, with one namespace for the page. A block whose first line is nothing but a
  comment with a file's name, ``# NAME.py``, is written to that file instead.
- ``text`` right below one of these is its output; elsewhere it is a drawing, such as a tree.
- ``json`` and ``toml`` are parsed; directives (``{toctree}``) are Sphinx's, which `make docs` runs.

Any other language, or none, is an error. ``featstore`` runs in this process, ``dask scheduler`` and
``dask worker`` as processes. ``pip install`` and ``make`` do not run: extras, files and targets
have to be there, and where a page shows what comes of a target that calls ``featstore``, it runs.

Replaced, because a page was written on another machine:

- ``RUN``, and names and endings of runs with other digits: the newest run that such a name fits,
  and for another one on the same page the newest but one. Likewise ``SET`` and feature sets' names.
- ``/data``: the folder of the small datasets. ``--devices 0,1``: ``cpu``. The address of a
  scheduler: that of the one that the page started, with one worker.
- To take seconds, networks see images of 32 pixels where the weights say 224 (AlexNet 64), AlexNet
  and VGG19 are narrow, networks are trained for 2 epochs, classifiers for 3 at the most, searches
  try 2 settings, fits are repeated 3 times at the most, figures are blank, and PCA draws features
  in place of UMAP.
- ``^C`` in an output: the command above it is interrupted after a batch.

Outputs are compared by their form. Numbers, hashes, names of classes and images, and what depends
on the machine are masked; like lines that follow each other are taken together, and ``...`` stands
for any lines. Of stderr a page shows what it likes, of stdout all.
"""

from __future__ import annotations

import configparser
import functools
import hashlib
import http.server
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import click
import dask
import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import requests
import safetensors.torch
import scipy.io
import shapely
import torch
from distributed import Client
from distributed.cli import dask_worker
from makers import ROOT
from markdown_it import MarkdownIt
from PIL import Image
from services import point_at, s3_service
from torch import nn
from torchvision.models import vgg

from featstore.cli.main import _run, cli
from featstore.datasets import registry
from featstore.datasets.formats import ucmerced
from featstore.datasets.formats.synthetic import CLASS_NAMES, land_cover, write_demo
from featstore.extraction.result import BOTTLENECKS, ENGINE_HINT
from featstore.fitting import plan, search
from featstore.io.gdal import write_tiff
from featstore.models import networks
from featstore.models.backbone import Backbone
from featstore.models.torchvision_source import build_network
from featstore.store.format import matrix
from featstore.store.writer import FeatureWriter

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
page_ids = [path.relative_to(ROOT).as_posix() for path in PAGES]

MY_CLASSES = ("beach", "commercial_area", "forest")
COLORS = ((200, 180, 120), (130, 130, 140), (30, 90, 40))
SAT6_CLASSES = ("building", "barren land", "trees", "grassland", "road", "water")
WEIGHT_FILES = {
    "alexnet": "alexnet-owt-7be5be79.pth",
    "vgg19": "vgg19-dcbb9e9d.pth",
    "googlenet": "googlenet-1378be20.pth",
    "resnet50": "resnet50-11ad3fa6.pth",
    "mobilenet_v2": "mobilenet_v2-7ebf99e0.pth",
    "resnet18": "resnet18-f37072fd.pth",
}
YOUR_FILES = {"featstore/datasets/formats/labelled.py"}
"""Files that a page's reader makes."""
N_CANDIDATES, N_REPEATS = 2, 3
ALL_EPOCHS = ("fitting.md",)
"""Pages on which it matters that an epoch was the last one."""


# What a page holds.


@dataclass
class Block:
    """A fenced code block, and what a ``text`` block right below it shows as its output."""

    language: str
    text: str
    line: int
    output: str | None = None


@dataclass
class Command:
    """A command line, and the lines that a page shows below it."""

    line: str
    output: list[str] = field(default_factory=list)


def read_blocks(path: Path) -> list[Block]:
    """Return a page's code blocks; the output of one is taken into it."""
    blocks: list[Block] = []
    last = None
    for token in MarkdownIt().parse(path.read_text(encoding="utf-8")):
        if token.type == "code_block":
            pytest.fail(f"{path.name}:{token.map[0] + 1}: an indented block; fence it.")
        if token.type != "fence":
            last = None
            continue
        block = Block(token.info.strip(), token.content, token.map[0] + 1)
        if block.language == "text" and last is not None and last.output is None:
            last.output = block.text
            continue
        blocks.append(block)
        last = block if block.language in ("console", "sh", "bash", "python") else None
    return blocks


def read_commands(block: Block) -> list[Command]:
    """Return the command lines of a block, each with its output."""
    prompt = "$ " if block.language == "console" else ""
    commands: list[Command] = []
    goes_on = False
    for line in block.text.splitlines():
        if goes_on:
            commands[-1].line += line.strip()
        elif line.startswith(prompt) and line.strip() and not line.startswith("#"):
            commands.append(Command(line.removeprefix(prompt)))
        elif prompt:
            commands[-1].output.append(line)
            continue
        else:
            continue
        goes_on = commands[-1].line.endswith("\\")
        commands[-1].line = commands[-1].line.removesuffix("\\")
    if block.output is not None:
        commands[-1].output = block.output.splitlines()
    return commands


def inline_code(path: Path) -> list[str]:
    """Return what stands between backticks in a page's text."""
    tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))
    children = [child for token in tokens for child in token.children or ()]
    return [" ".join(c.content.split()) for c in children if c.type == "code_inline"]


# What is compared of an output.

_CLASSES = "|".join(
    re.escape(name)
    for name in sorted({*MY_CLASSES, *CLASS_NAMES, *SAT6_CLASSES, *ucmerced.CLASSES}, key=len)[::-1]
)
_BOTTLENECKS = "|".join(re.escape(sentence) for sentence in BOTTLENECKS.values())
_MASKS = [
    (r"\x1b\[[0-9;]*m", ""),
    (rf"(?:{_BOTTLENECKS})(?: {re.escape(ENGINE_HINT)})?", "<bottleneck>"),
    (r"─+", "─"),
    (r" \(unlike\)", ""),
    (r"\S+\.(?:jpg|png|tif)\b(?<!neighbors\.png)(?<!sheet\.png)", "<image>"),
    (r"\b(?:train|test)/\d+", "<sample>"),
    (rf"\b(?:{_CLASSES})\b", "<class>"),
    (r"\b(?:eager|openvino|compiled)\b", "<engine>"),
    # Of auto, by the processor.
    (r"\b(?:fp32|bf16)\b", "<precision>"),
    (r"\b(mlp|dbn|sgd|softmax) \*", r"\1"),
    (r"\b(?:official|random) split\b", "<split>"),
    (r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,12}\b", "#"),
    (r"\d+ h \d+ min|\d+ min \d+ s", "# s"),
    (r"[-+]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", "#"),
    (r"# (?:bytes|kB|MB|GB)\b", "# bytes"),
    (r"#(?:, #)+", "#"),
    (r"(<class> # %)(?:, <class> # %)+", r"\1"),
    (r"#(?:,? #)+(?=[\])}])", "#"),
    (r"('<class>'(?:: #,?)?)(?:,? '<class>'(?:: #,?)?)+", r"\1"),
    (r"/[^\s]*/(?=report\.html|study)", ""),
    (r"\s+", " "),
    (r"\S+ \S+ · \w+ is right on # more of # test images than \S+ \S+ · \w+;", "<winner>;"),
    (r"\S+ \S+ · \w+ and \S+ \S+ · \w+ are each right on # .*:(?= p =)", "<winner>; <verdict>:"),
    (r"the difference is (?:not )?significant at # %:", "<verdict>:"),
    (r"\((?:exact )?McNemar.*test.*\)", "<test>"),
]


FIT_ROW = re.compile(r"(# s)(?: best)?$")
"""The end of a table's row about a fit."""


def mask(line: str) -> str:
    """Return a line without what may be otherwise another time, or on another machine."""
    for pattern, instead in _MASKS:
        line = re.sub(pattern, instead, line)
    return line.strip()


def sorted_fits(lines: Iterable[str]) -> list[str]:
    """Return lines with the rows of tables of fits in one order, and without the best's mark.

    Rows are ordered by accuracy, which other images and machines change.
    """
    found: list[str] = []
    start: int | None = None
    for line in lines:
        if start is not None and (not line or not FIT_ROW.search(line)):
            found[start:] = sorted(found[start:])
            start = None if line != "─" else len(found) + 1
        if line.startswith("model layers clf"):
            start = len(found) + 1
        found.append(FIT_ROW.sub(r"\1", line))
    return found


def masked(lines: Sequence[str]) -> list[str]:
    """Return masked lines, no empty ones, and one of like ones that follow each other."""
    found: list[str] = []
    for line in sorted_fits(map(mask, lines)):
        if line and line != "─" and found[-1:] != [line]:
            found.append(line)
    return found


def compare(shown: Sequence[str], out: str, err: str) -> str | None:
    """Return how a command's output departs from what a page shows; None if it does not."""
    printed, told = masked(out.splitlines()), masked(err.splitlines())
    printed = [line for line in printed if not line.endswith("they tell nothing.")]
    lines = masked([line for line in shown if line.strip() != "^C"])
    lines = [line for line in lines if line in printed or line not in told]
    # "..." parts what follows each other directly; at the ends it lets more come before or after.
    parts = [part.split("\n") for part in "\n".join(["", *lines, ""]).split("\n...\n")]
    parts = [[line for line in part if line] for part in parts]
    at = 0
    for number, part in enumerate(parts):
        starts = range(at, len(printed) - len(part) + 1)
        if number == 0:
            starts = starts[:1]
        if number == len(parts) - 1:
            starts = starts[-1:]
        found = next((i for i in starts if printed[i : i + len(part)] == part), None)
        if found is None:
            return "\n  ".join(
                ["The page shows", *part, "This is not", *printed, "with on stderr", *told]
            )
        at = found + len(part)
    if len(parts) == 1 and at < len(printed):
        return "\n  ".join(["The page does not show", *printed[at:]])
    return None


# The world in which the pages' readers are.


def noisy(color: Sequence[int], rng: np.random.Generator, size: int = 40) -> Image.Image:
    """Return an image of one color with noise."""
    pixels = np.array(color) + rng.normal(0, 30, (size, size, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_tree(root: Path, counts: Mapping[str, int], seed: int = 0) -> None:
    """Write trees of class folders, one for each split."""
    rng = np.random.default_rng(seed)
    for split, n in counts.items():
        for name, color in zip(MY_CLASSES, COLORS, strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                noisy(color, rng).save(folder / f"{name}_{i:03d}.{'png' if i % 3 else 'jpg'}")


def write_scene(path: Path) -> None:
    """Write a GeoTIFF of three stripes."""
    rng = np.random.default_rng(0)
    stripes = [np.asarray(noisy(color, rng, 80)) for color in COLORS]
    where = {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 500_000, 0, -1, 5_200_000)}
    with rasterio.open(
        path, "w", driver="GTiff", width=240, height=80, count=3, dtype="uint8", **where
    ) as raster:
        raster.write(np.moveaxis(np.concatenate(stripes, axis=1), 2, 0))


def write_sat(path: Path, class_names: Sequence[str], n_train: int, n_test: int) -> None:
    """Write land cover as SAT-4 and SAT-6 come, a MATLAB file of version 5."""
    rng, eye = np.random.default_rng(len(class_names)), np.eye(len(class_names))
    variables: dict[str, Any] = {}
    for split, n in (("train", n_train), ("test", n_test)):
        labels = np.arange(n) % len(class_names)
        variables[f"{split}_x"] = np.moveaxis(land_cover(labels % len(CLASS_NAMES), rng), 0, -1)
        variables[f"{split}_y"] = eye[:, labels]
    cells = np.empty((len(class_names), 2), object)
    for i, name in enumerate(class_names):
        cells[i] = "[" + " ".join(f"{value:.0f}" for value in eye[i]) + "]", name
    scipy.io.savemat(path, variables | {"annotations": cells})


def write_ucmerced(folder: Path) -> Path:
    """Write UC Merced's archive, with three images a class."""
    rng = np.random.default_rng(0)
    for name in ucmerced.CLASSES:
        place = folder / "content" / ucmerced.IMAGES / name
        place.mkdir(parents=True)
        color = rng.integers(0, 256, 3)
        for i in range(3):
            noisy(color, rng, 32).save(place / f"{name}{i:02d}.tif")
    return Path(shutil.make_archive(str(folder / "archive"), "zip", folder / "content"))


def write_weights(folder: Path) -> None:
    """Write state dicts under the names of torchvision's files, and one of resnet50_v1."""
    checkpoints = folder / "torch-home" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for model, file in WEIGHT_FILES.items():
        network = build_network(model, 64, heads=True)
        torch.save(network.state_dict(), checkpoints / file)
    state = build_network("resnet50_v1", 64, seed=1).state_dict()
    torch.save(state, folder / "resnet50_v1.pth")
    safetensors.torch.save_file(state, folder / "resnet50_v1.safetensors")


class NarrowLinear(nn.Linear):
    """The fully connected layers of AlexNet and VGG19, without their hundreds of megabytes."""

    # PyTorch's tracer looks into modules that are not its own.
    __module__ = "torch.nn"
    widths: ClassVar = {4096: 32, 512 * 7 * 7: 64 * 7 * 7}

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(self.widths.get(n_in, n_in), self.widths.get(n_out, n_out))


def forget_networks() -> None:
    """Clear what is remembered of networks of a name."""
    for function in vars(networks).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


@pytest.fixture(scope="module")
def quick_networks() -> Iterator[None]:
    """Let AlexNet and VGG19 have few channels, and networks be built once for all pages."""
    built: dict[tuple[str, ...], dict[str, Any]] = {}
    build = Backbone.__init__

    def build_once(self: Backbone, *args: Any) -> None:
        # Only an engine that compiles depends on the batch's size.
        key = tuple(repr(arg) for arg in args if not isinstance(arg, int) or args[-1] != "eager")
        if key not in built:
            build(self, *args)
            built[key] = vars(self)
        self.__dict__ = built[key]

    narrow = SimpleNamespace(**vars(nn) | {"Linear": NarrowLinear})
    with pytest.MonkeyPatch.context() as patch:
        for name in ("alexnet", "vgg"):
            patch.setattr(importlib.import_module(f"torchvision.models.{name}"), "nn", narrow)
        cfg = [width if width == "M" else width // 8 for width in vgg.cfgs["E"]]
        patch.setitem(vgg.cfgs, "E", cfg)
        patch.setattr(Backbone, "__init__", build_once)
        forget_networks()
        yield
    forget_networks()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, quick_networks: None) -> Iterator[Path]:
    """Make what all pages have in common, once."""
    folder = tmp_path_factory.mktemp("world")
    write_tree(folder / "my-images", {"train": 7, "test": 3})
    write_tree(folder / "new", {"": 1}, seed=1)
    (folder / "new-images").mkdir()
    for i, path in enumerate(sorted((folder / "new").rglob("*.jpg"))):
        path.rename(folder / "new-images" / f"{'abc'[i]}.jpg")
    (folder / "data").mkdir()
    write_sat(folder / "data" / "sat-4-full.mat", CLASS_NAMES, 24, 8)
    write_sat(folder / "data" / "sat-6-full.mat", SAT6_CLASSES, 24, 12)
    write_scene(folder / "scene.tif")
    write_ucmerced(folder)
    write_weights(folder)
    yield folder
    # The weights are hundreds of megabytes, which pytest would keep for some time.
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def archive_url(world: Path) -> Iterator[str]:
    """Serve the world's files on the loopback interface."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    handler = functools.partial(Handler, directory=str(world))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/archive.zip"
        server.shutdown()
        thread.join()


@pytest.fixture
def own_datasets() -> Iterator[None]:
    """Let a page add datasets that other tests do not see."""
    yield
    registry._plug_in.cache_clear()


@pytest.fixture
def place(
    world: Path,
    archive_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    blank_pictures: None,
    small_inputs: None,
    own_datasets: None,
) -> Path:
    """Make a page's own folder the current one, and let the code find the world."""
    folder = tmp_path / "place"
    folder.mkdir()
    for name in ("my-images", "new-images"):
        shutil.copytree(world / name, folder / name)
    shutil.copytree(world / "my-images", folder / "nwpu-resisc12")
    shutil.copytree(world / "my-images" / "train", folder / "new-data")
    shutil.copy(world / "new-images" / "a.jpg", folder / "new.jpg")
    shutil.copy(world / "scene.tif", folder)
    shutil.copytree(world / "data", tmp_path / "data")
    for file in world.glob("resnet50_v1.*"):
        (folder / file.name).symlink_to(file)
    # Found there, it is not made anew with 2,000 images.
    write_demo(folder / "data" / "demo", 0, 40, 20)
    monkeypatch.setattr(plan, "candidates", few_candidates)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("TORCH_HOME", str(world / "torch-home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "*")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    script = bin_folder / "featstore"
    code = "from featstore.cli.main import main; main()"
    script.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c '{code}' \"$@\"\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    digest = hashlib.md5((world / "archive.zip").read_bytes()).hexdigest()
    served = replace(ucmerced.ARCHIVE, urls=[archive_url], known_hash=f"md5:{digest}")
    monkeypatch.setattr(ucmerced, "ARCHIVE", served)
    return folder


def few_candidates(*args: Any) -> list[dict[str, Any]]:
    """Return the first of the settings that a search would try."""
    return search.candidates(*args)[:N_CANDIDATES]


# Running it.

PATIENCE_S = 600.0
"""Longest wait for a process: it only ends a deadlock."""

DATA = "/data"
SCHEDULER = "tcp://10.0.0.1:8786"
NAMED = re.compile(r"(?P<stem>[\w.+,-]+-)?(?=[0-9a-f]*\d)[0-9a-f]{8}(?P<is_set>[0-9a-f]{4})?")


class Page:
    """A page that is run: what its commands left, and what its names stand for."""

    def __init__(self, path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.place = place
        self.monkeypatch = monkeypatch
        self.namespace: dict[str, Any] = {"__name__": "page"}
        self.names: dict[str, str] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = ""
        self.has_worker = False
        self.stack = ExitStack()

    def fail(self, block: Block, what: str) -> None:
        pytest.fail(f"{self.path.name}:{block.line}: {what}", pytrace=False)

    def run(self, block: Block) -> None:
        """Run one block, by its language."""
        language = block.language
        if language.startswith("{") or language == "text":
            return
        if language == "json":
            json.loads(block.text)
        elif language == "toml":
            self.install(tomllib.loads(block.text).get("project", {}))
        elif language == "python":
            self.run_python(block)
        elif language in ("console", "sh", "bash", "fish"):
            for command in read_commands(block):
                self.run_command(block, command)
        else:
            self.fail(block, f"nobody knows how to run {language or 'a block of no language'}")

    def install(self, project: Mapping[str, Any]) -> None:
        """Install a project in the page's folder as pip would, if it has entry points."""
        if not (groups := project.get("entry-points")):
            return
        folder = self.place / f"{project['name']}-{project['version']}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {project['name']}\n")
        lines = [
            line
            for group, entries in groups.items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
        ]
        (folder / "entry_points.txt").write_text("\n".join(lines))
        registry._plug_in.cache_clear()

    def run_python(self, block: Block) -> None:
        if name := re.match(r"# ([\w/]+\.py)\n", block.text):
            (self.place / name[1]).write_text(block.text, encoding="utf-8")
            return
        code = NAMED.sub(lambda found: self.real_name(found[0]), block.text)
        out = io.StringIO()
        with redirect_stdout(out):
            exec(compile(code, f"{self.path.name}:{block.line}", "exec"), self.namespace)  # noqa: S102
        if block.output is not None and (
            fault := compare(block.output.splitlines(), out.getvalue(), "")
        ):
            self.fail(block, fault)

    def run_bash(self, block: Block, text: str) -> None:
        done = subprocess.run(["bash", "-ec", text], capture_output=True, text=True)
        if done.returncode or done.stderr:
            self.fail(block, f"{text}\n{done.stderr}")

    def run_command(self, block: Block, command: Command) -> None:
        """Run one command line, or check it where it can't run here."""
        if shell := re.search(r"_FEATSTORE_COMPLETE=(?!bash)\w+_source featstore", command.line):
            # The other shells are not everywhere; what they would be given is printed.
            self.run_bash(block, f"{shell[0]} | grep -q _FEATSTORE_COMPLETE")
            return
        if "_FEATSTORE_COMPLETE=bash" in command.line:
            self.run_bash(block, command.line)
            return
        words = shlex.split(command.line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        if not words:
            return
        first, *rest = words
        if first == "featstore":
            words = [self.real_word(word) for word in rest]
            if words[0] == "train":
                words += ["--epochs", "2"]
            if "--repeats" in words:
                at = words.index("--repeats") + 1
                words[at] = str(min(N_REPEATS, int(words[at])))
            self.run_featstore(block, command, words)
        elif first == "export":
            name, _, value = rest[0].partition("=")
            self.monkeypatch.setenv(name, self.real_word(value))
            if name.startswith("DASK_"):
                # Dask reads its variables when it is imported.
                key = name.removeprefix("DASK_").lower().replace("__", ".")
                self.stack.enter_context(dask.config.set({key: value}))
        elif first == "pip":
            check_pip(rest)
        elif first == "make":
            for target in rest:
                for recipe in make_recipes(target):
                    if recipe[0] == "featstore" and command.output:
                        self.run_featstore(block, command, recipe[1:])
        elif first == "dask":
            self.run_dask([self.real_word(word) for word in rest])
        elif first == "python":
            assert (ROOT / rest[0]).is_file(), command.line
        elif words == [".", ".venv/bin/activate"]:
            assert "-m venv .venv" in (ROOT / "Makefile").read_text(encoding="utf-8")
        else:
            self.run_bash(block, command.line)

    def run_featstore(self, block: Block, command: Command, words: list[str]) -> None:
        shown = command.output
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["featstore", *words])
            if "^C" in shown:
                interrupt(patch, n_batches=1)
            code = _run_exit(words)
        expected = 130 if "^C" in shown else 0
        # What a page shows as an error has to be one.
        if any(line.startswith(("Error:", "Repair with:")) for line in shown):
            expected = 2 if any(line.startswith("Usage:") for line in shown) else 1
        if code != expected:
            self.fail(block, f"{command.line}\nends with {code}\n{out.getvalue()}{err.getvalue()}")
        if shown and (fault := compare(shown, out.getvalue(), err.getvalue())):
            self.fail(block, f"{command.line}\n{fault}")

    def run_dask(self, words: list[str]) -> None:
        """Start a scheduler or its first worker, and wait for it; check the words of others."""
        if words[0] == "worker" and self.has_worker:
            dask_worker.main.make_context("dask worker", words[1:])
            return
        file = self.place / "scheduler.json"
        options = ["--host", "127.0.0.1"]
        self.has_worker = words[0] == "worker"
        if words[0] == "scheduler":
            file.unlink(missing_ok=True)
            options += ["--port", "0", "--dashboard-address", ":0", "--scheduler-file", str(file)]
        else:
            options += [
                "--no-nanny",
                "--no-dashboard",
                "--local-directory",
                str(self.place / "dask"),
            ]
        log = (self.place / "dask.log").open("ab")
        command = [sys.executable, "-m", "dask", *words, *options]
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        log.close()
        if words[0] == "scheduler":
            until(lambda: file.is_file() and file.stat().st_size > 0)
            self.scheduler = json.loads(file.read_text())["address"]
            return
        with Client(self.scheduler) as client:
            client.wait_for_workers(1, timeout=PATIENCE_S)

    def close(self) -> None:
        self.stack.close()
        for process in self.processes:
            # A worker whose scheduler is gone may not heed a request to end.
            process.kill()
            process.wait(PATIENCE_S)

    def real_word(self, word: str) -> str:
        """Return what stands here for a word of a command."""
        if word == DATA or word.startswith(f"{DATA}/"):
            return str(self.place.parent) + word
        if re.sub("^tls", "tcp", word) == SCHEDULER:
            assert self.scheduler, "the page starts no scheduler"
            return self.scheduler
        if re.fullmatch(r"0(,\d)+", word):
            return "cpu"
        return self.real_name(word)

    def real_name(self, word: str) -> str:
        """Return the run or the feature set that a name stands for; other words as they are."""
        found = NAMED.fullmatch(word)
        if word not in ("RUN", "SET") and not found:
            return word
        if found and word in self.names:
            return self.names[word]
        is_set = word == "SET" or bool(found and found["is_set"])
        folder = self.place / "feature-store" / ("sets" if is_set else "runs")
        there = sorted(folder.iterdir(), key=lambda path: path.stat().st_ctime_ns, reverse=True)
        stem = (found and found["stem"]) or ""
        fitting = [p.name for p in there if p.name[:-8].endswith(stem) and p.name[0] != "."]
        new = [name for name in fitting if name not in self.names.values()]
        assert fitting, f"no {'set' if is_set else 'run'} here is called {word}"
        self.names[word] = (new or fitting)[0]
        return self.names[word]


def _run_exit(words: list[str]) -> int:
    try:
        return _run(words)
    except SystemExit as stop:
        return int(stop.code or 0)


def interrupt(patch: pytest.MonkeyPatch, n_batches: int) -> None:
    """Press Ctrl-C when some batches are done."""
    add, batches = FeatureWriter.add, []

    def add_and_stop(self: FeatureWriter, *args: Any) -> None:
        add(self, *args)
        batches.append(args)
        if len(batches) == n_batches:
            raise KeyboardInterrupt

    patch.setattr(FeatureWriter, "add", add_and_stop)


def until(is_so: Callable[[], bool]) -> None:
    """Wait for something."""
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def make_recipes(target: str) -> list[list[str]]:
    """Return the commands of a target of the Makefile, without the folders of its programs."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(target)}:.*\n((?:\t.*\n)*)", text, re.M)
    assert found, f"the Makefile has no target {target}"
    lines = found[1].replace("\\\n", " ").replace("$(BIN)/", "").splitlines()
    return [shlex.split(line) for line in lines]


def check_pip(words: Sequence[str]) -> None:
    """Check that what `pip install` names is there, as far as it is this project's."""
    assert words[0] == "install", words
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    files = ("-r", "--requirement", "-c", "--constraint")
    for before, word in zip(words, words[1:], strict=False):
        if before in files:
            assert (ROOT / word).is_file(), f"there is no file {word}"
        elif word.startswith("-"):
            assert word in (*files, "--no-deps", "--editable"), word
        elif found := re.fullmatch(r"\.(?:\[(.+)\])?", word):
            extras = set(found[1].split(",")) if found[1] else set()
            assert extras <= set(config["options.extras_require"]), f"setup.cfg lacks {extras}"


def check_words(words: Sequence[str]) -> None:
    """Check that all commands, options and choices of a ``featstore`` line exist."""
    command: click.Command = cli
    context = click.Context(cli, info_name="featstore")
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name}"
        command, context = found, click.Context(found, context, info_name=name)
    if isinstance(command, click.Group):
        assert not rest or rest[0] in ("--help", "--version", "--json", "--root"), words
        return
    options = {name: p for p in command.get_params(context) for name in p.opts if name[0] == "-"}
    for i, word in enumerate(rest):
        if not word.startswith("-") or word == "-":
            continue
        assert word in options, f"{context.command_path} has no option {word}"
        kind = options[word].type
        if isinstance(kind, click.Choice) and i + 1 < len(rest):
            for value in rest[i + 1].split("|"):
                assert value in kind.choices, f"{word} does not take {value}"


# What pages take for granted.


def cut_an_image(page: Page) -> None:
    """Make a tree in which one image is cut short."""
    write_tree(page.place / "small", {"train": 4, "test": 2})
    path = page.place / "small" / "train" / "beach" / "beach_000.jpg"
    path.write_bytes(path.read_bytes()[:-20])


def have_sat4_only(page: Page) -> None:
    """Remove SAT-6, so that the study leaves it out and takes a third of the time."""
    (page.place.parent / "data" / "sat-6-full.mat").unlink()


def copy_test_images(page: Page) -> None:
    """Put test images among the training images as well."""
    for path in sorted((page.place / "my-images" / "test" / "beach").iterdir())[:3]:
        shutil.copy(path, page.place / "my-images" / "train" / "beach" / f"copy-{path.name}")


def write_labelled(page: Page) -> None:
    """Put all images into one folder, with a table of their labels."""
    folder = page.place / "tiles"
    folder.mkdir()
    lines = ["file,class,split"]
    for path in sorted((page.place / "my-images").rglob("*.*")):
        shutil.copy(path, folder / f"{path.parts[-3]}-{path.name}")
        lines.append(f"{path.parts[-3]}-{path.name},{path.parts[-2]},{path.parts[-3]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_tables(page: Page) -> None:
    """Write images of scenes in class folders, tables and lists of them, and chips of a map."""
    rng = np.random.default_rng(0)
    rows: list[tuple[str, str, str]] = []
    for name, color in zip(MY_CLASSES, COLORS, strict=True):
        for scene in range(10):
            tint = rng.normal(0, 40, 3)
            for i in range(4):
                path = page.place / "tiles" / name / f"s{scene}_{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noisy(color + tint, rng).save(path)
                rows.append((f"tiles/{name}/{path.name}", name, f"s{scene}"))
    table = pd.DataFrame(rows, columns=["file", "class", "scene"])
    table.to_csv(page.place / "tiles.csv", index=False)
    image = [{"bytes": (page.place / file).read_bytes(), "path": file} for file in table["file"]]
    held = table.rename(columns={"class": "label"}).drop(columns="file").assign(image=image)
    held.to_parquet(page.place / "tiles.parquet", row_group_size=50)
    for split, first in (("train", 0), ("test", 7)):
        lines = [
            f"{name}/s{s}_0\n" for name in MY_CLASSES for s in range(first, 7 + first // 7 * 3)
        ]
        (page.place / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    for i in range(40):
        path = page.place / "chips" / ("field", "town")[i % 2] / f"{i}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        where = {"transform": rasterio.Affine(10, 0, 400 * i, 0, -10, 0), "crs": "EPSG:32633"}
        size = {"count": 3, "height": 32, "width": 32, "dtype": "uint8"}
        with rasterio.open(path, "w", driver="GTiff", **size, **where) as raster:
            raster.write(rng.integers(90 * (i % 2), 160, (3, 32, 32), np.uint8))


def write_labels(page: Page) -> None:
    """Write images of patches of three kinds, and tables of their kinds and of the trees' share."""
    rng = np.random.default_rng(0)
    colors = {"buildings": (200, 190, 180), "trees": (30, 90, 40), "water": (20, 60, 150)}
    tags, covers = [], []
    (page.place / "tiles").mkdir()
    for i in range(120):
        own = [name for name in colors if rng.random() < 0.5] or ["water"]
        kinds = rng.choice([*own, "none"], (4, 4))
        pixels = np.array([colors.get(kind, (120, 110, 90)) for kind in kinds.flat])
        pixels = pixels.reshape(4, 4, 3).repeat(10, 0).repeat(10, 1) + rng.normal(
            0, 15, (40, 40, 3)
        )
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(page.place / "tiles" / f"{i}.png")
        split = "train" if i < 84 else "test"
        tags.append((f"tiles/{i}.png", ";".join(sorted(own)), split))
        covers.append((f"tiles/{i}.png", 6.25 * float((kinds == "trees").sum()), split))
    for name, label, rows in (("tags", "label", tags), ("cover", "cover", covers)):
        table = pd.DataFrame(rows, columns=["path", label, "split"])
        table.to_csv(page.place / f"{name}.csv", index=False)


def have_a_bucket(page: Page) -> None:
    """Let there be an object storage with a bucket, and credentials for it."""
    endpoint = page.stack.enter_context(s3_service())
    point_at(page.monkeypatch, endpoint)
    requests.put(f"{endpoint}/my-bucket", timeout=10).raise_for_status()


def flip_a_bit(page: Page) -> None:
    """Damage a chunk of the features of my-images."""
    (path,) = (page.place / "feature-store" / "sets").glob("my-*/features.zarr/class*/c/1/0")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def more_images(page: Page) -> None:
    """Let my-images be more than one batch."""
    shutil.rmtree(page.place / "my-images")
    write_tree(page.place / "my-images", {"train": 16, "test": 8})


def write_chips(page: Page) -> None:
    """Write chips of five bands of 16 bits in class folders."""
    rng = np.random.default_rng(0)
    for name, level in (("dry", 2500), ("wet", 500)):
        folder = page.place / "chips" / name
        folder.mkdir(parents=True)
        for i in range(8):
            values = rng.integers(200, 2000, (5, 16, 16)).astype(np.uint16)
            values[3] += level
            write_tiff(folder / f"{i}.tif", values)


def draw_polygons(page: Page) -> None:
    """Write a scene of squares of three classes, and polygons over some of them."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, (6, 8))
    squares = [
        np.concatenate([np.asarray(noisy(COLORS[label], rng, 48)) for label in row], axis=1)
        for row in classes
    ]
    place = rasterio.Affine(10, 0, 500_000, 0, -10, 5_200_000)
    size = {"width": 384, "height": 288, "count": 3, "dtype": "uint8"}
    with rasterio.open(
        "scene.tif", "w", driver="GTiff", crs="EPSG:32633", transform=place, **size
    ) as raster:
        raster.write(np.moveaxis(np.concatenate(squares), 2, 0))
    drawn = [(i, j) for i, j in np.ndindex(6, 8) if (i + j) % 3]
    boxes = [
        shapely.box(*(place @ (48 * j, 48 * i + 48)), *(place @ (48 * j + 48, 48 * i)))
        for i, j in drawn
    ]
    names = [MY_CLASSES[classes[at]] for at in drawn]
    fields = geopandas.GeoDataFrame({"class": names}, geometry=boxes, crs="EPSG:32633")
    fields.to_crs(4326).to_file("polygons.gpkg")


def small_chunks(page: Page) -> None:
    """Let matrices have several chunks."""
    page.monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 1000 * 8)


def new_store(page: Page) -> None:
    """Begin with an empty store."""
    shutil.rmtree(page.place / "feature-store")


RESNET = (
    "featstore extract --model resnet50_v1 --weights resnet50_v1.pth --dataset folder "
    "--root my-images --layers"
)
MOBILENET = "featstore extract --model mobilenet_v2 --dataset"
BEFORE: dict[tuple[str, str], list[str | Callable[[Page], None]]] = {
    # (page, how a block begins): what was done before.
    ("adding-a-dataset.md", "# labelled.py"): [write_labelled],
    ("backbones.md", "$ featstore extract --model resnet50"): ["export FEATSTORE_DATA=/data"],
    ("bands.md", "$ featstore extract chips --model pixelstats\n"): [write_chips],
    ("clusters.md", "$ featstore extract"): ["export FEATSTORE_DATA=/data"],
    ("clusters.md", "$ dask scheduler\n"): [new_store],
    ("datasets.md", "$ featstore extract --model mobilenet_v2"): [cut_an_image],
    ("datasets.md", "$ featstore extract --model pixelstats"): [copy_test_images],
    ("doubts.md", "featstore predict best"): [
        "featstore extract my-images --model pixelstats",
        "featstore fit --clf logreg",
    ],
    ("fitting.md", "$ featstore fit --clf logreg,mlp"): [
        f"{MOBILENET} demo --limit 200 --layers features.0,classifier.1",
    ],
    ("fitting.md", "$ featstore fit --clf logreg\n"): [
        "featstore extract --model resnet18 --weights random:0 --dataset demo --limit 200",
        f"{MOBILENET} folder --root my-images",
    ],
    ("fitting.md", "$ featstore compare"): [
        "featstore fit --clf logreg,mlp --dataset demo --model mobilenet_v2 --layers classifier.1",
    ],
    ("neighbors.md", "$ featstore neighbors"): [
        "featstore datasets get demo --n-train 260 --n-test 60",
        f"{MOBILENET} demo",
        "featstore fit --clf logreg",
    ],
    ("polygons.md", "$ featstore extract"): [draw_polygons],
    ("protocols.md", "$ featstore fit --protocol"): [f"{MOBILENET} demo --limit 200"],
    ("runs.md", "$ featstore fit --clf logreg,knn"): [f"{MOBILENET} demo --limit 200"],
    ("searching.md", "$ featstore fit --clf logreg,ridge,lda"): [f"{RESNET} fc1000"],
    ("searching.md", "$ featstore fit --clf logreg,linear-svm"): [
        new_store,
        f"{RESNET} pool5 --root nwpu-resisc12",
    ],
    ("searching.md", "$ featstore fit --clf logreg --repeats"): [new_store, f"{RESNET} fc1000"],
    ("searching.md", "$ featstore curve"): [f"{RESNET} pool5"],
    ("searching.md", "import featstore"): [new_store, f"{RESNET} fc1000"],
    ("several-labels.md", "$ featstore extract --model pixelstats tags.csv"): [write_labels],
    ("study.md", "$ featstore reproduce --root"): [have_sat4_only],
    ("store.md", "$ featstore extract"): ["featstore datasets get demo --n-train 64 --n-test 32"],
    ("object-storage.md", "pip install obstore"): [have_a_bucket],
    ("tables.md", "$ featstore datasets show"): [write_tables],
    ("store.md", "$ featstore store verify"): [
        f"{MOBILENET} demo --limit 100",
        small_chunks,
        more_images,
        f"{MOBILENET} folder --root my-images",
        flip_a_bit,
    ],
}


def prepare(page: Page, block: Block) -> None:
    """Do what a page takes for granted before one of its blocks."""
    for (name, begin), steps in BEFORE.items():
        if name != page.path.name or not block.text.startswith(begin):
            continue
        for step in steps:
            if callable(step):
                step(page)
            else:
                page.run_command(block, Command(step))


def run_page(page: Page) -> None:
    """Run all of a page."""
    for block in read_blocks(page.path):
        prepare(page, block)
        page.run(block)


# The tests.


SOAKED = (
    "clusters.md",
    "doubts.md",
    "exporting.md",
    "neighbors.md",
    "networks.md",
    "own-images.md",
    "own-weights.md",
    "polygons.md",
    "searching.md",
    "study.md",
    "tables.md",
    "training.md",
)
"""Pages of long commands, each of which other tests run as well."""


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.soak if path.name in SOAKED else ()) for path in PAGES],
    ids=page_ids,
)
def test_every_block_runs(
    path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if path.name not in ALL_EPOCHS:
        request.getfixturevalue("few_epochs")
    page = Page(path, place, monkeypatch)
    try:
        run_page(page)
    finally:
        page.close()


@pytest.mark.parametrize("path", PAGES, ids=page_ids)
def test_code_within_the_text_is_right(path: Path) -> None:
    for code in inline_code(path):
        words = shlex.split(code.replace("...", ""))
        if words[:1] == ["featstore"]:
            check_words(words[1:])
        elif words[:2] == ["pip", "install"]:
            check_pip(words[1:])
        elif words[:1] == ["make"]:
            for target in words[1:]:
                make_recipes(target)


@pytest.mark.parametrize("path", PAGES, ids=page_ids)
def test_every_path_of_the_project_that_a_page_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:featstore|cli|tests|benchmarks)/[\w/]+\.py\b", text))
    assert sorted(name for name in named - YOUR_FILES if not (ROOT / name).is_file()) == []


def named_from_an_index(text: str) -> list[str]:
    """Return where a text installs featstore by name, from a package index."""
    one_line = re.sub(r"[\s\"'`\\]+", " ", text)
    return re.findall(r"pip install (?:-\S+ )*featstore\b.{0,20}|featstore\[\w+\]", one_line)


def test_featstore_is_never_installed_by_its_name() -> None:
    # On PyPI the name belongs to another package: pages and messages install from the clone.
    files = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "Makefile"]
    for folder in ("featstore", "cli", "benchmarks"):
        files += sorted((ROOT / folder).rglob("*.py"))
    found = {path: named_from_an_index(path.read_text(encoding="utf-8")) for path in files}
    assert {path: places for path, places in found.items() if places} == {}


@pytest.mark.parametrize(
    "text",
    ["pip install featstore", "pip install 'featstore[s3]'", '"pip install "\n"--pre featstore"'],
)
def test_featstore_by_its_name_is_found(text: str) -> None:
    assert named_from_an_index(text)


STALE = {
    "```console\n$ featstore models show alexnet --nonsense\n```": "No such option.*--nonsense",
    "```console\n$ featstore fit --clf logreg --search all\n```": "'all' is not one of",
    "```console\n$ featstore models show pixelstats\n29 things\n```": "The page shows\n  # things",
    "```console\n$ featstore --version\n```\n\n```text\nempty\n```": "The page shows\n  empty",
    "```python\nprint(1)\n```\n\n```text\none\n```": "The page shows\n  one",
    "```sh\nmake nonsense\n```": "no target nonsense",
    "```sh\npip install '.[nonsense]'\n```": "setup.cfg lacks.*nonsense",
    "```sh\nnonsense\n```": "nonsense: command not found",
    "```\nfeatstore\n```": "a block of no language",
    "```toml\n=\n```": "Invalid",
    "    featstore fit": "an indented block",
}


@pytest.mark.parametrize(("text", "fault"), STALE.items())
def test_a_page_that_is_wrong_fails(
    text: str, fault: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place / "page.md"
    path.write_text(text, encoding="utf-8")
    page = Page(path, place, monkeypatch)
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception), match=fault):
        run_page(page)


@pytest.mark.parametrize("code", ["fit --nonsense", "nonsense", "fit --search all", "store all"])
def test_code_within_a_text_that_is_wrong_fails(code: str) -> None:
    with pytest.raises(AssertionError):
        check_words(code.split())
