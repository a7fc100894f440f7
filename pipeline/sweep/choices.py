"""The values that a setting may take, and the choosers among them: Optuna's trials, and stand-ins for a trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from headstart.features.errors import OptionError

_GRID_POINTS = 3


class Chooser(Protocol):
    """The part of an Optuna trial that a search uses."""

    def suggest_categorical(self, name: str, values: Sequence[Any], /) -> Any:
        """One of `values`."""

    def suggest_int(self, name: str, low: int, high: int, /, *, log: bool = False) -> int:
        """A number from `low` to `high`."""

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
        """A number from `low` to `high`."""


@dataclass(frozen=True)
class Choice:
    """The values that one setting may take: those in `values`, or with `between` the range from first to last."""

    values: tuple[Any, ...]
    between: bool = False
    log: bool = False  # the range is searched by powers

    def __str__(self) -> str:
        if self.between:
            return f"{self.values[0]} to {self.values[1]}{' by powers' * self.log}"
        return " or ".join(map(str, self.values))

    def suggest(self, trial: Chooser, name: str) -> Any:
        """Let `trial` choose. A fixed setting does not become one of its parameters."""
        if len(self.values) == 1:
            return self.values[0]
        if not self.between:
            return trial.suggest_categorical(name, self.values)
        low, high = self.values
        if isinstance(low, int):
            return trial.suggest_int(name, low, high, log=self.log)
        return trial.suggest_float(name, low, high, log=self.log)

    def nearest(self, value: Any) -> Any:
        """The number that is nearest to `value`; among other values an equal one, or else the first."""
        if self.between:
            return min(max(value, self.values[0]), self.values[1])
        if value in self.values:
            return value
        numbers = all(is_number(one) for one in (value, *self.values))
        return min(self.values, key=lambda one: abs(one - value)) if numbers else self.values[0]

    def grid(self) -> list[Any]:
        """The values, or three points of the range at equal distances."""
        if not self.between:
            return list(self.values)
        low, high = self.values
        evenly = np.geomspace(low, high, _GRID_POINTS) if self.log else np.linspace(low, high, _GRID_POINTS)
        whole = isinstance(low, int)
        return list(dict.fromkeys(round(point) if whole else float(point) for point in np.clip(evenly, low, high)))


class _StandIn:
    """A chooser that is no trial: it chooses by a function of the setting's name and `Choice`, and keeps `params`."""

    def __init__(self, choose: Callable[[str, Choice], Any]) -> None:
        self.choose = choose
        self.params: dict[str, Any] = {}

    def suggest_categorical(self, name: str, values: Sequence[Any]) -> Any:
        return self._record(name, Choice(tuple(values)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> Any:
        return self._record(name, Choice((low, high), True, log))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> Any:
        return self._record(name, Choice((low, high), True, log))

    def _record(self, name: str, choice: Choice) -> Any:
        self.params[name] = self.choose(name, choice)
        return self.params[name]


class NearestChooser(_StandIn):
    """Chooses the values nearest to `wanted`, and the first value of a setting that is not in it."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        super().__init__(lambda name, choice: choice.nearest(wanted.get(name, choice.values[0])))


def grid_parameters(suggest: Callable[[Chooser], Any], most: int) -> list[dict[str, Any]]:
    """The parameters of every point of the grid; a point has only the parameters that `suggest` asks for there.

    Raises OptionError where there are more than `most`.
    """
    found: list[dict[str, Any]] = []
    places: list[int] = []  # of the point in hand: one per question, in the grid of that question
    sizes: list[int] = []  # of those grids

    def choose(_: str, choice: Choice) -> Any:
        points, question = choice.grid(), len(sizes)
        sizes.append(len(points))
        if question == len(places):
            places.append(0)
        return points[places[question]]

    while True:
        sizes.clear()
        walk = _StandIn(choose)
        suggest(walk)
        found.append(walk.params)
        if len(found) > most:
            raise OptionError(f"--sampler grid: over {most} heads; search over less, by --space and --cut")
        while places and places[-1] + 1 == sizes[len(places) - 1]:
            places.pop()
        if not places:
            return found
        places[-1] += 1


def is_number(value: Any) -> bool:
    """Whether `value` is a finite int or float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
