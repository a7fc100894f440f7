"""A member of the crew: the driver's record of one worker."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Member:
    """The driver's record of one worker of the crew.

    A node has a numbered slot for each worker that it can run. Two kinds of calls are recorded:

    - A step is a call of the worker's method `hello`, `meet` or `build`.
    - A job is a call that the method `give` makes, such as a call of the worker's method `do_unit`. A job has a number,
      and a key that the caller of `give` chooses.
    """

    actor: Any
    node: str  # Ray's ID of the node
    slot: int  # its number on the node, from 0
    name: str  # of the node, for messages
    on_gpu: bool
    step: str = "hello"  # the last step; `known` after `hello`, `met` after `meet`, `ready` after `build`
    call: Any = None  # the reference to the result of a step that is not over
    since: float = 0.0  # when the step began
    jobs: dict[Any, tuple[int, Hashable]] = field(default_factory=dict)  # maps each call to the job's number and key
    past: bool = False  # whether its calls belong to a task that is over
    number: int = 0  # of the last job
    began: float = 0.0  # when the worker began with its present job
    tried: int = 0  # images of the present job that are done
    died: bool = False
    _asked: tuple[Any, int] | None = None  # a call of `tell`, and the job that it asks about

    @property
    def ready(self) -> bool:
        """Whether the worker has built the network of the present task."""
        return self.step == "ready" and not self.past

    def take_step(self, step: str, *arguments: Any) -> None:
        """Begin a step: call the worker's method with the name `step`."""
        self.step, self.since = step, time.monotonic()
        self.call = getattr(self.actor, step).remote(*arguments)

    def give(self, key: Hashable, method: str, *arguments: Any) -> None:
        """Give a job to the worker: a call of `method` with the job's number and `arguments`."""
        self.number += 1
        if not self.jobs:
            self._begin_job()
        self.jobs[getattr(self.actor, method).remote(self.number, *arguments)] = self.number, key

    def tell(self, key: Hashable, method: str) -> None:
        """Call a method of the worker, such as `stop`, with the number of the job that has this `key`.

        If no job has this key, do nothing.
        """
        for number, other in self.jobs.values():
            if other == key:
                getattr(self.actor, method).remote(number)

    def end_job(self, call: Any) -> Hashable:
        """Record that the job of this `call` has ended. Return the job's key."""
        _, key = self.jobs.pop(call)
        self._begin_job()
        return key

    def _begin_job(self) -> None:
        self.began, self.tried = time.monotonic(), 0

    def ask(self, ray: Any) -> None:
        """Ask the worker how many images of its present job are done.

        This method does not wait for the answer. A later call of this method stores the answer in `tried`.
        """
        present = [number for number, _ in self.jobs.values()][:1]
        if self._asked:
            call, number = self._asked
            if not ray.wait([call], timeout=0)[0]:
                return
            self._asked = None
            try:
                tried = ray.get(call)
            except ray.exceptions.RayError:  # the worker died: the answer to its job will show this
                return
            if present == [number]:
                self.tried = tried
        if present:
            self._asked = self.actor.tell.remote(present[0]), present[0]
