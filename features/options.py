"""Dataclass fields from which the command line makes options."""

from dataclasses import field
from typing import Any


def option(default: Any, help: str, **more: Any) -> Any:
    """Return a dataclass field from which the command line makes an option with this `help` text.

    `more` may hold `flag` (the option's name, else made from the field's name), `env` (an environment variable),
    `metavar` and `parser`.
    """
    return field(default=default, metadata={"help": help, **more})
