"""The best heads of a search beside the baselines, as a table."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from headstart.features.terminal import console
from headstart.pipeline.sweep.baselines import Baseline
from headstart.pipeline.sweep.study import Study, count_finished
from optuna.trial import FrozenTrial, TrialState
from rich.live import Live
from rich.table import Table
from rich.text import Text

_SHOWN = 10
_LINE_SECONDS = 10.0


def ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Complete trials, the lowest loss first."""
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    return sorted(complete, key=lambda trial: (trial.value, trial.number))


def describe(trial: FrozenTrial) -> str:
    """A trial's parameters, in short."""
    used = [name.removeprefix("use ") for name, value in trial.params.items() if name.startswith("use ") and value]
    others = {name: value for name, value in trial.params.items() if not name.startswith("use ")}
    cuts = [f"cuts {'+'.join(used)}"] if used else []
    short = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in others.items()}
    return ", ".join(cuts + [f"{name} {value}" for name, value in short.items()])


def board(trials: Sequence[FrozenTrial], baselines: Sequence[Baseline] = ()) -> Table:
    """A table of the best trials and the baselines by loss on val."""
    rows = [
        (trial.value, f"trial {trial.number}", trial.user_attrs.get("accuracy"), describe(trial))
        for trial in ranked(trials)[:_SHOWN]
    ]
    rows += [
        (one.loss, one.name, one.accuracy, ", ".join(f"{name} {value:g}" for name, value in one.setting.items()))
        for one in baselines
    ]
    bar = min((one.loss for one in baselines if one.name == "logistic regression"), default=float("inf"))
    table = Table("tried", "val loss", "val accuracy", "settings")
    for loss, name, accuracy, what in sorted(rows, key=lambda row: row[0] if row[0] is not None else float("inf")):
        beaten = name.startswith("trial") and loss is not None and loss >= bar
        settings = f"{what} (does not beat logistic regression)" if beaten else what
        table.add_row(name, f"{loss:.4f}", "-" if accuracy is None else f"{accuracy:.4f}", Text(settings))
    return table


@contextmanager
def live_board(study: Study, most: int, baselines: Sequence[Baseline] = ()) -> Iterator[Callable[[], None]]:
    """Yield a function to call now and then. It shows the best trials beside `baselines`, the speed and the time left.

    Without a terminal it prints a line every ten seconds.
    """
    before, start = count_finished(study.finished()), time.monotonic()

    def line(trials: Sequence[FrozenTrial]) -> str:
        done = count_finished(trials)
        speed = (done - before) / max(time.monotonic() - start, 1e-9)
        left = f", {(most - done) / speed:.0f} s left" if done > before else ""
        best = ranked(trials)[:1]
        lowest = f", best loss on val {best[0].value:.4f}" if best else ""
        return f"searching: {done}/{most} trials, {speed:.2f} trials/s{left}{lowest}"

    if console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:

            def draw() -> None:
                trials = study.finished()
                table = board(trials, baselines)
                table.caption = line(trials)
                live.update(table, refresh=True)

            yield draw
        return
    next_line = start + _LINE_SECONDS

    def write() -> None:
        nonlocal next_line
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + _LINE_SECONDS
            console.print(line(study.finished()))

    yield write
