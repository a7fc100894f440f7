"""The choice of `--precision auto`: bfloat16 if it is much faster on this machine, else float32."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headstart.features.config import AskedPrecision, Precision
from headstart.features.device import cpu_count, on_gpu, processor, start_tensorflow
from headstart.features.errors import StoreError
from headstart.features.files import json_text, read_json, write_first
from headstart.features.terminal import console

_TRIES = 8
_GAIN = 0.7  # bfloat16 must take less than this share of float32's time
_CHOICES: Mapping[Any, Precision] = {"float32": "float32", "bfloat16": "bfloat16"}


@dataclass(frozen=True)
class Verdict:
    """The precision that `auto` stands for in a store, and the machine that was timed to choose the precision."""

    precision: Precision
    machine: Mapping[str, Any] = field(default_factory=dict)  # see `_machine`; empty if an earlier version timed it

    def __str__(self) -> str:
        if not self.machine:
            return f"--precision auto is {self.precision} in this store; an earlier version of headstart timed it"
        where = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        return f"--precision auto is {self.precision} in this store; timed on: {where}"


def resolve_precision(precision: AskedPrecision, store: Path | None = None) -> Precision:
    """Choose float32 or bfloat16 for `auto` by timing both. Return any other precision unchanged.

    If `store` is given, the choice is saved there. All later commands use the saved choice, also on other machines. If
    the file with the choice is damaged, a StoreError is raised.
    """
    if precision != "auto":
        return precision
    if store and (known := stored_verdict(store)):
        return known.precision
    found, machine = _timed(), _machine()
    if store:
        try:
            write_first(_file(store), json_text({"auto": found, "machine": machine}))
        except OSError as error:  # a read-only or full disk
            console.print(f"--precision auto is {found} by timing, and will be timed again: {error}")
            return found
        first = stored_verdict(store)
        found = first.precision if first else found
    return found


def stored_verdict(store: Path) -> Verdict | None:
    """Return what `--precision auto` means in `store`; None if undecided. A damaged file raises a StoreError."""
    file = _file(store)
    try:
        content = read_json(file)
        return Verdict(_CHOICES[content["auto"]], dict(content.get("machine", {})))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        # A new timing might give another precision, and all features would be made again.
        raise StoreError(
            f"{file}: damaged, so the precision of --precision auto is unknown; give --precision float32 or bfloat16, "
            f"or delete the file to have it timed again (`headstart store explain {store} DATA --precision float32` "
            "tells which features are there)"
        ) from error


def _file(store: Path) -> Path:
    return store / "precision.json"


def _machine() -> dict[str, Any]:
    """Return the date, and the facts that decide the result of the timing."""
    gpu = {"gpu": start_tensorflow().removeprefix("GPU, ")} if on_gpu() else {}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"processor": processor(), "cores": cpu_count(), **gpu, "tensorflow": version("tensorflow"), "date": date}


def _timed() -> Precision:
    full, reduced = _product_seconds("float32", "bfloat16")  # some machines are slower with bfloat16
    return "bfloat16" if reduced < _GAIN * full else "float32"


def _product_seconds(*dtypes: str) -> list[float]:
    """Return a time for each of `dtypes`: the shortest time of a matrix product, in seconds.

    The dtypes take turns, so that other load slows all of them alike.
    """
    from headstart.features.tensorflow import tf

    side = 6144 if on_gpu() else 768
    uniform = tf.random.stateless_uniform((side, side), seed=(0, 0))
    matrices = [tf.cast(uniform, dtype) for dtype in dtypes]
    seconds: list[list[float]] = [[] for _ in dtypes]
    for _ in range(_TRIES):
        for matrix, times in zip(matrices, seconds, strict=True):
            start = time.perf_counter()
            tf.matmul(matrix, matrix)[0, 0].numpy()
            times.append(time.perf_counter() - start)
    return [min(times) for times in seconds]
