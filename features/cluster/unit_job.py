"""Jobs that send the result of each unit back to the driver. This module needs no Ray."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headstart.features.cluster.worker import Built


@dataclass(frozen=True)
class Outcome:
    """The result of a unit, and the seconds that the unit took. If `stopped` is true, the result is None."""

    result: Any
    seconds: float
    stopped: bool


class UnitJob(ABC):
    """A job that does one unit after the other; see `Job` in `worker.py`. Other threads may call `tell` and `stop`."""

    def __init__(self) -> None:
        self._tried, self._unit, self._stopped = 0, -1, False
        self._to_stop = -1

    @abstractmethod
    def meet(self) -> Any:
        """Check that this node can do the task. The driver passes the result to the task's method `require_same`."""

    @abstractmethod
    def do(self, items: Any) -> Any:
        """Do a unit that consists of `items`, and return its result.

        Whenever items are done, the method must call `advance` with the number of these items. When `is_stopped`
        returns true, the method may return early.
        """

    def build(self, batch_sizes: Mapping[str, int]) -> Built:
        """Build nothing. A job with a network overrides this method."""
        return Built()

    def do_unit(self, unit: int, items: Any, backwards: bool) -> Outcome:
        """Do the unit with the number `unit`, and return its outcome. `backwards` is ignored."""
        self._tried, self._unit, self._stopped = 0, unit, self._to_stop == unit
        start = time.perf_counter()
        result = self.do(items)
        return Outcome(None if self._stopped else result, time.perf_counter() - start, self._stopped)

    def tell(self, unit: int) -> int:
        """Return how many items of a unit are done; 0 if the unit is not the current one."""
        return self._tried if unit == self._unit else 0

    def stop(self, unit: int) -> None:
        """End the unit with the number `unit` early, even if the worker receives this unit only after this call."""
        self._to_stop = unit
        self._stopped |= unit == self._unit

    def share(self, unit: int) -> None:  # noqa: B027 a job may override it
        """Do nothing: each worker does the whole unit."""

    def close(self) -> None:  # noqa: B027 a job may override it
        """Do nothing, because this job has no threads."""

    def advance(self, count: int) -> None:
        """Record that `count` more items are done."""
        self._tried += count

    def is_stopped(self) -> bool:
        """Return whether the result of the current unit is no longer needed."""
        return self._stopped
