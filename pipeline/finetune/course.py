"""The course of a fine-tuning: the figures on val after each epoch, the best epoch, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headstart.pipeline.scoring.choosing import ChooseBy, rank


@dataclass
class Course:
    """The figures on val after each epoch. Epoch 0 is the head alone.

    Each epoch has the loss, the accuracy, and the figure that `choose_by` names. The figure that `choose_by` names
    decides the best epoch.
    """

    choose_by: ChooseBy
    figures: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def of(
        cls, choose_by: ChooseBy, before: Mapping[str, float | None], history: Sequence[Mapping[str, float]]
    ) -> Course:
        """Return a course. Epoch 0 has the figures in `before`, and the later epochs have the figures in `history`.

        `history` has a row of metrics for each finished epoch. In `before`, the value None stands for NaN, because JSON
        has no NaN.
        """
        first = {name: math.nan if value is None else value for name, value in before.items()}
        return cls(choose_by, [first, *({name: row[f"val_{name}"] for name in before} for row in history)])

    @property
    def done(self) -> int:
        """Return the number of finished epochs, without epoch 0."""
        return len(self.figures) - 1

    @property
    def best(self) -> int:
        """Return the number of the best epoch, which may be epoch 0.

        If several epochs are equally good, the first of them is the best.
        """
        return self.best_of(range(len(self.figures)))

    @property
    def nearest(self) -> int:
        """Return the number of the best epoch after epoch 0."""
        return self.best_of(range(1, len(self.figures)))

    def best_of(self, epochs: Sequence[int]) -> int:
        """Return the number of the best epoch in `epochs`.

        `epochs` holds the number of each epoch to compare. If several epochs are equally good, the first of them in
        `epochs` is the best.
        """
        return min(epochs, key=lambda epoch: rank(self.choose_by, self.figures[epoch]))

    def stops(self, patience: int) -> bool:
        """Return whether at least `patience` epochs came after the best epoch. Return false if `patience` is 0."""
        return 0 < patience <= self.done - self.best

    def stop_reason(self) -> str:
        """Return why the training stops early, as text."""
        return f"no epoch after epoch {self.best} was better" if self.best else "no epoch was better than the head"

    def value(self, epoch: int) -> str:
        """Return a figure of the epoch `epoch` as text: the figure that `choose_by` names."""
        return f"{self.figures[epoch][self.choose_by]:.4f}"

    def line(self, row: Mapping[str, float], epochs: int) -> str:
        """Return a line about the last finished epoch.

        `row` holds the metrics of this epoch. `epochs` is the number of epochs that the user asked for.
        """
        best = "the head" if self.best == 0 else "this one" if self.best == self.done else f"epoch {self.best}"
        return (
            f"epoch {self.done} of {epochs}: train loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}; "
            f"val {as_text(self.figures[-1])}; best so far: {best} (val {self.choose_by} {self.value(self.best)})"
        )


def duration(seconds: float) -> str:
    """Return a duration as text: in seconds if it is under 90 seconds, else in minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def cost_line(epochs: int, seconds: float, patience: int) -> str:
    """Return a line about the time that `epochs` epochs take, if each epoch takes `seconds` seconds.

    If `patience` can end the training before the last epoch, the line says so, too.
    """
    fewer = f", fewer if {patience} in a row are not better" if 0 < patience < epochs else ""
    count = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    return f"about {duration(epochs * seconds)}: {count} of {seconds:.0f} s{fewer}"


def as_text(figures: Mapping[str, float]) -> str:
    """Return `figures` as text, such as `loss 0.3921, accuracy 0.8400`."""
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
