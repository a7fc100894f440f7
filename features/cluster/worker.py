"""The worker: a process on a node of a cluster. It is given one task after the other. This module needs no Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Protocol

import numpy as np
from headstart.features.cluster.probe import memory_errors_told
from headstart.features.device import keras_alone
from headstart.features.images.files.fetched import read_kept


@dataclass(frozen=True)
class Built:
    """A worker's report on its network: the batch size, and the features of a few images.

    The driver compares the features of different workers. The report of a job without a network holds only default
    values.
    """

    batch_size: int = 0
    features: Mapping[str, np.ndarray] = field(default_factory=dict)  # float32 [F], by the name of the image
    device: str = ""  # the result of `start_tensorflow`
    processor: str = ""

    @property
    def kind(self) -> str:
        """The kind of device: the name of a GPU, or `CPU`. Each kind has its own best batch size."""
        return self.device if self.device.startswith("GPU") else "CPU"


class Task(Protocol):
    """Everything that a worker needs to know before its first unit. The driver sends the task to each worker."""

    @property
    def tries_batch_sizes(self) -> bool:
        """Whether a worker on a GPU finds its batch size by trials.

        If this is true, one worker on a GPU makes the trials, and the other workers on GPUs wait for the batch size.
        """

    @property
    def takes_network(self) -> bool:
        """Whether the job may take over a network that `Worker.prepare` has built."""

    @property
    def kept(self) -> Path | None:
        """The folder in which the driver keeps bytes of remote images; see `fetched`. None if the driver keeps none."""

    def job(self, before: Job | None) -> Job:
        """Return the job that does this task in a worker. This method is called in the worker's process.

        `before` is an earlier job of the worker, or None. The new job may take over a network that `before` has built.
        """

    def require_same(self, met: Any) -> None:
        """Raise a NodeError if a worker would give other results than the driver. `met` is the result of `Job.meet`."""


class Job(Protocol):
    """The work of a worker for one task. The methods of `Worker` call the methods of this class."""

    def meet(self) -> Any:
        """Check that this node can do the task. The driver passes the result to `Task.require_same`."""

    def build(self, batch_sizes: Mapping[str, int]) -> Built:
        """Build the network, if this job has a network. Return the worker's report on the network.

        `batch_sizes` maps a kind of device, such as `CPU`, to the batch size that other workers use on this kind; see
        `Built.kind`.
        """

    def do_unit(self, unit: int, items: Any, backwards: bool) -> Any:
        """Do the unit with the number `unit`, and return its result.

        If `backwards` is true, another worker already does the same unit, from its first item on. This worker may then
        begin with the last item, so that the two meet in the middle.
        """

    def tell(self, unit: int) -> int:
        """Return how many images of the unit with the number `unit` are done."""

    def stop(self, unit: int) -> None:
        """End the unit with the number `unit` early, even if the job gets this unit only after this call."""

    def share(self, unit: int) -> None:
        """Take note that, from now on, another worker also has the unit with the number `unit`."""

    def close(self) -> None:
        """End this job's threads. This method is called after the job's last unit.

        The next job may still take over this job's network.
        """


class Worker:
    """A process on a node, which does the driver's tasks. For each task, it makes a job, which does the work.

    The driver calls `hello` once. For each task, the driver calls `meet` and `build`, and then `do_unit` for each unit.
    While a unit is being done, other threads may call `tell`, `stop`, `share`, and `do_unit` for the next unit.

    `cpus` is the number of CPUs that this process may use. If `libraries` is true, a thread begins at once to import
    TensorFlow and OpenVINO.
    """

    def __init__(self, cpus: int, libraries: bool = True) -> None:
        os.environ["HEADSTART_CPUS"] = str(cpus)  # before TensorFlow starts, which takes its number of threads once
        keras_alone()
        self._job: Job | None = None
        self._prepared: Job | None = None
        self._preparing, self._meeting = Lock(), Lock()
        self._starting = Thread(target=_start_libraries if libraries else str, daemon=True)
        self._starting.start()

    def hello(self) -> dict[str, Any]:
        """Return the version of headstart, the name of the host, and the ID of this process."""
        return {"headstart": version("headstart"), "host": socket.gethostname(), "pid": os.getpid()}

    def meet(self, task: Task) -> Any:
        """Make the job for `task`, and return the result of the job's method `meet`; see `Job.meet`."""
        self._starting.join()  # two threads that import the same can fail
        with self._meeting, self._preparing if task.takes_network else nullcontext():
            before = self._job
            self._job = job = task.job(self._prepared if task.takes_network and self._prepared else before)
            if task.takes_network:
                self._prepared = None
            if before:
                before.close()
            read_kept(task.kept)
            return job.meet()

    def prepare(self, task: Task) -> Any:
        """Make the job for `task`, a task without units. Return the result of the job's method `meet`.

        If the job builds networks, the next task whose `takes_network` is true can use these networks. The worker may
        do another task at the same time.
        """
        self._starting.join()
        with self._preparing:
            self._prepared = task.job(None)
            return self._prepared.meet()

    def build(self, batch_sizes: Mapping[str, int]) -> Built:
        """Build the network of the present job; see `Job.build`. A lack of memory raises a NodeMemoryError."""
        with memory_errors_told():
            return self._present.build(batch_sizes)

    def do_unit(self, unit: int, items: Any, backwards: bool) -> Any:
        """Do the unit with the number `unit`; see `Job.do_unit`. A lack of memory raises a NodeMemoryError."""
        with memory_errors_told():
            return self._present.do_unit(unit, items, backwards)

    def tell(self, unit: int) -> int:
        """Return how many images of the unit with the number `unit` are done."""
        return self._present.tell(unit)

    def stop(self, unit: int) -> None:
        """End the unit with the number `unit` early, even if the job gets this unit only after this call."""
        self._present.stop(unit)

    def share(self, unit: int) -> None:
        """Take note that, from now on, another worker also has the unit with the number `unit`."""
        self._present.share(unit)

    @property
    def _present(self) -> Job:
        if self._job is None:
            raise RuntimeError("a worker must meet a task first")
        return self._job


def _start_libraries() -> None:
    """Import libraries that take seconds to import. Errors are ignored, because the next import raises them again."""
    with suppress(Exception):
        from headstart.features.frozen import frozen  # noqa: F401
        from headstart.features.frozen.engines import installed, load_openvino
        from headstart.features.images import batches  # noqa: F401

        if installed():
            load_openvino()
