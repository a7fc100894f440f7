"""Fields of settings from which the command line makes options."""

from dataclasses import field
from typing import Any


def option(default: Any, help: str, **more: Any) -> Any:
    """A field of a dataclass that is also an option with a `help` text.

    Args:
        more: `flag` if the option is not named as the field, `env` for an environment variable, `metavar`, `parser`.
    """
    return field(default=default, metadata={"help": help, **more})
