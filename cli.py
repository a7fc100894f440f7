"""The command line: parses, calls one function per command, prints. Heavy imports wait until a command needs them."""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer
from headstart.cli_search import search
from headstart.cli_store import store
from headstart.features.config import FeatureConfig
from headstart.features.errors import DataError, OptionError
from headstart.pipeline.check.config import CheckConfig
from headstart.pipeline.commandline import Data, Json, Overwrite, Seed, announce_device, command, next_steps, show
from headstart.pipeline.data.config import PrepareConfig
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.head.config import HeadConfig
from rich.table import Table

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(search)
app.add_typer(store, name="store")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headstart {version('headstart')}")
        raise typer.Exit


@app.callback()
def main(
    asked: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Train image classifiers in two phases: a head on cached features, then the top of the network."""


RunArgument = Annotated[Path, typer.Argument(help="A run folder made by `headstart head`.", show_default=False)]


@command(app, kept="the images drawn so far are kept")
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to draw.", show_default=False)],
    images: Annotated[int, typer.Option(help="How many, half of each class.", min=2)] = 600,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Draw a small set of cats and dogs, a few broken files among them."""
    from headstart.pipeline.data.demo import draw_demo

    result = draw_demo(folder, images, seed)
    show(asdict(result), json, [f"drew {result.images} images and {result.broken} broken files in {result.path}"])


@command(app, kept="what is in DATA already is kept: repeat the command to go on")
def prepare(
    source: Annotated[Path, typer.Argument(help="Class folders, cat.0.jpg names, or a zip of either.")],
    data: Annotated[Path, typer.Argument(help="Gets {train,val,test}/<class>/.", show_default=False)],
    config: PrepareConfig,
    move: Annotated[bool, typer.Option("--move", help="Move the files of a folder instead of linking them.")] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Split labelled images into DATA/{train,val,test}/<class>/ by a hash of their content."""
    from headstart.pipeline.data.prepare import prepare

    result = prepare(source, data, config, move, seed)
    summary = [f"{data}: {result.train} train, {result.val} val, {result.test} test, {result.rejected} rejected"]
    if result.rejected:
        summary.append(f"{data}/rejects.csv says why, by their headers; `headstart features` decodes the rest")
    show(asdict(result), json, summary)


@command(app)
def check(
    data: Data,
    config: CheckConfig,
    html: Annotated[Path | None, typer.Option(help="Write a page with thumbnails there.", show_default=False)] = None,
    allow: Annotated[bool, typer.Option("--allow", help="Exit with 0 in spite of leaks or conflicts.")] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Say what is in DATA before anything is trained on it. Exits with 1 on leaks or conflicting labels."""
    if html and html.is_dir():
        raise OptionError(f"--html must be a file, and {html} is a folder")
    announce_device()
    from headstart.pipeline.check.check import check
    from headstart.pipeline.check.page import write_page
    from headstart.pipeline.check.report import as_fields
    from headstart.pipeline.check.summary import check_summary

    result = check(data, config, seed)
    if html:
        write_page(result, config, html)
    show(as_fields(result, config), json, check_summary(result, config, html))
    if (result.leaks or result.conflicts) and not allow:
        raise DataError(
            f"{data}: {len(result.leaks)} images in several splits, {len(result.conflicts)} in several classes; remove "
            "them, or --allow them"
        )


@command(app, kept="the features so far are kept: repeat the command to go on")
def features(data: Data, config: FeatureConfig, seed: Seed = 0, json: Json = False) -> None:
    """Run the frozen backbone over every image that the store has no features of yet."""
    announce_device()
    from headstart.pipeline.featured import cache_features

    cached = cache_features(data, config, seed)
    folders = [store.folder.name for store in cached.stores]
    keys = [store.key for store in cached.stores]
    counts = {
        "examples": len(cached.examples),
        "extracted": cached.extracted,
        "cached": cached.cached,
        "rejected": len(cached.rejects),
        "ignored": cached.ignored,
        "seconds": cached.seconds,
        "images_per_second": cached.images_per_second,
        "store": str(config.store),
        "fingerprint": keys[0] if len(keys) == 1 else keys,
        "views_extracted": cached.views_extracted,
    }
    speed = f" ({cached.seconds:.1f} s, {cached.images_per_second:.1f} images/s)" if cached.extracted else ""
    where = f"{config.store}/{folders[0]}" if len(folders) == 1 else f"{len(folders)} folders of {config.store}"
    summary = [
        f"{len(cached.examples)} examples in {len(cached.class_names)} classes: {cached.extracted} extracted{speed}, "
        f"{cached.cached} cached",
        f"{len(cached.rejects)} images rejected ({config.store}/rejects.csv), {cached.ignored} other files ignored",
        f"features are in {where}; `headstart store ls {config.store}` lists all",
    ]
    if config.views:
        count = len({example.image.digest for example in cached.of("train")})
        summary.insert(1, f"{config.views} views of {count} training images: {cached.views_extracted} extracted")
    show(counts, json, summary)


@command(app, kept="features extracted so far are kept, the run was not made")
def head(
    data: Data,
    run: Annotated[Path, typer.Option(help="Run folder to make.", show_default=False)],
    features: FeatureConfig,
    config: HeadConfig,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Phase 1: train a head on cached features."""
    announce_device()
    from headstart.pipeline.head.run import train_run

    result = train_run(data, run, features, config, overwrite, seed)
    summary = [
        f"val accuracy {result.val['accuracy']:.4f}, loss {result.val['loss']:.4f} "
        f"(best epoch {result.best_epoch} of {result.epochs}, {result.seconds:.1f} s)",
        f"the run is in {run}; next: {next_steps(run, '+' in features.backbone)}",
    ]
    show(asdict(result), json, summary)


@command(app, kept="the finished epochs are kept: repeat the command to go on")
def finetune(
    run: RunArgument,
    config: FinetuneConfig,
    data: Annotated[
        Path | None, typer.Option(help="Where the run's data is now, if moved.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Phase 2: train the top of the backbone on raw images, from the run's head. Goes on where it was cut off."""
    announce_device()
    from headstart.pipeline.finetune.finetune import finetune

    result = finetune(run, config, overwrite, seed, data)
    summary = [
        f"val accuracy {result.before['accuracy']:.4f} -> {result.after['accuracy']:.4f}, "
        f"loss {result.before['loss']:.4f} -> {result.after['loss']:.4f} "
        f"(best epoch {result.best_epoch} of {result.epochs}; {result.images_per_second:.1f} images/s after the start)",
        f"the classifier is {run}/classifier.keras",
    ]
    if result.best_epoch == 0:
        summary.insert(1, "no epoch was better than the head alone: the classifier is backbone and head as they were")
    show(asdict(result), json, summary)


@command(app)
def evaluate(
    run: RunArgument,
    split: Annotated[Literal["train", "val", "test", "all"], typer.Option(help="Which examples.")] = "test",
    data: Annotated[Path | None, typer.Option(help="Another data folder than the run's.", show_default=False)] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Score a run on a split."""
    announce_device()
    from headstart.pipeline.evaluate.evaluate import evaluate

    result = evaluate(run, split, data)
    models = {name: getattr(result, name) for name in ("head", "finetuned") if getattr(result, name)}
    table = Table(title=f"{result.n} images of {result.split}")
    for column in ("", "accuracy", "95 % interval", "loss", "auc"):
        table.add_column(column)
    for name, metrics in models.items():
        low, high = metrics["accuracy_interval"]
        auc = "-" if metrics["auc"] is None else f"{metrics['auc']:.4f}"
        table.add_row(name, f"{metrics['accuracy']:.4f}", f"{low:.4f} - {high:.4f}", f"{metrics['loss']:.4f}", auc)
    show({"split": result.split, "n": result.n, **models}, json, [table])


@command(app)
def predict(
    run: RunArgument,
    paths: Annotated[list[Path], typer.Argument(help="Images and folders.", show_default=False)],
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Classify images."""
    announce_device()
    from headstart.pipeline.evaluate.predict import predict

    result = predict(run, paths)
    lines = [f"{item.path}: {item.label} ({item.probability:.4f})" for item in result.predictions]
    lines += [f"{reject.path}: {reject.reason}, {reject.detail}" for reject in result.rejects]
    show(asdict(result), json, lines)


if __name__ == "__main__":
    app()
