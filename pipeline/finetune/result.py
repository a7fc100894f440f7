"""The result of a fine-tuning, and a summary for a person: the figures, and advice on the next call."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.pipeline.finetune.course import Course, as_text
from headstart.pipeline.scoring.choosing import as_json


@dataclass(frozen=True)
class FinetuneResult:
    """The course of a fine-tuning, and the metrics of the fine-tuned classifier."""

    run: str
    course: Course
    epochs: int  # the number asked for
    images_per_second: float  # see `Progress.examples_per_second`
    seconds: float  # spent on the epochs, summed over all calls
    learning_rate: float
    repeat: Sequence[str]  # the options to repeat so that another call goes on from the state

    @property
    def before(self) -> dict[str, float]:
        """Return the head's figures on val: `loss`, `accuracy` and the figure that decides the best epoch."""
        return self.course.figures[0]

    @property
    def after(self) -> dict[str, float]:
        """Return the classifier's figures on val after the best epoch. They have the same names as in `before`."""
        return self.course.figures[self.best_epoch]

    @property
    def best_epoch(self) -> int:
        """Return the number of the best epoch. Epochs count from 1; 0 means before fine-tuning."""
        return self.course.best

    @property
    def epochs_done(self) -> int:
        """Return the number of finished epochs, summed over all calls."""
        return self.course.done

    @property
    def stopped_early(self) -> bool:
        """Return whether fewer epochs were finished than were asked for."""
        return self.epochs_done < self.epochs

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {
            "run": self.run,
            "before": as_json(self.before),
            "after": as_json(self.after),
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "epochs_done": self.epochs_done,
            "stopped_early": self.stopped_early,
            "choose_by": self.course.choose_by,
            "images_per_second": self.images_per_second,
            "seconds": self.seconds,
        }

    def lines(self) -> Iterator[str]:
        """Yield the summary that is printed without `--json`."""
        speed = f"; {self.images_per_second:.1f} images/s after the start" if self.images_per_second else ""
        yield (
            f"val accuracy {self.before['accuracy']:.4f} -> {self.after['accuracy']:.4f}, "
            f"loss {self.before['loss']:.4f} -> {self.after['loss']:.4f} "
            f"(best epoch {self.best_epoch} of {self.epochs_done}{speed})"
        )
        if self.stopped_early:
            yield f"stopped early, because {self.course.stop_reason()}; --patience 0 never stops early"
        yield from self._gain() if self.best_epoch else self._no_gain()
        yield f"the classifier is {self.run}/classifier.keras"

    def _gain(self) -> Iterator[str]:
        """Yield the lines for a classifier that is better than the head."""
        course = self.course
        yield (
            f"val {course.choose_by} decided: {course.value(self.best_epoch)} in epoch {self.best_epoch}, "
            f"{course.value(0)} of the head"
        )
        if self.best_epoch == self.epochs_done:
            yield f"the last epoch was the best: more epochs may help: {self._more()}"

    def _no_gain(self) -> Iterator[str]:
        """Yield the lines for a fine-tuning in which no epoch was better than the head.

        The lines name the best epoch after epoch 0, and a command to try.
        """
        course, nearest = self.course, self.course.nearest
        yield (
            f"val {course.choose_by} decided: no epoch was better than the head, {course.value(0)}; the nearest was "
            f"epoch {nearest} with {as_text(course.figures[nearest])}"
        )
        yield "the classifier is backbone and head as they were"
        if 1 < nearest == self.epochs_done:
            yield f"the last epoch was the nearest: more epochs may help: {self._more()}"
        else:
            yield f"try smaller steps: {self._command(f'--overwrite --learning-rate={self.learning_rate / 10:g}')}"

    def _more(self) -> str:
        """Return a command that trains for twice as many epochs as are finished."""
        planned = any(option == "--schedule=cosine" for option in self.repeat)  # then, the epochs can't be changed
        patience = " --patience=0" if self.stopped_early else ""
        return self._command(f"{'--overwrite ' if planned else ''}--epochs={2 * self.epochs_done}{patience}")

    def _command(self, options: str) -> str:
        changed = {option.partition("=")[0] for option in options.split()}
        others = [option for option in self.repeat if option.partition("=")[0] not in changed]
        return f"headstart finetune {shlex.join([self.run])} {options} {shlex.join(others)}".rstrip()
