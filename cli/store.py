"""``featstore store``: list, show, verify, remove and export feature sets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featstore.environment import store_option
from featstore.text import nbytes_text

from . import completion, console, tables

if TYPE_CHECKING:
    from featstore.store.feature_set import FeatureSet


@click.group()
def command() -> None:
    """List, show, verify, remove and export stored features."""


@command.command("ls")
@console.store_option
@console.json_option
def ls(store: str, as_json: bool) -> None:
    """List all feature sets."""
    from featstore.errors import StoreError

    rows: list[list[str]] = []
    values: list[dict[str, Any]] = []
    for feature_set in console.open_store(store).sets():
        try:
            value = _describe(feature_set)
        except StoreError as error:
            console.say(f"{feature_set.set_id}: {error}")
            continue
        values.append(value)
        layers = [*value["layers"], *(f"{name} (unfinished)" for name in value["unfinished"])]
        rows.append(
            [
                value["set_id"],
                value["title"],
                _backbone(value),
                ", ".join(layers),
                str(value["n_samples"]),
                value["precision"],
                nbytes_text(value["nbytes"]),
            ]
        )
    if as_json:
        console.emit_json({"store": store, "sets": values})
    elif rows:
        columns = ["set", "dataset", "backbone", "layers", "images", "precision", "size"]
        tables.table(columns, rows, right=["images", "size"])
    else:
        console.echo(
            f"{store} holds no feature sets yet. Make one: featstore extract --model resnet50 "
            "--dataset sat4"
        )


def _backbone(value: dict[str, Any]) -> str:
    """Return network, weights and, if they are not a picture's, the bands."""
    usual = ("rgb", "red,green,blue", "red,green,blue,nir")
    bands = "" if value["bands"] in (*usual, "") else f" bands {value['bands']}"
    return f"{value['model']} {value['weights']}{bands}"


def _describe(feature_set: FeatureSet) -> dict[str, Any]:
    outline = feature_set.outline
    return {
        "set_id": feature_set.set_id,
        **outline.facets.to_dict(),
        "n_samples": outline.n_samples,
        "layers": list(outline.layers),
        "unfinished": feature_set.unfinished(),
        "nbytes": feature_set.nbytes,
        "path": feature_set.address,
    }


def _reading(feature_set: FeatureSet) -> str:
    """Return the bands and values that were chosen, or nothing."""
    chosen = feature_set.info.preprocess.reading
    if chosen is None:
        return ""
    ranges = [f"{low:g} to {high:g}" for low, high in chosen.value_range]
    values = f", {ranges[0] if len(ranges) == 1 else f'{len(ranges)} ranges'}" if ranges else ""
    missing = f", nodata {chosen.nodata}" if chosen.nodata else ""
    return f"bands {','.join(chosen.bands) or 'rgb'}{values}{missing}"


def _labels_text(feature_set: FeatureSet) -> str:
    """Return what the images' labels are."""
    info = feature_set.info.dataset
    if info.task == "regression":
        return f"the number {info.target_names[0]}"
    several = ", any number of them on an image" if info.task == "multilabel" else ""
    return f"{len(feature_set.class_names)} classes{several}"


@command.command("show")
@click.argument("set_id", metavar="SET", shell_complete=completion.set_names)
@console.store_option
@console.json_option
def show(set_id: str, store: str, as_json: bool) -> None:
    """Show all that is known of one feature set.

    SET is the id of a set, the beginning or end of its id, or the path of its folder or Zarr group.
    """
    from featstore.store.feature_store import find_set

    _, feature_set = find_set(set_id, store)
    records = feature_set.layers()
    if as_json:
        console.emit_json(
            {
                **_describe(feature_set),
                "info": feature_set.info.to_dict(),
                "records": {name: record.to_dict() for name, record in records.items()},
            }
        )
        return
    info = feature_set.info
    console.echo(f"{feature_set.set_id}: {nbytes_text(feature_set.nbytes)}")
    console.echo(f"  Zarr group   {console.shown(feature_set.address)}")
    console.echo(
        f"  dataset      {info.facets.title} ({info.facets.dataset}), "
        f"{feature_set.n_samples} images, {_labels_text(feature_set)}"
    )
    console.echo(f"  fingerprint  {info.dataset.fingerprint}")
    console.echo(
        f"  backbone     {info.backbone.model}, {info.facets.weights}, "
        f"{info.backbone.precision}, stored as {info.facets.dtype}"
    )
    console.echo(f"  weights      sha256 {info.backbone.weights_sha256}")
    size = info.preprocess.image_size
    resized = f"{size} px {info.preprocess.resize}" if size else "none"
    console.echo(
        f"  preprocess   {resized}; {_reading(feature_set) or f'bands {info.preprocess.bands}'}"
    )
    console.echo(f"  made by      {info.command}")
    rows = [
        [
            name,
            record.node,
            "x".join(map(str, record.shape)),
            record.pool or "-",
            str(record.n_features),
            record.completed,
            record.device,
        ]
        for name, record in records.items()
    ]
    tables.table(
        ["layer", "torchvision node", "shape", "pool", "features", "completed", "device"],
        rows,
        right=["features"],
    )
    for name in feature_set.unfinished():
        console.echo(feature_set.why_unfinished(name))
    masked = {one.sample_id: one.error for r in records.values() for one in r.masked}
    for sample_id, cause in masked.items():
        console.echo(f"masked: {sample_id}: {cause}")


@command.command("verify")
@click.argument("set_ids", metavar="[SET]...", nargs=-1, shell_complete=completion.set_names)
@console.store_option
@console.json_option
def verify(set_ids: tuple[str, ...], store: str, as_json: bool) -> None:
    """Compare every stored byte with its hash; exit with 1 if any is wrong.

    SET is the id or the path of a set; without one, all feature sets and runs are verified.
    Damaged chunks are marked, so that the set's own extract command computes just them.
    """
    from featstore.store.verification import verify_sets, verify_store

    opened = console.open_store(store, named=set_ids)
    with console.progress() as progress:
        found = verify_sets(set_ids, store, progress) if set_ids else verify_store(opened, progress)
    damages, n_runs = found.damages, 0
    if not set_ids:
        from featstore.runs.verification import verify_runs

        n_runs, of_runs = verify_runs(opened)
        damages = damages + of_runs
    if as_json:
        console.emit_json(
            {
                "intact": not damages,
                "n_sets": found.n_sets,
                "n_runs": n_runs,
                "damages": [vars(damage) for damage in damages],
                "repair": sorted(found.repairs),
            }
        )
    else:
        for damage in damages:
            console.echo(str(damage))
        for repair in found.repairs:
            console.echo(f"Repair with: {repair}")
        for set_id in found.broken:
            console.echo(
                f"Extract {set_id} again, after: featstore store rm {set_id}{store_option(store)}"
            )
        if not damages:
            console.echo(_intact_text(store, found.n_sets, n_runs))
    if damages:
        sys.exit(1)


def _intact_text(store: str, n_sets: int, n_runs: int) -> str:
    if not n_sets:
        return f"{store} holds no feature sets."
    sets = f"{n_sets} feature set{'s' if n_sets != 1 else ''}"
    runs = f" and {n_runs} run{'s' if n_runs != 1 else ''}" if n_runs else ""
    return f"{sets}{runs} {'is' if n_sets == 1 and not n_runs else 'are'} intact."


@command.command("rm")
@click.argument(
    "set_ids", metavar="SET...", nargs=-1, required=True, shell_complete=completion.set_names
)
@console.yes_option
@console.store_option
def rm(set_ids: tuple[str, ...], yes: bool, store: str) -> None:
    """Remove feature sets; runs that were fitted on them stay.

    SET is the path of a set, its id, or at least the last 6 characters of its id.
    """
    from featstore.store.feature_store import find_set_to_remove

    found = {s.path: (opened, s) for opened, s in (find_set_to_remove(n, store) for n in set_ids)}
    texts = [f"{s.set_id} ({nbytes_text(s.nbytes)})" for _, s in found.values()]
    if not yes:
        console.confirm_removal(f"Remove {', '.join(texts)}?")
    for (opened, feature_set), text in zip(found.values(), texts, strict=True):
        opened.remove(feature_set)
        console.echo(f"Removed {text}.")


@command.command("gc")
@console.store_option
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@console.json_option
def gc(store: str, dry_run: bool, as_json: bool) -> None:
    """Delete what killed processes left, and uploads that no record names.

    Files that a living process may need are left alone: those of a set or run that is being worked
    on, and those that are less than a day old.
    """
    with console.progress() as progress:
        found = console.open_store(store).backend.collect(progress, dry_run=dry_run)
    if as_json:
        console.emit_json(
            {"store": store, "dry_run": dry_run, "deleted": [vars(one) for one in found]}
        )
        return
    verb = "Would delete" if dry_run else "Deleted"
    for one in found:
        files = f"{one.n_files} file{'s' if one.n_files != 1 else ''}"
        console.echo(f"{verb} {one.name} ({files}, {nbytes_text(one.nbytes)}): {one.why}.")
    if not found:
        console.echo(f"{store} holds nothing to delete.")


@command.command("export")
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@console.dataset_option("Dataset, if the store has several.")
@click.option(
    "--model",
    metavar="NAME[,NAME...]",
    shell_complete=completion.stored_models,
    help="Network, if the store has several.",
)
@click.option(
    "--layers",
    metavar="NAME[,NAME...]",
    shell_complete=completion.stored_layers,
    help="Layers, side by side.",
)
@console.set_option
@click.option(
    "--run",
    metavar="RUN",
    shell_complete=completion.run_names,
    help="Add the classes that a run predicts: of its own features, or of the same in --set.",
)
@console.store_option
def export(
    path: Path,
    dataset: str | None,
    model: str | None,
    layers: str | None,
    set_id: str | None,
    run: str | None,
    store: str,
) -> None:
    """Write features with labels and sample ids to FILE: .npz, .npy, .parquet or .csv.

    Of the windows of scenes, .parquet is GeoParquet, which QGIS opens.

    In a .csv file, class names and sample ids that begin with =, +, -, @ or a tab get a ' in front,
    so that no spreadsheet takes them for formulas.
    """
    from featstore.store.feature_store import find_set

    opened = find_set(set_id, store)[0] if set_id else console.open_store(store)
    from featstore.store.exports import export

    columns = {}
    if run is None:
        selection = opened.select(dataset, model, layers, set_id=set_id)
    else:
        if dataset or model or layers:
            raise click.UsageError("--run chooses features itself; it goes with --set alone.")
        from featstore.inference.stored_features import predict_stored, stored_features

        chosen = console.open_run(run, opened)
        selection = stored_features(chosen, opened, set_id)
        columns = predict_stored(chosen, selection)
    export(selection, path, columns)
    console.echo(
        f"{selection.n_samples} rows of {selection.n_features} features of "
        f"{', '.join(selection.layers)} ({nbytes_text(path.stat().st_size)}) in {path}"
    )
