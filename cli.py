"""The commands of `headstart`. A command parses its options, then imports and calls the function that does the work."""

from gc import set_threshold
from pathlib import Path
from typing import Annotated, Literal

import typer
from headstart.features.cluster.config import ClusterConfig
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.libjpeg import own_standard_error
from headstart.pipeline.advise.config import AdviseConfig
from headstart.pipeline.check.config import CheckConfig
from headstart.pipeline.commandline import Data, NewRun, Overwrite, Result, RunArgument, StoreArgument, command
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.demo.config import DEMO_IMAGES
from headstart.pipeline.evaluate.config import AskedSplit, FoldsConfig, Sort, ThresholdConfig
from headstart.pipeline.export.config import ModelExportConfig
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.labels.config import LabelsConfig
from headstart.pipeline.places import NetworkPlaces, Places
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.report.config import ReportConfig
from headstart.pipeline.serve.config import ServeConfig
from headstart.pipeline.study.config import StudyConfig
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.upkeep.config import StoreExportConfig, VerifyConfig

_HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, context_settings=_HELP)
store = typer.Typer(help="Look after a store of features.", no_args_is_help=True, context_settings=_HELP)

Split = Annotated[Literal["train", "val", "test", "all"], typer.Option(help="The split to use.")]
AnySplit = Annotated[
    AskedSplit, typer.Option(help="The split to use. auto: test, or all of another DATA without splits.")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"headstart {version('headstart')}")
        raise typer.Exit


@app.callback()
def main(
    asked: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Train image classifiers in two phases: a head on cached features, then the top of the network."""
    own_standard_error()
    set_threshold(100_000)  # a scan makes millions of objects; the search for cycles took a fifth of its time


@command(app, kept="the images drawn and the features so far are kept: repeat the command")
def demo(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Only draw, into this folder.")] = None,
    images: Annotated[int, typer.Option(help="Number of images, half of each class.", min=2)] = DEMO_IMAGES,
    seed: int = 0,
) -> Result:
    """Draw cats and dogs into ./demo, and run every stage on them. With DIR, only draw images and some broken files."""
    if folder is None:
        from headstart.pipeline.demo.demo import run_demo

        return run_demo(images, seed)
    from headstart.pipeline.demo.drawing import draw_demo

    return draw_demo(folder, images, seed)


@command(app, kept="what is in DATA already is kept: repeat the command to go on")
def prepare(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="Class or split folders, cat.0.jpg names, an archive of these, or a list of images."
        ),
    ],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder for {train,val,test}/<class>/.")],
    config: PrepareConfig,
    reading: DataConfig,
    seed: int = 0,
) -> Result:
    """Split labelled images into DATA/{train,val,test}/<class>/ by a hash of their content."""
    from headstart.pipeline.prepare.prepare import prepare

    return prepare(source, data, config, seed, reading)


@command(app)
def check(data: Data, config: CheckConfig, reading: DataConfig, seed: int = 0) -> Result:
    """Find problems in DATA. Exits with 1 on leaks, near-duplicates and label conflicts, and if training would fail."""
    from headstart.pipeline.check.check import check

    return check(data, config, seed, reading)


@command(app, kept="the features so far are kept: repeat the command to go on")
def features(
    data: Data,
    config: FeatureConfig,
    extraction: ExtractionConfig,
    reading: DataConfig,
    by_ray: ClusterConfig,
    seed: int = 0,
) -> Result:
    """Run the frozen backbone over every image whose features the store lacks."""
    from headstart.pipeline.featured import cache_features

    return cache_features(data, config, extraction, seed, reading=reading, labelled=False, by_ray=by_ray)


@command(
    app, kept="features so far are kept; changes by --apply are completed by repeating it, or taken back by --undo"
)
def labels(
    data: Data,
    config: LabelsConfig,
    features: FeatureConfig,
    extraction: ExtractionConfig,
    reading: DataConfig,
    seed: int = 0,
) -> Result:
    """Find likely label errors outside the test split. With --apply FILE, change labels as FILE says."""
    from headstart.pipeline.labels.labels import labels

    return labels(data, features, extraction, config, seed, reading)


@command(app, kept="the features so far are kept: repeat the command to go on", needs_weights=False)
def advise(
    data: Data,
    config: AdviseConfig,
    features: FeatureConfig,
    extraction: ExtractionConfig,
    reading: DataConfig,
    seed: int = 0,
) -> Result:
    """Advise on the network and the cut for DATA, and on fine-tuning. The advice rests on the features in the store."""
    from headstart.pipeline.advise.advise import advise

    return advise(data, features, extraction, config, seed, reading)


@command(app, kept="features extracted so far are kept, the run was not made")
def head(
    data: Data,
    run: NewRun,
    features: FeatureConfig,
    extraction: ExtractionConfig,
    reading: DataConfig,
    config: HeadConfig,
    overwrite: Overwrite = False,
    seed: int = 0,
) -> Result:
    """Phase 1: train a head on cached features."""
    from headstart.pipeline.head.run import train_run

    return train_run(data, run, features, extraction, config, overwrite, seed, reading=reading)


@command(app, kept="the finished trials are kept: repeat the command to go on")
def sweep(
    data: Data,
    study: Annotated[Path, typer.Option(help="SQLite file of the search; made if it is missing.")],
    run: NewRun,
    features: FeatureConfig,
    extraction: ExtractionConfig,
    reading: DataConfig,
    config: SweepConfig,
    by_ray: ClusterConfig,
    overwrite: Overwrite = False,
    seed: int = 0,
) -> Result:
    """Try many heads on cached features. Make a run of the head that is best on val."""
    from headstart.pipeline.sweep.sweep import sweep

    return sweep(data, study, run, features, extraction, config, overwrite, seed, reading, by_ray)


@command(app, kept="the features so far are kept: repeat the command")
def study(
    data: Data,
    features: FeatureConfig,
    extraction: ExtractionConfig,
    reading: DataConfig,
    config: StudyConfig,
    seed: int = 0,
) -> Result:
    """Measure how accuracy grows with the number of images. Forecast accuracy for more images. Uses no test image."""
    from headstart.pipeline.study.study import study

    return study(data, features, extraction, config, seed, reading)


@command(app, kept="the finished epochs are kept: repeat the command without --overwrite to go on")
def finetune(
    run: RunArgument, config: FinetuneConfig, places: Places, overwrite: Overwrite = False, seed: int = 0
) -> Result:
    """Phase 2: train the backbone's top on raw images. Repeat the command to go on after the last finished epoch."""
    from headstart.pipeline.finetune.finetune import finetune

    return finetune(run, config, overwrite, seed, places)


@command(app)
def evaluate(
    run: RunArgument,
    places: Places,
    decision: ThresholdConfig,
    validation: FoldsConfig,
    by_ray: ClusterConfig,
    split: AnySplit = "auto",
    sort: Annotated[Sort, typer.Option(help="Order of the predictions' file; mistakes puts the worst first.")] = "data",
    seed: int = 0,
) -> Result:
    """Score a run on a split. With --folds, cross-validate heads with the run's settings, on all images of the run."""
    if validation.folds:
        validation.require_alone(split, sort, decision, by_ray)
        from headstart.pipeline.evaluate.folds import cross_validate

        return cross_validate(run, validation, places, seed)
    from headstart.pipeline.evaluate.evaluate import evaluate

    return evaluate(run, split, places, sort, decision, by_ray)


@command(app)
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Evaluated runs.")],
    places: Places,
    split: Split = "test",
    html: Annotated[Path | None, typer.Option(help="HTML page to write, with a picture of the intervals.")] = None,
) -> Result:
    """Show runs side by side, and test whether the best two differ by more than chance."""
    from headstart.pipeline.evaluate.compare import compare

    return compare(runs, split, places, html)


@command(app)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders; several are compared.")],
    config: ReportConfig,
    places: Places,
    split: AnySplit = "auto",
) -> Result:
    """Write a page on a run: figures, curves, data and settings. Show mistakes next to the nearest training images."""
    from headstart.pipeline.report.report import report

    return report(runs, config, split, places)


@command(app, kept="what was predicted is kept; with --output, repeat the command with --append to go on")
def predict(
    run: RunArgument,
    config: PredictConfig,
    places: NetworkPlaces,
    by_ray: ClusterConfig,
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH", help="Images and folders.")] = None,
    seed: int = 0,
) -> Result:
    """Classify images. Print one line for each image, or write all answers into a file."""
    from headstart.pipeline.predict.predict import predict_to_file, predicting

    if config.output or by_ray.ray:
        return predict_to_file(run, paths or [], config, places, seed, by_ray)
    return predicting(run, paths or [], config, places, seed)


@command(app, kept="requests in work were answered first")
def serve(
    run: Annotated[Path, typer.Argument(metavar="RUN|EXPORT", help="A run, or a folder made by `headstart export`.")],
    config: ServeConfig,
    places: Places,
    seed: int = 0,
) -> Result:
    """Serve a page that labels photographs, and an HTTP interface for programs."""
    from headstart.pipeline.serve.serve import serve

    return serve(run, config, places, seed)


@command(app, name="export")
def export_model(
    run: RunArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make, with the model and what it needs.")],
    config: ModelExportConfig,
    places: Places,
    overwrite: Overwrite = False,
    seed: int = 0,
) -> Result:
    """Export a run as a model for use elsewhere. Compare the model's answers on val images with the run's answers."""
    from headstart.pipeline.export.export import export

    return export(run, out, config, places, overwrite, seed)


@command(app)
def backbones(
    name: Annotated[
        str | None, typer.Argument(help="One network, or a .keras file: its cuts and their shapes.")
    ] = None,
    store: Annotated[
        Path, typer.Option(help="Store whose measured speeds are shown.", envvar="HEADSTART_STORE")
    ] = Path("store"),
) -> Result:
    """List the networks that `--backbone` takes, or the cuts of one network."""
    from headstart.pipeline.backbones.backbones import list_backbones

    return list_backbones(name, store)


@command(app)
def doctor(
    store: Annotated[Path, typer.Option(help="Store whose disk is tried.", envvar="HEADSTART_STORE")] = Path("store"),
) -> Result:
    """Describe this machine on one screen, for a bug report. Exits with 1 if a command would fail here."""
    from headstart.pipeline.doctor.doctor import doctor

    return doctor(store)


app.add_typer(store, name="store")


@command(store)
def ls(store: StoreArgument) -> Result:
    """List the fingerprints of a store, each with its number of images, its size, and the time of its last write."""
    from headstart.pipeline.upkeep.listing import list_store

    return list_store(store)


@command(store, kept="bad shards that were dropped by --repair stay dropped")
def verify(store: StoreArgument, config: VerifyConfig, reading: DataConfig, seed: int = 0) -> Result:
    """Read every byte of a store. With --data and --recompute, also compare stored features with recomputed ones."""
    from headstart.pipeline.upkeep.verify import verify_store

    return verify_store(store, config, seed, reading)


@command(store, needs_weights=False)
def explain(
    store: StoreArgument,
    data: Data,
    config: FeatureConfig,
    extraction: ExtractionConfig,
    reading: DataConfig,
    seed: int = 0,
) -> Result:
    """Count the images that have features with these settings. For other features, name the settings that differ."""
    from headstart.pipeline.upkeep.explain import explain

    return explain(data, config, extraction, seed, reading)


@command(store, kept="no features are lost: repeat the command to go on")
def compact(store: StoreArgument) -> Result:
    """Rewrite small shards as large ones. Other processes can read and write meanwhile."""
    from headstart.pipeline.upkeep.gc import compact_store

    return compact_store(store)


@command(store, kept="no features in use are lost: repeat the command to go on")
def gc(
    store: StoreArgument,
    data: Annotated[list[Path], typer.Argument(metavar="DATA", help="Every data folder or list in use.")],
    reading: DataConfig,
    yes: Annotated[bool, typer.Option("--yes", help="Drop the features. By default, they are only counted.")] = False,
) -> Result:
    """Drop the features of images that are in none of the data folders."""
    from headstart.pipeline.upkeep.gc import collect_garbage

    return collect_garbage(store, data, yes, reading)


@command(store)
def export(
    store: StoreArgument,
    data: Data,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .npz, .h5 or .hdf5.")],
    config: StoreExportConfig,
    reading: DataConfig,
    seed: int = 0,
) -> Result:
    """Write features, labels, splits, paths and class names into one plain file."""
    from headstart.pipeline.upkeep.store_export import export

    return export(store, data, file, config, seed, reading)


if __name__ == "__main__":
    app()
