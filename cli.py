"""The command line: parses, calls one function per command, prints. Heavy imports wait until a command needs them."""

import errno
import functools
import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from rich.console import Console
from rich.table import Table

from features.errors import HeadstartError, OptionError
from features.progress import console as messages
from pipeline.cached import FeatureConfig
from pipeline.finetune import FinetuneConfig
from pipeline.head import HeadConfig
from pipeline.prepare import PrepareConfig

app = typer.Typer(
    help="Train image classifiers in two phases: a head on cached features, then the top of the network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
_KEPT = {
    "demo": "the images drawn so far are kept",
    "prepare": "what is in DATA already is kept: repeat the command to go on",
    "features": "the features so far are kept: repeat the command to go on",
    "head": "features extracted so far are kept, the run was not made",
    "finetune": "the finished epochs are kept: repeat the command to go on",
}
_ENVIRONMENT_ERRORS = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "EIO", "ESTALE", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG", "EMFILE")
}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a summary.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.", min=0)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there once the new is finished.")]
Data = Annotated[Path, typer.Argument(help="DATA/{train,val,test}/<class>/, or DATA/<class>/.", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(help="A run folder made by `headstart head`.", show_default=False)]


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command. A parameter that is a configuration becomes an option for each of its fields."""
    parameters: list[inspect.Parameter] = []
    configurations: dict[str, Any] = {}
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if is_dataclass(hint):
            configurations[parameter.name] = hint
            parameters += [_option(parameter.name, field, hint) for field in fields(hint)]
        else:
            parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def call(**values: Any) -> None:
        try:
            for name, configuration in configurations.items():
                settings = {field.name: values.pop(f"{name}_{field.name}") for field in fields(configuration)}
                values[name] = configuration(**settings)
            function(**values)
        except Exception as error:
            code, message = _explain(error)
            messages.print(f"error: {message}", style="red", markup=False)
            raise typer.Exit(code) from error
        except KeyboardInterrupt as error:
            messages.print(f"interrupted; {_KEPT.get(function.__name__, 'nothing was changed')}")
            raise typer.Exit(130) from error

    vars(call)["__signature__"] = inspect.Signature(parameters)
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command()(call)
    return call


def _option(prefix: str, field: Field[Any], configuration: Any) -> inspect.Parameter:
    hint = get_type_hints(configuration)[field.name]
    flag = field.metadata.get("flag", f"--{field.name.replace('_', '-')}")
    metadata = field.metadata
    option = typer.Option(
        flag,
        help=metadata.get("help"),
        envvar=metadata.get("env"),
        parser=metadata.get("parser"),
        metavar=metadata.get("metavar"),
    )
    default: Any = field.default
    if get_origin(hint) is tuple:
        hint, default = list.__class_getitem__(get_args(hint)[0]), list(default)
    return inspect.Parameter(
        f"{prefix}_{field.name}",
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[hint, option],
    )


def _explain(error: Exception) -> tuple[int, str]:
    """Exit code and line for an error that a person can mend; anything else is a bug and is raised on."""
    line = " ".join(str(error).split())
    if isinstance(error, HeadstartError):
        return (2 if isinstance(error, OptionError) else 1), line
    if (
        "No space left" in line or "errno = 28" in line or "quota" in line
    ):  # TensorFlow and HDF5 have errors of their own
        return 1, f"the disk is full ({line[:300]}); what was finished is kept: make room and repeat the command"
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return 1, f"out of memory: lower --batch-size, for a head --head-batch-size ({line[:200]})"
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT_ERRORS:
        return 1, line
    raise error


def _show(fields: Mapping[str, Any], as_json: bool, lines: Iterable[Any]) -> None:
    """Print the one JSON object, or else the summary."""
    if as_json:
        print(json.dumps(fields, ensure_ascii=False))
        return
    out = Console(highlight=False, soft_wrap=True)
    for line in lines:
        out.print(line, markup=False) if isinstance(line, str) else out.print(line)


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """TensorFlow's C++ code writes to file descriptor 2 while it is imported, whatever its log level says."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _announce_device() -> None:
    with _silent_libraries():
        from features.frozen import use_device

        device = use_device()
    messages.print(f"device: {device}", style="dim")


@_command
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to draw.", show_default=False)],
    images: Annotated[int, typer.Option(help="How many, half of each class.", min=2)] = 600,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Draw a small set of cats and dogs, a few broken files among them."""
    from pipeline.demo import draw_demo

    result = draw_demo(folder, images, seed)
    _show(asdict(result), json, [f"drew {result.images} images and {result.broken} broken files in {result.path}"])


@_command
def prepare(
    source: Annotated[Path, typer.Argument(help="Class folders, cat.0.jpg names, or a zip of either.")],
    data: Annotated[Path, typer.Argument(help="Gets {train,val,test}/<class>/.", show_default=False)],
    config: PrepareConfig,
    move: Annotated[bool, typer.Option("--move", help="Move the files of a folder instead of linking them.")] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Split labelled images into DATA/{train,val,test}/<class>/ by a hash of their content."""
    from pipeline.prepare import prepare

    result = prepare(source, data, config, move, seed)
    summary = [f"{data}: {result.train} train, {result.val} val, {result.test} test, {result.rejected} rejected"]
    if result.rejected:
        summary.append(f"{data}/rejects.csv says why, by their headers; `headstart features` decodes the rest")
    _show(asdict(result), json, summary)


@_command
def features(data: Data, config: FeatureConfig, seed: Seed = 0, json: Json = False) -> None:
    """Run the frozen backbone over every image that the store has no features of yet."""
    _announce_device()
    from pipeline.cached import cache_features

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
    }
    speed = f" ({cached.seconds:.1f} s, {cached.images_per_second:.1f} images/s)" if cached.extracted else ""
    summary = [
        f"{len(cached.examples)} examples in {len(cached.class_names)} classes: {cached.extracted} extracted{speed}, "
        f"{cached.cached} cached",
        f"{len(cached.rejects)} images rejected ({config.store}/rejects.csv), {cached.ignored} other files ignored",
        f"features are in {', '.join(f'{config.store}/{folder}' for folder in folders)}",
    ]
    _show(counts, json, summary)


@_command
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
    _announce_device()
    from pipeline.phase1 import train_run

    result = train_run(data, run, features, config, overwrite, seed)
    summary = [
        f"val accuracy {result.val['accuracy']:.4f}, loss {result.val['loss']:.4f} "
        f"(best epoch {result.best_epoch} of {result.epochs}, {result.seconds:.1f} s)",
        f"the run is in {run}; next: headstart finetune {run}, or headstart evaluate {run}",
    ]
    _show(asdict(result), json, summary)


@_command
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
    _announce_device()
    from pipeline.finetune import finetune

    result = finetune(run, config, overwrite, seed, data)
    summary = [
        f"val accuracy {result.before['accuracy']:.4f} -> {result.after['accuracy']:.4f}, "
        f"loss {result.before['loss']:.4f} -> {result.after['loss']:.4f} "
        f"(best epoch {result.best_epoch} of {result.epochs}; {result.images_per_second:.1f} images/s after the start)",
        f"the classifier is {run}/classifier.keras",
    ]
    if result.best_epoch == 0:
        summary.insert(1, "no epoch was better than the head alone: the classifier is backbone and head as they were")
    _show(asdict(result), json, summary)


@_command
def evaluate(
    run: RunArgument,
    split: Annotated[Literal["train", "val", "test", "all"], typer.Option(help="Which examples.")] = "test",
    data: Annotated[Path | None, typer.Option(help="Another data folder than the run's.", show_default=False)] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Score a run on a split."""
    _announce_device()
    from pipeline.evaluate import evaluate

    result = evaluate(run, split, data)
    models = {name: getattr(result, name) for name in ("head", "finetuned") if getattr(result, name)}
    table = Table(title=f"{result.n} images of {result.split}")
    for column in ("", "accuracy", "95 % interval", "loss", "auc"):
        table.add_column(column)
    for name, metrics in models.items():
        low, high = metrics["accuracy_interval"]
        auc = "-" if metrics["auc"] is None else f"{metrics['auc']:.4f}"
        table.add_row(name, f"{metrics['accuracy']:.4f}", f"{low:.4f} - {high:.4f}", f"{metrics['loss']:.4f}", auc)
    _show({"split": result.split, "n": result.n, **models}, json, [table])


@_command
def predict(
    run: RunArgument,
    paths: Annotated[list[Path], typer.Argument(help="Images and folders.", show_default=False)],
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Classify images."""
    _announce_device()
    from pipeline.predict import predict

    result = predict(run, paths)
    lines = [f"{item.path}: {item.label} ({item.probability:.4f})" for item in result.predictions]
    lines += [f"{reject.path}: {reject.reason}, {reject.detail}" for reject in result.rejects]
    _show(asdict(result), json, lines)


if __name__ == "__main__":
    app()
