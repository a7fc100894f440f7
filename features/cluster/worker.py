"""The worker: a process of its own on a node of a cluster, which does the job of a task. This module needs no Ray."""

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
from headstart.features.images.files.fetched import read_kept


@dataclass(frozen=True)
class Built:
    """The network of a worker: its batch size, and its results for a few images, by which workers are compared."""

    batch_size: int = 0
    features: Mapping[str, np.ndarray] = field(default_factory=dict)  # float32 [F], by the name of the image
    device: str = ""  # `start_tensorflow`'s
    processor: str = ""

    @property
    def kind(self) -> str:
        """The kind of device for which the batch size is good: the name of a GPU, or `CPU`."""
        return self.device if self.device.startswith("GPU") else "CPU"


class Task(Protocol):
    """Everything that a worker needs to know before its first unit. It is sent to each worker."""

    @property
    def tries_batch_sizes(self) -> bool:
        """Whether a worker on a GPU chooses its batch size by trials. Others then wait for the first one's."""

    @property
    def takes_network(self) -> bool:
        """Whether the job may take a network from that of `Worker.prepare`."""

    @property
    def kept(self) -> Path | None:
        """The folder in which the driver keeps bytes of remote images; see `fetched`."""

    def job(self, before: Job | None) -> Job:
        """Return the job of a worker that does this task. It is called on the worker.

        `before` is the worker's last job, from which it may take a network that is built.
        """

    def require_same(self, met: Any) -> None:
        """Raise a NodeError if a worker would give other results than the driver. `met` is from its `Job.meet`."""


class Job(Protocol):
    """The work of a worker for one task. The methods are those of `Worker`."""

    def meet(self) -> Any:
        """Check that this node can do the task. Return what the driver compares; see `Task.require_same`."""

    def build(self, batch_sizes: Mapping[str, int]) -> Built:
        """Build the network, if there is one. `batch_sizes` are those of other workers, by `Built.kind`."""

    def extract(self, unit: int, items: Any, backwards: bool) -> Any:
        """Do the unit with the number `unit`, and return its result.

        `backwards` tells that another worker has it, too, and begins with its first items.
        """

    def tell(self, unit: int) -> int:
        """Return how many images of a unit are done."""

    def stop(self, unit: int) -> None:
        """End a unit early. The call may come before the unit."""

    def share(self, unit: int) -> None:
        """Tell that from now on another worker has the same unit."""

    def close(self) -> None:
        """End what runs for the job, as it gets no more units. The next job may still take its network."""


class Worker:
    """Does a job. The driver calls `hello`, then `meet` and `build` for each task, then `extract` for each unit.

    `extract` of the next unit, `tell`, `stop` and `share` may be called in other threads meanwhile. With `libraries`,
    a thread imports TensorFlow and OpenVINO at once.
    """

    def __init__(self, cpus: int, libraries: bool = True) -> None:
        os.environ["HEADSTART_CPUS"] = str(cpus)  # before TensorFlow starts, which takes its number of threads once
        self._job: Job | None = None
        self._prepared: Job | None = None
        self._preparing, self._meeting = Lock(), Lock()
        self._starting = Thread(target=_start_libraries if libraries else str, daemon=True)
        self._starting.start()

    def hello(self) -> dict[str, Any]:
        """Return the version of headstart, the name of the host, and the ID of this process."""
        return {"headstart": version("headstart"), "host": socket.gethostname(), "pid": os.getpid()}

    def meet(self, task: Task) -> Any:
        """Begin a task. See `Job.meet`."""
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
        """Meet a task without units, beside the present one. The next job that takes a network gets that of its job."""
        self._starting.join()
        with self._preparing:
            self._prepared = task.job(None)
            return self._prepared.meet()

    def build(self, batch_sizes: Mapping[str, int]) -> Built:
        """See `Job.build`. A lack of memory raises a NodeMemoryError."""
        with memory_errors_told():
            return self._present.build(batch_sizes)

    def extract(self, unit: int, items: Any, backwards: bool) -> Any:
        """See `Job.extract`. A lack of memory raises a NodeMemoryError."""
        with memory_errors_told():
            return self._present.extract(unit, items, backwards)

    def tell(self, unit: int) -> int:
        """See `Job.tell`."""
        return self._present.tell(unit)

    def stop(self, unit: int) -> None:
        """See `Job.stop`."""
        self._present.stop(unit)

    def share(self, unit: int) -> None:
        """See `Job.share`."""
        self._present.share(unit)

    @property
    def _present(self) -> Job:
        if self._job is None:
            raise RuntimeError("a worker must meet a task first")
        return self._job


def _start_libraries() -> None:
    """Import libraries whose import takes seconds. A failure comes again, and is told, when they are needed."""
    with suppress(Exception):
        from headstart.features.frozen import frozen  # noqa: F401
        from headstart.features.frozen.engines import installed, load_openvino
        from headstart.features.images import batches  # noqa: F401

        if installed():
            load_openvino()
