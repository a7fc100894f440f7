"""Dataclass fields from which the command line makes options."""

from dataclasses import field, fields
from typing import Any


def option(default: Any, help: str, **more: Any) -> Any:
    """Return a dataclass field from which the command line makes an option with this `help` text.

    `more` may hold `flag` (the option's name; by default it is made from the field's name), `env` (an environment
    variable), `metavar`, `parser`, and `alone` (the value that the option has if it is given without one).
    """
    return field(default=default, metadata={"help": help, **more})


def flags(config: Any) -> list[str]:
    """Return the command-line options that set the fields of the dataclass `config`, except those at their default."""
    values = [(one.metadata.get("flag", f"--{one.name.replace('_', '-')}"), one) for one in fields(config)]
    changed = [(flag, getattr(config, one.name)) for flag, one in values if getattr(config, one.name) != one.default]
    return [flag if value is True else f"{flag}={value}" for flag, value in changed]
