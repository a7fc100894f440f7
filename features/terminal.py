"""Messages and progress on standard error: a progress bar on a terminal, plain lines elsewhere."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

# Such characters in the name of a file could move the cursor, or change the terminal's title and colours.
_CONTROLS = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160)) if chr(number) not in "\n\t"}


class PlainConsole(Console):
    r"""A console that prints text without interpreting markup. Control characters become escapes such as `\x1b`."""

    def __init__(self, stderr: bool = False) -> None:
        # a path may contain `[old]`
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield the segments of `renderable`. Control characters in their text become escapes."""
        for segment in super().render(renderable, options):
            shown = segment.text.translate(_CONTROLS)
            yield segment if segment.control or shown == segment.text else Segment(shown, segment.style)


console = PlainConsole(stderr=True)
_QUIET_SECONDS, _LINE_SECONDS = 2.0, 10.0


class _SpeedColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else "", style="progress.data.speed")


@contextmanager
def progress(description: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show the progress of a command. Yield a function that takes the number of units just finished.

    Shown are the finished units, the speed in units per second, and the time left. If standard error is not a terminal,
    plain lines are printed: the first after two seconds, then at most one every ten seconds.

    Args:
        description: what the command does, as shown.
        total: the number of all units.
        unit: the name of the units, as shown.
        done: the number of units that were finished earlier. They do not count for the speed.
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
    """While the context is open, discard everything that is written to standard error.

    C++ code writes to file descriptor 2, for example during the import of TensorFlow. So this function redirects file
    descriptor 2.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
