"""`headstart store`: looking after the features that are kept."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from headstart.features.config import FeatureConfig
from headstart.features.errors import StoreError
from headstart.pipeline.commandline import Data, Json, Seed, announce_device, command, show
from rich.filesize import decimal

store = typer.Typer(help="Look after a store of features.", no_args_is_help=True)

StoreArgument = Annotated[
    Path, typer.Argument(metavar="STORE", help="A folder made by `headstart features`.", show_default=False)
]


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


@command(store)
def ls(store: StoreArgument, json: Json = False) -> None:
    """List the fingerprints of a store: images, bytes, and when it was last written to."""
    from headstart.features.store.maintain import contents, open_stores

    found = [contents(one) for one in open_stores(store)]
    lines = [
        f"{one.folder.name}: {f'view {one.view} of ' if one.view else ''}{one.images} images, {one.precision}, in "
        f"{one.shards} shards, {decimal(one.bytes)}, "
        f"written {_time(one.modified)}"
        for one in found
    ]
    rows = [{**asdict(one), "folder": one.folder.name} for one in found]
    show({"fingerprints": rows}, json, lines)


@command(store, kept="bad shards that were dropped by --repair stay dropped")
def verify(
    store: StoreArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Drop bad shards, so that their images are redone.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Compare features of its images with a fresh forward pass.", show_default=False)
    ] = None,
    recompute: Annotated[int, typer.Option(help="How many images to compare.", min=0)] = 0,
    weights: Annotated[
        str,
        typer.Option(help="imagenet, random, or a weights file: those to compare with.", envvar="HEADSTART_WEIGHTS"),
    ] = "imagenet",
    weights_seed: Annotated[int, typer.Option(help="Seed of --weights random.")] = 0,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Read every byte of a store; with --data and --recompute, also compare features with fresh ones."""
    if recompute:
        announce_device()
    from headstart.pipeline.upkeep.recompute import verify_store

    found, fresh = verify_store(store, repair, data, recompute, weights, weights_seed, seed)
    bad = [*found.bad, *fresh.bad, *found.views, *found.folders]
    fields = {
        "shards": found.shards,
        "images": found.images,
        "bad": len(bad),
        "bad_shards": [asdict(shard) for shard in bad],
        "recomputed": fresh.images,
        "largest_error": fresh.largest_error if fresh.images else None,
    }
    summary = [one.reason if one.reason.startswith(one.path) else f"{one.path}: {one.reason}" for one in bad]
    summary.append(f"{found.shards} shards, {found.images} images, {len(bad)} bad")
    if fresh.images:
        summary.append(f"{fresh.images} images recomputed; largest relative error {fresh.largest_error:.2g}")
    if bad and repair:
        summary.append("what was bad is dropped: `headstart features` does those images again")
    show(fields, json, summary)
    if found.folders:
        raise StoreError(found.folders[0].reason)
    if bad and not repair:
        raise StoreError(f"{store}: {len(bad)} bad among {found.shards} shards; --repair mends it")


@command(store)
def explain(store: StoreArgument, data: Data, config: FeatureConfig, seed: Seed = 0, json: Json = False) -> None:
    """Say how many images have features, and how what was asked for differs from what is there."""
    announce_device()
    from headstart.pipeline.upkeep.explain import explain

    states = explain(store, data, config, seed)
    lines = []
    for state in states:
        lines.append(f"{state.cut}: {state.present} images have features, {state.missing} have none, or can't be used")
        for other in state.others:
            what = "; ".join(
                f"{field}: asked for {values['asked']}, there {values['there']}"
                for field, values in other.differs.items()
            )
            lines.append(f"  {other.folder} has {other.present} of them, but differs in {what}")
    show({"cuts": [asdict(state) for state in states]}, json, lines)


@command(store, kept="no features are lost: repeat the command to go on")
def compact(store: StoreArgument, json: Json = False) -> None:
    """Write small shards again as large ones. Readers and writers are not disturbed."""
    from headstart.features.store.maintain import compact, contents, open_stores

    stores = open_stores(store)
    before = [contents(one).shards for one in stores]
    for one in stores:
        compact(one)
    after = [contents(one).shards for one in stores]
    lines = [f"{one.folder.name}: {old} -> {new} shards" for one, old, new in zip(stores, before, after, strict=True)]
    if before != after:
        lines.append("the replaced shards stay on disk until the next compact or gc, for whoever reads them now")
    show({"shards_before": sum(before), "shards_after": sum(after)}, json, lines)


@command(store, kept="no features in use are lost: repeat the command to go on")
def gc(
    store: StoreArgument,
    data: Annotated[
        list[Path], typer.Argument(metavar="DATA...", help="Every data folder in use.", show_default=False)
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do it, rather than say what would be done.")] = False,
    json: Json = False,
) -> None:
    """Drop the features of images that are in none of the data folders."""
    from headstart.pipeline.upkeep.explain import unused

    counts = unused(store, data, drop=yes)
    verb = "dropped" if yes else "to drop"
    lines = [f"{one.folder}: {one.kept} images in use, {one.dropped} {verb} ({decimal(one.bytes)})" for one in counts]
    dropped = sum(one.dropped for one in counts)
    if dropped:
        lines.append("the disk is freed by the next gc or compact" if yes else "nothing was changed; --yes does it")
    show({"fingerprints": [asdict(one) for one in counts], "dropped": dropped, "done": yes}, json, lines)


@command(store)
def export(
    store: StoreArgument,
    data: Data,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .npz, .h5 or .hdf5.", show_default=False)],
    fingerprint: Annotated[
        str, typer.Option(help="Which features: the beginning of a fingerprint, or of its name in `store ls`.")
    ] = "",
    max_rejects: Annotated[
        float, typer.Option(help="Fraction of images that may be without features.", min=0, max=1)
    ] = 0.05,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write features, labels, splits, paths and class names into one plain file."""
    from headstart.pipeline.upkeep.export import export

    result = export(store, data, file, fingerprint, seed, max_rejects)
    without = f"; {result.missing} images have none" if result.missing else ""
    show(asdict(result), json, [f"{file}: features of {result.examples} images, {result.shape}{without}"])
