"""Checks of the arguments of library functions. A wrong argument raises an OptionError, as a wrong option does."""

import os
from typing import Any

import numpy as np
from headstart.features.errors import OptionError

Place = str | os.PathLike[str]


def path_text(name: str, value: Any, what: str = "a path") -> str:
    """Return the path `value` as text.

    Raises OptionError if `value` is empty or holds a NUL, or if it is neither text nor a path object. For the message,
    `name` is the name of the argument, and `what` describes a valid value, such as "the folder of a run".
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise OptionError(f"{name} must be {what}. Received: {received(value)}")
    if not text:
        raise OptionError(f"{name} is empty; give {what}")
    if "\0" in text:
        raise OptionError(f"{name} holds a NUL, as no path can; give {what}. Received: {text[:80]!r}")
    return text


def whole(name: str, value: Any, least: int = 0) -> int:
    """Return `value` as an int.

    Raises OptionError if `value` is no whole number, or is under `least` or over 2147483647. For the message, `name` is
    the name of the argument.
    """
    number = without_numpy(value)
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number < 1 << 31:
        wanted = f"a whole number from {least} to {(1 << 31) - 1}"
        raise OptionError(f"{name} must be {wanted}. Received: {received(value)}")
    return number


def switch(name: str, value: Any) -> bool:
    """Return `value` as a bool. Raises OptionError if `value` is neither True nor False.

    For the message, `name` is the name of the argument.
    """
    found = without_numpy(value)
    if not isinstance(found, bool):
        raise OptionError(f"{name} must be True or False. Received: {received(value)}")
    return found


def without_numpy(value: Any) -> Any:
    """Return `value` with Python numbers in place of NumPy numbers, and with lists in place of NumPy arrays.

    Lists and tuples become lists whose elements are converted in the same way.
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return [without_numpy(one) for one in value] if isinstance(value, list | tuple) else value


def received(value: Any) -> str:
    """Return one line for an error's message: the type of `value`, and the first 80 characters of its text."""
    return f"{type(value).__name__} {' '.join(str(value).split())[:80]}".strip()
