"""The walls: who may import what, what is packaged, and that nothing loads before it is needed."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from functools import cache
from importlib import import_module

import pytest
from makers import ROOT

ORDER = (
    "_lazy",
    "errors",
    "progress",
    "text",
    "_signatures",
    "progress_bars",
    "environment",
    "io",
    "plotting",
    "parallel",
    "config",
    "datasets",
    "store",
    "models",
    "runs",
    "extraction",
    "training",
    "fitting",
    "inference",
    "deploy",
    "baselines",
    "report",
    "study",
    "demo",
)
"""Packages, and the few modules beside them: each imports only from those before it."""

SOURCES = sorted((ROOT / "featstore").rglob("*.py"))
STAGE_TWO = ("runs", "fitting", "report")


def room(path):
    """Return the package, or the module beside the packages, that a file belongs to."""
    return path.relative_to(ROOT / "featstore").parts[0].removesuffix(".py")


@cache
def imports(path, *, top_level_only=False):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if top_level_only:
        # What only type checkers import is guarded by an if, and lazy imports lie in functions.
        nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    else:
        nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif not node.level:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_package_has_a_rank():
    assert {room(path) for path in SOURCES} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path):
    if room(path) == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "featstore" and len(parts) > 1 and parts[1] in ORDER:
            assert ORDER.index(parts[1]) <= ORDER.index(room(path)), f"it imports {name}"


@pytest.mark.parametrize(
    ("package", "owner"),
    [
        ("zarr", "matrix.py"),
        ("distributed", "cluster.py"),
        ("rasterio", "gdal.py"),
        ("simplejpeg", "jpeg.py"),
        ("geopandas", "vectors.py"),
        ("pyogrio", "vectors.py"),
        ("shapely", "vectors.py"),
        ("obstore", "client.py"),
        ("timm", "timm_source.py"),
        ("open_clip", "openclip_source.py"),
        ("torchgeo", "torchgeo_source.py"),
        ("huggingface_hub", "hub.py"),
        ("onnx", "onnx_graph.py"),
        ("onnxruntime", "check.py"),
    ],
)
def test_one_file_knows_a_package(package, owner):
    spellings = (package, f"dask.{package}")
    users = {
        path.name
        for folder in ("featstore", "cli")
        for path in (ROOT / folder).rglob("*.py")
        if any(n == s or n.startswith(f"{s}.") for n in imports(path) for s in spellings)
    }
    assert users == {owner}


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if room(path) in STAGE_TWO],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_stage_two_does_not_mention_torch(path):
    assert not any(name.split(".")[0] in ("torch", "torchvision") for name in imports(path))


def loaded_after(code):
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"torch", "sklearn", "zarr", "dask", "matplotlib", "scipy", "pandas", "pydantic"}
    assert not heavy & loaded_after("import featstore, featstore.cli.main")


def test_help_loads_nothing_heavy():
    code = "from featstore.cli.main import _run\nassert _run(['extract', '--help']) == 0"
    assert not {"torch", "numpy", "rich", "pydantic"} & loaded_after(code)


def test_setup_lists_the_packages_on_disk():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    on_disk = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for folder in ("featstore", "cli")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    renamed = {"featstore.cli" if name == "cli" else name for name in on_disk}
    assert set(config["options"]["packages"].split()) == renamed


@pytest.mark.parametrize("package", ["featstore", "featstore.store", "featstore.runs"])
def test_a_package_shows_the_names_of_the_python_page(package):
    module = import_module(package)
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = set(
        re.findall(rf"auto(?:class|function):: {re.escape(package)}\.(\w+)$", page, re.MULTILINE)
    )
    assert set(module.__all__) == set(dir(module))
    assert set(module.__all__) - {"__version__"} == shown
    assert all(callable(getattr(module, name)) for name in shown)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing
