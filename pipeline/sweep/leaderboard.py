"""A table of the best heads of a search and of the baselines."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from headstart.features.errors import DataError, StoreError
from headstart.features.terminal import console
from headstart.pipeline.scoring.baselines import Baseline, rank_to_beat
from headstart.pipeline.scoring.choosing import FIGURES, ChooseBy, rank, titled
from headstart.pipeline.sweep.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.live import Live
from rich.table import Table
from rich.text import Text

_SHOWN = 10
_LINE_SECONDS = 10.0


def ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the complete trials, the best first. A tie is decided by the lower loss, and then by the lower number."""
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    return sorted(complete, key=lambda trial: (trial.value, figures_of(trial)["loss"], trial.number))


def winner(study: Study) -> FrozenTrial:
    """Return the best trial of `study`.

    Raises DataError if no trial is complete, and StoreError if the best trial lacks its accuracy or best epoch.
    """
    trials = study.finished()
    if best := ranked(trials):
        if lacking := {"accuracy", "best_epoch"} - set(best[0].user_attrs):
            raise StoreError(f"--study {study.path}: trial {best[0].number} lacks {min(lacking)}; give another --study")
        return best[0]
    raise DataError(
        f"{study.path}: none of {len(trials)} finished trials came to an end with a finite loss; give more --timeout, "
        "more --trials, or another --space"
    )


def figures_of(trial: FrozenTrial) -> dict[str, float]:
    """Return the val figures of a complete trial, as a dict by name.

    The figures are `loss`, `accuracy`, and the figure of `--choose-by`.
    """
    attributes = {"loss": trial.value, **trial.user_attrs}  # before 0.2, the value was the only loss that was kept
    return {name: attributes[name] for name in FIGURES if name in attributes}


def board(trials: Sequence[FrozenTrial], baselines: Sequence[Baseline], choose_by: ChooseBy = "loss") -> Table:
    """Return a table of the ten best trials and all `baselines`, sorted by the figure that `choose_by` names."""
    rows = [(f"trial {trial.number}", figures_of(trial), _short(trial.params)) for trial in ranked(trials)[:_SHOWN]]
    rows += [(one.name, one.figures, _short(one.setting) + _of_sample(one)) for one in baselines]
    shown = list(dict.fromkeys(("loss", "accuracy", choose_by)))
    table = Table("tried", *(f"val {titled(figure)}" for figure in shown), "settings")
    for name, figures, settings in sorted(rows, key=lambda row: rank(choose_by, row[1])):
        beaten = name.startswith("trial") and rank(choose_by, figures) >= rank_to_beat(choose_by, baselines)
        remark = " (does not beat logistic regression)" if beaten else ""
        table.add_row(name, *(f"{figures[figure]:.4f}" for figure in shown), Text(f"{settings}{remark}"))
    return table


def _of_sample(baseline: Baseline) -> str:
    return "" if baseline.sample is None else f" (on a sample of {baseline.sample:,} images)"


def _short(settings: Mapping[str, Any]) -> str:
    """Return the settings of a baseline, or the parameters of a trial, as one line of text."""
    cuts = "+".join(name.removeprefix("use ") for name, value in settings.items() if name.startswith("use ") and value)
    others = {name: value for name, value in settings.items() if not name.startswith("use ")}
    short = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in others.items()}
    return ", ".join([f"cuts {cuts}"] * bool(cuts) + [f"{name} {value}" for name, value in short.items()])


@contextmanager
def live_board(study: Study, most: int, baselines: Sequence[Baseline]) -> Iterator[Callable[[], None]]:
    """Yield a function that shows, at each call, how far a search has come.

    The search ends when the study has `most` finished trials, or earlier. Trials of earlier searches count, too.

    On a terminal, the function draws a table of `baselines` and the best trials. A line below the table has the speed
    and the time left. Elsewhere, the function prints only this line, at most every ten seconds.
    """
    before, start, choose_by = len(study.finished()), time.monotonic(), study.space.choose_by
    next_line = start + _LINE_SECONDS

    def line(trials: Sequence[FrozenTrial]) -> str:
        done = len(trials)
        speed = (done - before) / max(time.monotonic() - start, 1e-9)
        left = f", {(most - done) / speed:.0f} s left" if done > before else ""
        best = ranked(trials)[:1]
        figure = f", best {titled(choose_by)} on val {figures_of(best[0])[choose_by]:.4f}" if best else ""
        return f"searching: {done}/{most} trials, {speed:.2f} trials/s{left}{figure}"

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
            table = board(trials, baselines, choose_by)
            table.caption = line(trials)
            live.update(table, refresh=True)

        yield draw
