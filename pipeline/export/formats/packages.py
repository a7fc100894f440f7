"""Require and import the packages that the formats need. Explain the errors of converters."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from headstart.features.errors import ExportError
from headstart.pipeline.export.config import ExportPrecision, Format

_NEEDED: Mapping[Format, Sequence[str]] = {
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
    "litert": ("ai_edge_litert",),
}  # packages that are not installed with headstart
_NEEDED_FOR_INT8: Mapping[Format, Sequence[str]] = {"litert": ("ai_edge_quantizer",), "openvino": ("nncf",)}


def require_packages(format: Format, precision: ExportPrecision) -> None:
    """Raise an ExportError if a package that an export in `format` needs is not installed. Nothing is imported."""
    needed = [*_NEEDED.get(format, ()), *(_NEEDED_FOR_INT8.get(format, ()) if precision == "int8" else ())]
    if lacking := [name for name in needed if find_spec(name) is None]:
        extra = "int8" if format == "openvino" else format
        raise ExportError(
            f"--format {format} --precision {precision}: needs {lacking[0]}, which is not installed: "
            f'`pip install "headstart[{extra}]"`'
        )


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
    """Return an ExportError that says why `converter` can't write a network in `format`. `error` is the cause."""
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return ExportError(
        f"--format {format}: {converter} can't convert this network ({said}); another format may hold it"
    )


@contextmanager
def refused(format: str, converter: str) -> Iterator[None]:
    """While the context is open, turn errors of `converter` into an ExportError; see `refusal`. Yields None.

    An ExportError or a MemoryError is not changed.
    """
    try:
        yield
    except (ExportError, MemoryError):
        raise
    except Exception as error:  # each converter raises half a dozen kinds
        raise refusal(format, converter, error) from error
