"""The values that a setting may take, and who asks for one: a trial of Optuna's, or what stands for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from headstart.features.errors import OptionError

_GRID_POINTS = 3


class Asker(Protocol):
    """What Optuna's trials have in common, as far as a search needs it."""

    def suggest_categorical(self, name: str, values: Sequence[Any], /) -> Any:
        """One of `values`."""

    def suggest_int(self, name: str, low: int, high: int, /, *, log: bool = False) -> int:
        """A number from `low` to `high`."""

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
        """A number from `low` to `high`."""


@dataclass(frozen=True)
class Choice:
    """The values that one setting may take: `values`, or what lies from the first to the last where `between`."""

    values: tuple[Any, ...]
    between: bool = False
    log: bool = False

    def __str__(self) -> str:
        if self.between:
            return f"{self.values[0]} to {self.values[1]}{' by powers' * self.log}"
        return " or ".join(map(str, self.values))

    def suggest(self, trial: Asker, name: str) -> Any:
        """Let `trial` choose; what is fixed is no parameter of it."""
        if len(self.values) == 1:
            return self.values[0]
        if not self.between:
            return trial.suggest_categorical(name, self.values)
        low, high = self.values
        if isinstance(low, int):
            return trial.suggest_int(name, low, high, log=self.log)
        return trial.suggest_float(name, low, high, log=self.log)

    def nearest(self, value: Any) -> Any:
        """`value` if it may be taken, else what comes near."""
        if self.between:
            return min(max(value, self.values[0]), self.values[1])
        return value if value in self.values else self.values[0]

    def grid(self) -> list[Any]:
        """The values, or some of those between, evenly apart."""
        if not self.between:
            return list(self.values)
        low, high = self.values
        evenly = np.geomspace(low, high, _GRID_POINTS) if self.log else np.linspace(low, high, _GRID_POINTS)
        points = np.clip(evenly, low, high)
        whole = isinstance(self.values[0], int)
        return list(dict.fromkeys(round(point) if whole else float(point) for point in points))


class _StandIn:
    """Stands for a trial: `choose` answers instead, and what it answered is in `params`."""

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}

    def choose(self, name: str, choice: Choice) -> Any:
        raise NotImplementedError

    def _record(self, name: str, choice: Choice) -> Any:
        self.params[name] = self.choose(name, choice)
        return self.params[name]

    def suggest_categorical(self, name: str, values: Sequence[Any]) -> Any:
        return self._record(name, Choice(tuple(values)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> Any:
        return self._record(name, Choice((low, high), True, log))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> Any:
        return self._record(name, Choice((low, high), True, log))


class Nearest(_StandIn):
    """Answers with what comes nearest to `wanted`; with the first value where nothing is."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        super().__init__()
        self.wanted = wanted

    def choose(self, name: str, choice: Choice) -> Any:
        """See above."""
        return choice.nearest(self.wanted.get(name, choice.values[0]))


class _Walk(_StandIn):
    """Answers with the points of each grid whose places were given, and with the first point after those."""

    def __init__(self, places: Sequence[int]) -> None:
        super().__init__()
        self.places = list(places)
        self.sizes: list[int] = []

    def choose(self, name: str, choice: Choice) -> Any:
        points, question = choice.grid(), len(self.sizes)
        self.sizes.append(len(points))
        if question == len(self.places):
            self.places.append(0)
        return points[self.places[question]]


def every(suggest: Callable[[Asker], Any], most: int) -> list[dict[str, Any]]:
    """The parameters of all that `suggest` can choose on the grid; those of branches not taken are no part of them.

    Raises:
        OptionError: more than `most`.
    """
    found: list[dict[str, Any]] = []
    places: list[int] = []
    while True:
        walk = _Walk(places)
        suggest(walk)
        found.append(walk.params)
        if len(found) > most:
            raise OptionError(f"--sampler grid: over {most} heads; search over less, by --space and --cut")
        places = walk.places
        while places and places[-1] + 1 == walk.sizes[len(places) - 1]:
            places.pop()
        if not places:
            return found
        places[-1] += 1
