"""`headstart store`: looking after the features that are kept."""

from pathlib import Path
from typing import Annotated

import typer
from headstart.features.config import FeatureConfig
from headstart.pipeline.commandline import Data, Json, Seed, announce_device, command, show
from headstart.pipeline.upkeep.config import ExportConfig, GcConfig, VerifyConfig

store = typer.Typer(help="Look after a store of features.", no_args_is_help=True)

StoreArgument = Annotated[
    Path, typer.Argument(metavar="STORE", help="A folder made by `headstart features`.", show_default=False)
]


@command(store)
def ls(store: StoreArgument, json: Json = False) -> None:
    """List the fingerprints of a store: images, bytes, and when it was last written to."""
    from headstart.pipeline.upkeep.listing import list_store

    result = list_store(store)
    show(result.fields(), json, result.lines())


@command(store, kept="bad shards that were dropped by --repair stay dropped")
def verify(store: StoreArgument, config: VerifyConfig, seed: Seed = 0, json: Json = False) -> None:
    """Read every byte of a store; with --data and --recompute, also compare features with fresh ones."""
    if config.recompute:
        announce_device()
    from headstart.pipeline.upkeep.verify import verify_store

    result = verify_store(store, config, seed)
    show(result.fields(), json, result.lines())
    failure = result.failure()
    if failure:
        raise failure


@command(store)
def explain(store: StoreArgument, data: Data, config: FeatureConfig, seed: Seed = 0, json: Json = False) -> None:
    """Say how many images have features, and how what was asked for differs from what is there."""
    announce_device()
    from headstart.pipeline.upkeep.explain import explain

    result = explain(store, data, config, seed)
    show(result.fields(), json, result.lines())


@command(store, kept="no features are lost: repeat the command to go on")
def compact(store: StoreArgument, json: Json = False) -> None:
    """Write small shards again as large ones. Readers and writers are not disturbed."""
    from headstart.pipeline.upkeep.compact import compact_store

    result = compact_store(store)
    show(result.fields(), json, result.lines())


@command(store, kept="no features in use are lost: repeat the command to go on")
def gc(
    store: StoreArgument,
    data: Annotated[
        list[Path], typer.Argument(metavar="DATA...", help="Every data folder in use.", show_default=False)
    ],
    config: GcConfig,
    json: Json = False,
) -> None:
    """Drop the features of images that are in none of the data folders."""
    from headstart.pipeline.upkeep.gc import collect_garbage

    result = collect_garbage(store, data, config)
    show(result.fields(), json, result.lines())


@command(store)
def export(
    store: StoreArgument,
    data: Data,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .npz, .h5 or .hdf5.", show_default=False)],
    config: ExportConfig,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write features, labels, splits, paths and class names into one plain file."""
    from headstart.pipeline.upkeep.export import export

    result = export(store, data, file, config, seed)
    show(result.fields(), json, result.lines())
