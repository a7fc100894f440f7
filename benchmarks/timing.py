"""What every row of the benchmark shares: pairs of timings, and how near the machine's arithmetic each is."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from headstart.features.files import write_json

ROUNDS = 5


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class LastBatch(keras.callbacks.Callback):
    """When the last batch ended: what comes after it is tf.data's autotuner being waited for."""

    ended = 0.0

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self.ended = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.ended = time.perf_counter()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.ended = time.perf_counter()


class Stalls:
    """What passes of Keras waited for at their ends: seconds of each, and its figure but for them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.without: list[float] = []

    def timed(self, units: float, work: Callable[[LastBatch], Any]) -> float:
        """Units a second of a pass, which takes the callback it is given."""
        last = LastBatch()
        took = seconds(lambda: work(last))
        self.seconds.append(time.perf_counter() - last.ended)
        self.without.append(units / (took - self.seconds[-1]))
        return units / took


@dataclass
class Row:
    """One comparison.

    Args:
        ours, theirs: one figure a round, larger is better, as `in_turns` yields them.
        macs: multiply-adds behind one unit of the figures; 0 where arithmetic is not what limits.
        note: what a reader must know, as that the baseline was scaled.
        keras: what Keras lost in the baseline, where it is Keras's.
    """

    name: str
    unit: str
    baseline: str
    ours: list[float]
    theirs: list[float]
    macs: float = 0.0
    note: str = ""
    keras: Stalls = field(default_factory=Stalls)

    def as_fields(self, ceilings: dict[str, float]) -> dict[str, Any]:
        ratios = [one / other for one, other in zip(self.ours, self.theirs, strict=True)]
        fields = {
            "name": self.name,
            "unit": self.unit,
            "baseline": self.baseline,
            "ours": statistics.median(self.ours),
            "theirs": statistics.median(self.theirs),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "note": self.note,
            "stalled_seconds_of_baseline": self.keras.seconds,
        }
        if self.keras.seconds:
            awake = [one / other for one, other in zip(self.ours, self.keras.without, strict=True)]
            fields |= {"theirs_without_stalls": statistics.median(self.keras.without)}
            fields |= {"ratio_without_stalls": statistics.median(awake)}
        if self.macs:
            reached = 2 * self.macs * fields["ours"] / 1e9
            fields["gflops"] = reached
            fields["of_ceiling"] = {dtype: reached / most for dtype, most in ceilings.items()}
        return fields


def in_turns(sides: dict[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """The figures of each of `sides`, one a round; each round begins with another."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            figures[name].append(sides[name]())
    return figures


def write_merged(file: Path, found: dict[str, Any]) -> None:
    """Write parts to a JSON file, and leave its other parts."""
    before = json.loads(file.read_text()) if file.exists() else {}
    write_json(file, {**before, **found})


def ceilings() -> dict[str, float]:
    """GFLOP/s of a product of two matrices of side 4096, for each dtype: the best of three."""
    found = {}
    for dtype in (tf.float32, tf.bfloat16):
        matrix = tf.cast(tf.random.stateless_uniform((4096, 4096), seed=(0, 0)), dtype)
        best = min(seconds(lambda matrix=matrix: tf.matmul(matrix, matrix)[0, 0].numpy()) for _ in range(3))
        found[dtype.name] = 2 * 4096**3 / best / 1e9
    return found
