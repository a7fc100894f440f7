"""The result of a search, as JSON and as lines for the console."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import next_steps
from headstart.pipeline.scoring.baselines import Baseline, rank_to_beat
from headstart.pipeline.scoring.choosing import ChooseBy, rank, titled
from headstart.pipeline.sweep.leaderboard import board, figures_of
from optuna.trial import FrozenTrial, TrialState


@dataclass(frozen=True)
class SweepResult:
    """The outcome of a search, as JSON and as lines for the console."""

    study: Path
    run: str
    finished: list[FrozenTrial]  # the complete and pruned trials of all starts
    seconds: float  # from the start of this command to its end
    best: dict[str, Any]  # see `describe_winner`
    baselines: list[Baseline]
    choose_by: ChooseBy = "loss"  # the figure by which the best trial was chosen

    @property
    def pruned(self) -> int:
        """Return the number of pruned trials. A trial whose loss is not finite counts as pruned, too."""
        return sum(trial.state == TrialState.PRUNED for trial in self.finished)

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {
            "trials": len(self.finished),
            "pruned": self.pruned,
            "seconds": self.seconds,
            "best": self.best,
            "baselines": [one.fields() for one in self.baselines],
            "choose_by": self.choose_by,
            "run": self.run,
        }

    def lines(self) -> Iterator[Any]:
        """Yield the summary that is printed without `--json`."""
        best, study, count = self.best, self.study, len(self.finished)
        yield board(self.finished, self.baselines, self.choose_by)
        yield f"{count} trials, {self.pruned} of them given up early; {self.seconds:.1f} s since this start"
        extreme = "lowest" if self.choose_by == "loss" else "highest"
        others = [f"{name} {best[name]:.4f}" for name in ("loss", "accuracy") if name != self.choose_by]
        yield (
            f"trial {best['trial']} has the {extreme} {titled(self.choose_by)} on val, {best[self.choose_by]:.4f} "
            f"({', '.join(others)}), on {'+'.join(best['cuts'])}"
        )
        if sample := next((one.sample for one in self.baselines if one.sample), None):
            yield f"the baselines were fitted to {sample:,} images, the heads to more: this is in favour of the heads"
        if not best["beats_logistic_regression"]:
            yield f"no head beats logistic regression on the same features, by the {titled(self.choose_by)} on val"
        yield f"the run is in {self.run}; next: {next_steps(self.run)}"
        yield f"every trial: optuna-dashboard sqlite:///{study}, or tensorboard --logdir {study}.logs"


def describe_winner(
    winner: FrozenTrial, cuts: list[str], head: HeadConfig, baselines: Sequence[Baseline]
) -> dict[str, Any]:
    """Return a JSON object that describes the winning trial: its number and figures, its `cuts` and its `head`.

    The object also says whether the head beats the logistic regression in `baselines`.
    """
    figures, choose_by = figures_of(winner), head.choose_by
    return {
        "trial": winner.number,
        **figures,
        "cuts": cuts,
        "head": head.settings(),
        "beats_logistic_regression": rank(choose_by, figures) < rank_to_beat(choose_by, baselines),
    }
