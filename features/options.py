"""Fields of settings that the command line makes options of."""

from dataclasses import field
from typing import Any


def option(default: Any, help: str, **more: Any) -> Any:
    """A field of a dataclass, and the `help` of its option.

    Args:
        more: the option's `flag` if it is not the field's name, the variable `env` that sets it, its `metavar`, or the
            `parser` of its text.
    """
    return field(default=default, metadata={"help": help, **more})
