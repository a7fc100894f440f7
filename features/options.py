"""Dataclass fields from which the command line makes options."""

from dataclasses import field
from typing import Any


def option(default: Any, help: str, **more: Any) -> Any:
    """Return a dataclass field for a command-line option. `more` may hold `flag`, `env`, `metavar` and `parser`."""
    return field(default=default, metadata={"help": help, **more})
