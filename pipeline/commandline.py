"""Code that all commands share: it makes options from dataclasses, shows results, and reports errors in one line."""

import functools
import inspect
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

import typer
from headstart.features.backbones.cuts import alternative_cuts, chosen_weights
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.device import keras_alone
from headstart.features.errors import HeadstartError, OptionError
from headstart.features.signals import command_begins, command_ended
from headstart.features.terminal import PlainConsole
from headstart.features.terminal import console as messages
from headstart.pipeline.endings import ending
from typer.core import TyperCommand

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="DATA/{train,val,test}/<class>/, DATA/<class>/, or a list of images.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder made by `headstart head`.")]
NewRun = Annotated[Path, typer.Option("--run", help="Run folder to make.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result once the new one is finished.")]
StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="A folder made by `headstart features`.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a summary.")]
_Keyword = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
_Seed = Annotated[int, typer.Option(help="Same seed, same result.", min=0, max=2**31 - 1)]


class Result(Protocol):
    """The result of a command. It is shown as JSON or as a summary."""

    def fields(self) -> Mapping[str, Any]:
        """Return the JSON object that `--json` prints."""

    def lines(self) -> Iterable[Any]:
        """Return the summary that is printed without `--json`: lines of text, and Rich's tables."""


@runtime_checkable
class Fallible(Protocol):
    """A result that can make its command exit with an error."""

    def failure(self) -> HeadstartError | None:
        """Return the error to raise after the result is shown. Return None if the command succeeded."""


@runtime_checkable
class Lasting(Protocol):
    """A result whose command continues after the result is shown."""

    def last(self) -> None:
        """Continue the command. Return when the command ends."""


class _Command(TyperCommand):
    """A command that refuses empty arguments, because an empty path would mean the current folder."""

    alone: Mapping[str, str] = {}  # options that may be given without a value, each with the value it then has

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `args`. An empty argument is an error, and usually comes from a shell variable without a value."""
        pairs = zip(args, [*args[1:], "--"], strict=False)
        args = [f"{one}={self.alone[one]}" if one in self.alone and then[:1] == "-" else one for one, then in pairs]
        for number, argument in enumerate(args):
            option, _, value = argument.partition("=")
            before = args[number - 1] if number else ""
            if argument == "":
                named = before if before.startswith("--") else f"argument {number + 1}"
                raise typer.BadParameter("is empty; name a file, a folder or a value", ctx, param_hint=named)
            if option.startswith("--") and "=" in argument and not value:
                raise typer.BadParameter("is empty; give a value, or leave the option out", ctx, param_hint=option)
        return super().parse_args(ctx, args)


def _command_class(configs: Iterable[Any]) -> type[_Command]:
    """Return a subclass of `_Command` that knows which options of `configs` may be given without a value."""
    options = [one for config in configs for one in fields(config) if "alone" in one.metadata]
    return type("_CommandOf", (_Command,), {"alone": {_flag(one): one.metadata["alone"] for one in options}})


def command(
    app: typer.Typer, kept: str = "nothing was changed", needs_weights: bool = True, name: str | None = None
) -> Callable[[Callable[..., Result]], Callable[..., None]]:
    """Return a decorator that makes a function a command of `app`. The command shows the result of the function.

    If the type of a parameter of the function is a dataclass, each field of the dataclass becomes an option. If
    another parameter has the same name as a field, that parameter sets the field. For example, the argument STORE of
    `store explain STORE` sets the field `store`. Every command gets `--json` and `--seed`.

    Args:
        kept: printed after Ctrl-C, to say which work is not lost.
        needs_weights: whether the command reads the weights that its options name.
        name: the name of the command. By default, it is the name of the function.
    """

    def register(function: Callable[..., Result]) -> Callable[..., None]:
        parameters, configs = _parameters(function)
        roles = {parameter.name: parameter.annotation for parameter in parameters}

        @functools.wraps(function)
        def call(json: bool, seed: int, context: typer.Context, **values: Any) -> None:
            try:
                command_begins()
                keras_alone()
                arguments = _with_configs(values, configs)
                if "seed" in inspect.signature(function).parameters:
                    arguments["seed"] = seed
                _require_plausible(arguments, roles, needs_weights)
                _fill_in_weights(arguments, context, needs_weights)
                result = function(**arguments)
                _show(result, json)
                if isinstance(result, Fallible) and (failure := result.failure()):
                    raise failure
                if isinstance(result, Lasting):
                    result.last()
            except (Exception, KeyboardInterrupt) as error:
                end = ending(error, kept)
                messages.print(end.line, style=end.style)
                raise typer.Exit(end.code) from error
            finally:
                command_ended()

        vars(call)["__signature__"] = inspect.Signature(parameters)
        call.__annotations__ = roles
        app.command(name, cls=_command_class(configs.values()))(call)
        return call

    return register


def _parameters(function: Callable[..., Result]) -> tuple[list[inspect.Parameter], dict[str, Any]]:
    """Return the parameters for Typer, and a dict that maps the name of each dataclass parameter to its dataclass."""
    parameters: list[inspect.Parameter] = []
    configs: dict[str, Any] = {}
    given = inspect.signature(function, eval_str=True).parameters
    for name, parameter in given.items():
        hint = parameter.annotation
        if is_dataclass(hint):
            configs[name] = hint
            parameters += [_option(name, field, hint, field.name in given) for field in fields(hint)]
        elif name != "seed":
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    parameters.append(_Keyword("context", annotation=typer.Context))
    parameters += [_Keyword("seed", default=0, annotation=_Seed), _Keyword("json", default=False, annotation=_Json)]
    return parameters, configs


def _option(prefix: str, field: Field[Any], config: Any, given: bool) -> inspect.Parameter:
    """Return the command-line option for a field of `config`.

    If `given` is true, an argument of the command sets the field, and the option is hidden.
    """
    hint, metadata = get_type_hints(config)[field.name], field.metadata
    option = typer.Option(
        _flag(field),
        help=metadata.get("help"),
        envvar=None if given else metadata.get("env"),
        parser=metadata.get("parser"),
        metavar=metadata.get("metavar"),
        hidden=given,
    )
    default: Any = inspect.Parameter.empty if field.default is MISSING else field.default
    if given:
        hint, default = hint | None, None
    elif get_origin(hint) is tuple:
        hint, default = list.__class_getitem__(get_args(hint)[0]), list(default)
    return _Keyword(f"{prefix}_{field.name}", default=default, annotation=Annotated[hint, option])


def _flag(field: Field[Any]) -> str:
    flag: str = field.metadata.get("flag", f"--{field.name.replace('_', '-')}")
    return flag


def _with_configs(values: dict[str, Any], configs: Mapping[str, Any]) -> dict[str, Any]:
    """Gather options into dataclasses: `extraction_store` becomes the field `store` of the argument `extraction`."""
    arguments = dict(values)
    for name, config in configs.items():
        settings = {field.name: arguments.pop(f"{name}_{field.name}") for field in fields(config)}
        for field in settings.keys() & values.keys():
            if settings[field] is not None and Path(settings[field]).resolve() != Path(values[field]).resolve():
                raise OptionError(
                    f"--{field} {settings[field]}: the command has the {field} as an argument, {values[field]}; leave "
                    f"--{field} out"
                )
            settings[field] = values[field]
        arguments[name] = config(**settings)
    return arguments


def _require_plausible(arguments: Mapping[str, Any], roles: Mapping[str, Any], needs_weights: bool) -> None:
    """Raise an error if `arguments` have a fault that can be found quickly, such as a missing folder."""
    from headstart.features.backbones.facts import require_weights_file
    from headstart.pipeline.data.reading import require_data
    from headstart.pipeline.runs import Run, require_free

    for name, value in arguments.items():
        if isinstance(value, FeatureConfig):
            alternative_cuts(value)
            for weights in chosen_weights(value).values() if needs_weights else ():
                require_weights_file(weights)
        elif roles.get(name) == Data:
            require_data(value)
        elif roles.get(name) == RunArgument:
            Run.open(value)
        elif roles.get(name) == NewRun:
            require_free(value, arguments["overwrite"])


def _fill_in_weights(arguments: dict[str, Any], context: typer.Context, needed: bool) -> None:
    """Fill in the backbone, weights and rescaling that earlier commands used with the store.

    The user's own values are not changed; see `with_used_weights`.
    """
    stores = [value.store for value in arguments.values() if isinstance(value, ExtractionConfig)]
    for name, value in arguments.items():
        if isinstance(value, FeatureConfig) and stores:
            from headstart.features.backbones.used import with_used_weights

            sources = {field.name: context.get_parameter_source(f"{name}_{field.name}") for field in fields(value)}
            given = [field for field, source in sources.items() if source and source.name != "DEFAULT"]
            arguments[name] = with_used_weights(value, stores[0], given, needed)


def _show(result: Result, as_json: bool) -> None:
    """Print `result`: as a JSON object if `as_json` is true, otherwise as a summary."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names that are not UTF-8 are escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    if as_json:
        print(json.dumps(result.fields(), ensure_ascii=False, allow_nan=False), flush=True)
        return
    out = PlainConsole()
    for line in result.lines():
        # A name may hold a newline. It must not look like a line of its own.
        out.print(line.replace("\n", r"\x0a") if isinstance(line, str) else line)
