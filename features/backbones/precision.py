"""The choice of `--precision auto`: bfloat16 if it is much faster on this machine, else float32."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import tensorflow as tf
from headstart.features.config import AskedPrecision, Precision
from headstart.features.device import on_gpu
from headstart.features.files import write_json
from headstart.features.terminal import console

_TRIES = 8
_GAIN = 0.7  # bfloat16 must take less than this share of float32's time


def resolve_precision(precision: AskedPrecision, store: Path | None = None) -> Precision:
    """Choose float32 or bfloat16 for `auto` by timing both. Return any other precision unchanged.

    If the choice changed from one command to the next, all features would be made again. Therefore an existing `store`
    saves the first choice, and later commands use that choice, also on other machines.
    """
    if precision != "auto":
        return precision
    file = store / "precision.json" if store else None
    if file:
        with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged file is ignored
            verdicts: dict[Any, Precision] = {"float32": "float32", "bfloat16": "bfloat16"}
            return verdicts[json.loads(file.read_bytes())["auto"]]
    full, reduced = _product_seconds(tf.float32, tf.bfloat16)  # some machines are slower with bfloat16
    found: Precision = "bfloat16" if reduced < _GAIN * full else "float32"
    if file and file.parent.is_dir():
        try:
            write_json(file, {"auto": found})
        except OSError as error:  # a read-only or full disk
            console.print(f"--precision auto is {found} by timing, and will be timed again: {error}")
    return found


def _product_seconds(*dtypes: tf.DType) -> list[float]:
    """Return the shortest time of a matrix product in each of `dtypes`, in seconds.

    The dtypes take turns, so that other load on the machine slows all of them alike.
    """
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
