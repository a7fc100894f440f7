"""Images that come at about the same time are classified in one forward pass."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_LONGER = 20

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass
class _Waiting(Generic[Given, Found]):
    given: Given
    future: Future[Found]
    since: float


@dataclass
class Batches(Generic[Given, Found]):
    """Collects images into batches, and runs the batches in threads.

    Args:
        run: a function of two arguments: a list of at most `size` images, and the number of a thread in [0, `passes`).
            It returns a result for each image.
        size: the maximum number of images in a batch.
        passes: the number of threads. Each thread runs one batch at a time.
        wait: seconds; see below.

    A full batch is run as soon as a thread is free. A batch that is not full is run as soon as two conditions hold:

    - At least two threads are free, or `passes` is 1 and the only thread is free.
    - If no image is on its way (see `coming`), the last image came at least `wait` seconds ago. If an image is on its
      way, the first image came at least 20 * `wait` seconds ago.
    """

    run: Callable[[Sequence[Given], int], Sequence[Found]]
    size: int
    passes: int
    wait: float
    _waiting: deque[_Waiting[Given, Found]] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _busy: int = 0
    _coming: int = 0
    _last: float = 0.0
    _closed: bool = False
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Start the threads."""
        for number in range(self.passes):
            thread = threading.Thread(target=self._work, args=(number,), name=f"headstart-pass-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Run the images that still wait, and then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Expect a further image while the context is open. Batches then wait longer; see `Batches`."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                self._changed.notify()

    def submit(self, given: Given) -> Future[Found]:
        """Add an image, and return the future of its result.

        If the future is cancelled before the image's batch begins, no result is computed.
        """
        future: Future[Found] = Future()
        with self._changed:
            self._last = time.monotonic()
            self._waiting.append(_Waiting(given, future, self._last))
            self._changed.notify()
        return future

    def _work(self, number: int) -> None:
        while batch := self._next():
            taken = [one for one in batch if one.future.set_running_or_notify_cancel()]
            try:
                found = self.run([one.given for one in taken], number) if taken else []
                for one, result in zip(taken, found, strict=True):
                    one.future.set_result(result)
            except Exception as error:
                for one in taken:
                    if not one.future.done():
                        one.future.set_exception(error)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def _next(self) -> list[_Waiting[Given, Found]]:
        """Wait for a batch, and return its images. An empty list means that no batch will follow."""
        with self._changed:
            while (left := self._seconds_left()) != 0:
                if self._closed and not self._waiting:
                    return []
                self._changed.wait(left)
            self._busy += 1
            return [self._waiting.popleft() for _ in range(min(self.size, len(self._waiting)))]

    def _seconds_left(self) -> float | None:
        """Return the seconds until the next batch is due, or None if it must wait for an image or for a free thread."""
        if not self._waiting:
            return None
        if len(self._waiting) >= self.size or self._closed:
            return 0
        if self._busy >= max(1, self.passes - 1):
            return None
        due = self._waiting[0].since + _LONGER * self.wait if self._coming else self._last + self.wait
        return max(0.0, due - time.monotonic())
