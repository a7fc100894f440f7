"""The values that a setting may take, and grids over several settings.

In a grid, the value of one setting may decide which other settings there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.errors import OptionError

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

_GRID_POINTS = 3


@dataclass(frozen=True)
class Choice:
    """The values that one setting may take.

    If `between` is false, the setting may take the elements of `values`. If `between` is true, the setting may take all
    numbers from `values[0]` to `values[1]`. If both ends are ints, only whole numbers are allowed.
    """

    values: tuple[Any, ...]
    between: bool = False
    log: bool = False  # the range is searched on a logarithmic scale

    def __str__(self) -> str:
        if self.between:
            return f"{self.values[0]} to {self.values[1]}{' by powers' * self.log}"
        return " or ".join(map(str, self.values))

    def suggest(self, trial: BaseTrial, name: str) -> Any:
        """Return the value that `trial` chooses for its parameter `name`."""
        if not self.between:
            return trial.suggest_categorical(name, self.values)
        low, high = self.values
        if isinstance(low, int):
            return trial.suggest_int(name, low, high, log=self.log)
        return trial.suggest_float(name, low, high, log=self.log)

    def nearest(self, value: Any) -> Any:
        """Return `value` if it is allowed, else the nearest allowed value.

        Only numbers have a distance. So if `between` is false, and `value` or an element of `self.values` is not a
        number, the first of `self.values` counts as the nearest.
        """
        if self.between:
            return min(max(value, self.values[0]), self.values[1])
        if value in self.values:
            return value
        numbers = all(is_number(one) for one in (value, *self.values))
        return min(self.values, key=lambda one: abs(one - value)) if numbers else self.values[0]

    def grid(self) -> list[Any]:
        """Return the values that a grid search tries.

        - If `between` is false, the result has all elements of `values`.
        - If `between` is true, the result has the two ends and the middle of the range. With `log`, the middle is the
          geometric mean. If the ends are ints, the middle is rounded. Equal numbers occur once in the result.
        """
        if not self.between:
            return list(self.values)
        low, high = self.values
        evenly = np.geomspace(low, high, _GRID_POINTS) if self.log else np.linspace(low, high, _GRID_POINTS)
        whole = isinstance(low, int)
        return list(dict.fromkeys(round(point) if whole else float(point) for point in np.clip(evenly, low, high)))


Choose = Callable[[str, Choice], Any]  # takes the name of a setting and its `Choice`, returns one of the allowed values


def grid_points(build: Callable[[Choose], Any], most: int) -> list[tuple[dict[str, Any], Any]]:
    """Return every point of a grid as a pair: its parameters, and the result of `build` for the point.

    For each point, `build` is called with a function `choose`. In `build`, `choose(name, choice)` returns the value of
    the parameter `name` at the point. A point has only the parameters that `build` asked for. Raises OptionError if
    there are more than `most` points.
    """
    found: list[tuple[dict[str, Any], Any]] = []
    path: list[list[Any]] = []  # for each parameter so far, the values left to try; the first is in use

    def choose(name: str, choice: Choice) -> Any:
        question = len(params)
        if question == len(path):
            path.append(choice.grid())
        params[name] = path[question][0]
        return params[name]

    while True:
        params: dict[str, Any] = {}
        found.append((params, build(choose)))
        if len(found) > most:
            raise OptionError(f"--sampler grid: over {most} heads; search over less, by --space and --cut")
        while path and len(path[-1]) == 1:
            path.pop()
        if not path:
            return found
        path[-1].pop(0)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite int or float, but not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
