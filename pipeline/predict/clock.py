"""The time that a command spends on each kind of work."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Counts the seconds of each kind of work. The count starts when the object is made.

    The kinds are:

    - `start`: starting TensorFlow.
    - `network`: loading networks.
    - `images`: everything else.
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._spent = {"start": 0.0, "network": 0.0}

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """While the context is open, count the time as work of `kind`, which is `start` or `network`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent[kind] += time.perf_counter() - began

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each kind so far."""
        whole = time.perf_counter() - self._began
        return {**self._spent, "images": whole - sum(self._spent.values())}

    def line(self) -> str:
        """Return the seconds so far as a line of text."""
        seconds = self.seconds()
        parts = ", ".join(f"{kind} {value:.1f}" for kind, value in seconds.items())
        return f"{sum(seconds.values()):.1f} s: {parts}"
