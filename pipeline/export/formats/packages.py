"""Import the packages that the formats need, and explain the errors of converters. Some packages are optional."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headstart.features.errors import ExportError


def package(name: str, extra: str) -> Any:
    """Import and return the module `name`. If the import fails, raise an ExportError that says to install `extra`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        said = " ".join(str(error).split())[:160]
        raise ExportError(
            f'{name.split(".", maxsplit=1)[0]} can\'t be imported ({said}): `pip install "headstart[{extra}]"`'
        ) from error


def refusal(format: str, converter: str, error: Exception) -> ExportError:
    """Return the error that says why `converter` can't write a network in `format`."""
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return ExportError(
        f"--format {format}: {converter} can't convert this network ({said}); another format may hold it"
    )


@contextmanager
def refused(format: str, converter: str) -> Iterator[None]:
    """Turn an error of `converter` in the `with` block into an ExportError; see `refusal`."""
    try:
        yield
    except (ExportError, MemoryError):
        raise
    except Exception as error:  # each converter raises half a dozen kinds
        raise refusal(format, converter, error) from error
