"""Dataclass fields from which the command line makes options."""

from dataclasses import field, fields
from typing import Any


def option(default: Any, help: str, **more: Any) -> Any:
    """Return a dataclass field from which the command line makes an option. `help` is the option's help text.

    Args:
        default: the default value of the field and of the option.
        more: settings of the option, by name:
            flag: the name of the option. By default, it is made from the name of the field.
            env: the name of an environment variable that also sets the option.
            alone: the value that the option gets if the user gives only the option's name.
            metavar, parser: see Typer.
    """
    return field(default=default, metadata={"help": help, **more})


def flags(config: Any) -> list[str]:
    """Return the command-line options that set the fields of the dataclass `config`.

    Fields that have their default value are left out.
    """
    values = [(one.metadata.get("flag", f"--{one.name.replace('_', '-')}"), one) for one in fields(config)]
    changed = [(flag, getattr(config, one.name)) for flag, one in values if getattr(config, one.name) != one.default]
    return [flag if value is True else f"{flag}={value}" for flag, value in changed]
