"""What every command shares: options made from settings, errors told in one line, one JSON object or a summary."""

import errno
import functools
import inspect
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from headstart.features.errors import HeadstartError, OptionError
from headstart.features.terminal import console as messages
from headstart.features.terminal import silent_libraries
from rich.console import Console

_ENVIRONMENT_ERRORS = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "EIO", "ESTALE", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG", "EMFILE")
}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a summary.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.", min=0)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there once the new is finished.")]
Data = Annotated[Path, typer.Argument(help="DATA/{train,val,test}/<class>/, or DATA/<class>/.", show_default=False)]


def command(
    app: typer.Typer, kept: str = "nothing was changed"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command of `app`. A parameter that is a configuration becomes an option for each of its fields.

    Args:
        kept: what Ctrl-C leaves, as a person is told.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        parameters, configurations = _parameters(function)
        folders = [parameter.name for parameter in parameters if parameter.annotation == Data]

        @functools.wraps(function)
        def call(**values: Any) -> None:
            try:
                for name, configuration in configurations.items():
                    settings = {field.name: values.pop(f"{name}_{field.name}") for field in fields(configuration)}
                    values[name] = configuration(**settings)
                for name in folders:
                    from headstart.pipeline.data.layouts import require_folder

                    require_folder(values[name])  # before TensorFlow takes its seconds to start
                function(**values)
            except Exception as error:
                code, message = _explain(error)
                messages.print(f"error: {message}", style="red", markup=False)
                raise typer.Exit(code) from error
            except KeyboardInterrupt as error:
                messages.print(f"interrupted; {kept}")
                raise typer.Exit(130) from error

        vars(call)["__signature__"] = inspect.Signature(parameters)
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command()(call)
        return call

    return register


def _parameters(function: Callable[..., None]) -> tuple[list[inspect.Parameter], dict[str, Any]]:
    """The parameters that Typer is to see, and the configurations that some of them belong to."""
    parameters: list[inspect.Parameter] = []
    configurations: dict[str, Any] = {}
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if is_dataclass(hint):
            configurations[parameter.name] = hint
            parameters += [_option(parameter.name, field, hint, field.name in hints) for field in fields(hint)]
        else:
            parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
    return parameters, configurations


def _option(prefix: str, field: Field[Any], configuration: Any, given: bool) -> inspect.Parameter:
    """A field as an option; hidden where an argument of the command has its name and is `given` anyway."""
    hint = get_type_hints(configuration)[field.name]
    flag = field.metadata.get("flag", f"--{field.name.replace('_', '-')}")
    metadata = field.metadata
    option = typer.Option(
        flag,
        help=metadata.get("help"),
        envvar=metadata.get("env"),
        parser=metadata.get("parser"),
        metavar=metadata.get("metavar"),
        hidden=given,
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


def show(fields: Mapping[str, Any], as_json: bool, lines: Iterable[Any]) -> None:
    """Print the one JSON object, or else the summary."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files that are not UTF-8; JSON has the same escapes
        sys.stdout.reconfigure(errors="backslashreplace")
    if as_json:
        print(json.dumps(fields, ensure_ascii=False))
        return
    out = Console(highlight=False, soft_wrap=True)
    for line in lines:
        out.print(line, markup=False) if isinstance(line, str) else out.print(line)


def next_steps(run: Path, several_backbones: bool) -> str:
    """What a new run is good for; of several backbones it can't be fine-tuned."""
    evaluate = f"headstart evaluate {run}"
    return evaluate if several_backbones else f"headstart finetune {run}, or {evaluate}"


def announce_device() -> None:
    """Import TensorFlow, and say what it runs on."""
    with silent_libraries():
        from headstart.features.backbones.frozen import use_device

        device = use_device()
    messages.print(f"device: {device}", style="dim")
