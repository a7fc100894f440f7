"""Fields of settings that the command line makes options of."""

from dataclasses import field
from typing import Any


def option(default: Any, help: str, **more: Any) -> Any:
    """A field of a dataclass with its `help`; `more` may be the option's `flag`, `env`, `metavar` or `parser`."""
    return field(default=default, metadata={"help": help, **more})
