"""The worker: a process of its own on a node of a cluster, which does the job of a task. This module needs no Ray."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Built:
    """The network of a worker: its batch size, and its results for a few images, by which workers are compared."""

    batch_size: int = 0
    features: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # float32 [F]
    device: str = ""  # `start_tensorflow`'s
    processor: str = ""


class Task(Protocol):
    """Everything that a worker needs to know before its first unit. It is sent to each worker."""

    def job(self) -> Job:
        """Return the job of a worker that does this task. It is called on the worker."""

    def require_same(self, met: Any) -> None:
        """Raise a NodeError if a worker would give other results than the driver. `met` is from its `Job.meet`."""


class Job(Protocol):
    """The work of a worker for one task. The methods are those of `Worker`."""

    def meet(self) -> Any:
        """Check that this node can do the task. Return what the driver compares; see `Task.require_same`."""

    def build(self, batch_size: int) -> Built:
        """Build the network, if there is one. `batch_size` 0 means that this worker chooses it."""

    def extract(self, unit: int, items: Any, backwards: bool) -> Any:
        """Do the unit with the number `unit`, and return its result."""

    def tell(self, unit: int) -> int:
        """Return how many images of a unit are done."""

    def stop(self, unit: int) -> None:
        """End a unit early."""


class Worker:
    """Does a job. The driver calls `hello`, then `meet` and `build` for each task, then `extract` for each unit.

    `tell` and `stop` may be called in another thread meanwhile.
    """

    def __init__(self, cpus: int) -> None:
        os.environ["HEADSTART_CPUS"] = str(cpus)  # before TensorFlow starts, which takes its number of threads once
        self._job: Job

    def hello(self) -> dict[str, Any]:
        """Return the version of headstart, the name of the host, and the ID of this process."""
        return {"headstart": version("headstart"), "host": socket.gethostname(), "pid": os.getpid()}

    def meet(self, task: Task) -> Any:
        """Begin a task. See `Job.meet`."""
        self._job = task.job()
        return self._job.meet()

    def build(self, batch_size: int) -> Built:
        """See `Job.build`."""
        return self._job.build(batch_size)

    def extract(self, unit: int, items: Any, backwards: bool) -> Any:
        """See `Job.extract`."""
        return self._job.extract(unit, items, backwards)

    def tell(self, unit: int) -> int:
        """See `Job.tell`."""
        return self._job.tell(unit)

    def stop(self, unit: int) -> None:
        """See `Job.stop`."""
        self._job.stop(unit)
