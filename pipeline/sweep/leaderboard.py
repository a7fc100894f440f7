"""A table of the best heads of a search and of the baselines."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

from headstart.features.terminal import console
from headstart.pipeline.sweep.baselines import Baseline, loss_to_beat
from headstart.pipeline.sweep.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.live import Live
from rich.table import Table
from rich.text import Text

_SHOWN = 10
_LINE_SECONDS = 10.0


def ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the complete trials, sorted by loss on val, the lowest first."""
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    return sorted(complete, key=lambda trial: (trial.value, trial.number))


def board(trials: Sequence[FrozenTrial], baselines: Sequence[Baseline]) -> Table:
    """Return a table of the ten best trials and the baselines, sorted by loss on val, the lowest first."""
    rows: list[tuple[Any, str, float, str]] = [
        (trial.value, f"trial {trial.number}", trial.user_attrs["accuracy"], _short(trial.params))
        for trial in ranked(trials)[:_SHOWN]
    ]
    rows += [(one.loss, one.name, one.accuracy, _short(one.setting)) for one in baselines]
    table = Table("tried", "val loss", "val accuracy", "settings")
    for loss, name, accuracy, settings in sorted(rows, key=itemgetter(0)):
        beaten = name.startswith("trial") and loss >= loss_to_beat(baselines)
        remark = " (does not beat logistic regression)" if beaten else ""
        table.add_row(name, f"{loss:.4f}", f"{accuracy:.4f}", Text(f"{settings}{remark}"))
    return table


def _short(settings: Mapping[str, Any]) -> str:
    """Format the settings of a baseline, or the parameters of a trial, as one line of text."""
    cuts = "+".join(name.removeprefix("use ") for name, value in settings.items() if name.startswith("use ") and value)
    others = {name: value for name, value in settings.items() if not name.startswith("use ")}
    short = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in others.items()}
    return ", ".join([f"cuts {cuts}"] * bool(cuts) + [f"{name} {value}" for name, value in short.items()])


@contextmanager
def live_board(study: Study, most: int, baselines: Sequence[Baseline]) -> Iterator[Callable[[], None]]:
    """Yield a function that shows the progress of a search of `most` trials each time it is called.

    On a terminal, the function draws a table of the best trials and `baselines`, with the speed and the time left.
    Elsewhere, it prints a line of progress at most every ten seconds.
    """
    before, start = len(study.finished()), time.monotonic()
    next_line = start + _LINE_SECONDS

    def line(trials: Sequence[FrozenTrial]) -> str:
        done = len(trials)
        speed = (done - before) / max(time.monotonic() - start, 1e-9)
        left = f", {(most - done) / speed:.0f} s left" if done > before else ""
        best = ranked(trials)[:1]
        lowest = f", best loss on val {best[0].value:.4f}" if best else ""
        return f"searching: {done}/{most} trials, {speed:.2f} trials/s{left}{lowest}"

    def write() -> None:
        nonlocal next_line
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + _LINE_SECONDS
            console.print(line(study.finished()))

    if not console.is_terminal:
        yield write
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def draw() -> None:
            trials = study.finished()
            table = board(trials, baselines)
            table.caption = line(trials)
            live.update(table, refresh=True)

        yield draw
