"""The walls: who may import what, what is packaged, and that nothing loads before it is needed."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys

import pytest
from makers import ROOT

ORDER = [
    ["errors", "progress"],
    ["config"],
    ["files"],
    ["provenance", "records"],
    ["images", "layers", "matrices", "downloads", "metrics", "tables", "remotes", "checksums"],
    ["datasets", "paper"],
    ["featureset", "sheets", "modelfiles", "locks", "ledgers", "duplicates", "scenes", "decoded"],
    ["mirrors", "leases"],
    ["deliveries"],
    ["store", "windows"],
    ["selection", "originals", "teams", "devices", "weights", "preprocess", "loaders"],
    ["classifiers", "splits", "descent", "accelerators"],
    ["sink", "engines", "audit", "exports", "parallel", "figures", "pixelstats"],
    ["blocks", "parameters", "searches", "contactsheets", "legends"],
    ["scaling", "epochs", "judgement", "inspection", "previews"],
    ["objectives", "grams", "neighbors", "projection"],
    ["linear"],
    ["training", "costs"],
    ["passes", "backbones", "runs"],
    ["publication", "particulars"],
    ["extractors", "tasks", "trials", "summaries", "mistakes"],
    ["recipes", "plans", "exhibits"],
    ["workplaces", "encoding", "sections"],
    ["spreading"],
    ["extraction", "fitting"],
    ["comparison", "prediction", "mapping", "lookalikes", "report", "learning", "baselines"],
    ["studies"],
    ["demo"],
]
"""Rooms by rank: a module may import, when it is itself imported, only from lower ranks."""

RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
SOURCES = sorted((ROOT / "featstore").glob("*.py"))
STAGE_TWO = [
    "accelerators",
    "blocks",
    "classifiers",
    "comparison",
    "contactsheets",
    "costs",
    "decoded",
    "descent",
    "duplicates",
    "epochs",
    "exhibits",
    "fitting",
    "grams",
    "inspection",
    "judgement",
    "learning",
    "linear",
    "lookalikes",
    "metrics",
    "mistakes",
    "neighbors",
    "objectives",
    "paper",
    "originals",
    "parallel",
    "parameters",
    "particulars",
    "plans",
    "projection",
    "publication",
    "report",
    "runs",
    "scaling",
    "searches",
    "sections",
    "splits",
    "summaries",
    "tables",
    "tasks",
    "teams",
    "training",
    "trials",
]


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


def test_every_module_has_a_rank():
    modules = {path.stem for path in SOURCES} - {"__init__"}
    assert modules | {"datasets"} == set(RANK)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_imports_run_one_way(path):
    if path.stem == "__init__":
        return
    for name in imports(path, top_level_only=True):
        parts = name.split(".")
        if parts[0] == "featstore" and len(parts) > 1 and parts[1] in RANK:
            assert RANK[parts[1]] < RANK[path.stem], f"{path.stem} imports {parts[1]}"


@pytest.mark.parametrize(
    ("package", "owner"),
    [
        ("zarr", "matrices.py"),
        ("distributed", "parallel.py"),
        ("rasterio", "scenes.py"),
        ("obstore", "remotes.py"),
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


@pytest.mark.parametrize("module", STAGE_TWO)
def test_stage_two_does_not_mention_torch(module):
    names = imports(ROOT / "featstore" / f"{module}.py")
    assert not any(name.split(".")[0] in ("torch", "torchvision") for name in names)


def loaded_after(code):
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_stage_two_leaves_torch_out():
    code = "\n".join(f"import featstore.{module}" for module in STAGE_TWO)
    assert "torch" not in loaded_after(code)


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"torch", "sklearn", "zarr", "dask", "matplotlib", "scipy", "pandas"}
    assert not heavy & loaded_after("import featstore, featstore.cli.main")


def test_help_loads_nothing_heavy():
    code = "from featstore.cli.main import _run\nassert _run(['extract', '--help']) == 0"
    assert not {"torch", "numpy", "rich"} & loaded_after(code)


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


def test_the_public_names_are_there():
    import featstore

    for name in featstore.__all__:
        assert callable(getattr(featstore, name))
    with pytest.raises(AttributeError, match="nothing"):
        _ = featstore.nothing
