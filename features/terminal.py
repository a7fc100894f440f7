"""Messages and progress on standard error: a progress bar on a terminal, plain lines elsewhere."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)  # a path may contain `[old]`
_QUIET_SECONDS, _LINE_SECONDS = 2.0, 10.0


class _SpeedColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else "", style="progress.data.speed")


@contextmanager
def progress(description: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show progress, units per second and time left. Yield a function that takes the number of units just finished.

    `done` is the number of units that were finished earlier. They are part of `total`, but do not count for the speed.
    If standard error is not a terminal, plain lines are printed: the first after two seconds, then at most one every
    ten seconds.
    """
    if console.is_terminal:
        shape = (BarColumn(), MofNCompleteColumn(), _SpeedColumn(unit), TimeRemainingColumn())
        with Progress(TextColumn("{task.description}"), *shape, console=console, transient=True) as bar:
            task = bar.add_task(description, total=total, completed=done)
            yield lambda count: bar.advance(task, count)
    else:
        yield _plain_lines(description, total, unit, done)


def _plain_lines(description: str, total: int, unit: str, before: int) -> Callable[[int], None]:
    start = time.monotonic()
    done, next_line = before, start + _QUIET_SECONDS

    def advance(count: int) -> None:
        nonlocal done, next_line
        done += count
        now = time.monotonic()
        if now >= next_line:
            next_line = now + _LINE_SECONDS
            speed = (done - before) / (now - start)
            left = (total - done) / speed if speed else float("inf")
            console.print(f"{description}: {done}/{total} {unit}, {speed:.1f} {unit}/s, {left:.0f} s left")

    return advance


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Discard everything written to standard error within the block.

    C++ code, such as TensorFlow's during its import, writes to file descriptor 2, so this descriptor is redirected.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
