"""The result of `study`, as JSON and as lines for the console."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.pipeline.scoring.choosing import ChooseBy, titled
from headstart.pipeline.study.classes import ClassGain
from headstart.pipeline.study.forecast import LEVEL, Estimate, Needed
from headstart.pipeline.study.laws import LawName
from rich.table import Table

_CLASSES_SHOWN = 3


@dataclass(frozen=True)
class Size:
    """A number of training images, and the figure measured or expected with it."""

    images: int
    figure: Estimate

    def fields(self, metric: ChooseBy) -> dict[str, Any]:
        """Return the JSON object of a size. The key of the figure is `metric`."""
        return {"images": self.images, metric: self.figure.value, "interval": [self.figure.low, self.figure.high]}


@dataclass(frozen=True)
class StudyResult:
    """The learning curve of a data folder, and its continuation."""

    metric: ChooseBy
    images: int  # in train; the largest of `sizes` may be smaller
    val_images: int
    seeds: int  # draws of the images of each size
    sizes: list[Size]  # measured
    law: LawName
    parameters: dict[str, float]
    forecast: list[Size]
    more: int
    gain: Estimate  # the rise of the figure from `more` images; for the loss, its fall
    needed: Needed | None  # None if no target was given or chosen
    classes: list[ClassGain]  # the highest lower end of a gain first
    notes: Sequence[str] = ()  # sentences on the limits of this study
    chart: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        gain = {"images": self.more, "gain": self.gain.value, "interval": [self.gain.low, self.gain.high]}
        needed = self.needed
        return {
            "metric": self.metric,
            "level": LEVEL,
            "sizes": [size.fields(self.metric) for size in self.sizes],
            "law": {"name": self.law, "parameters": self.parameters},
            "forecast": [size.fields(self.metric) for size in self.forecast],
            "more": gain,
            "target": needed
            and {self.metric: needed.target, "images": needed.images, "interval": [needed.low, needed.high]},
            "classes": [one.fields() for one in self.classes],
            "train": self.images,
            "val": self.val_images,
            "seeds": self.seeds,
            "notes": list(self.notes),
            "chart": self.chart,
        }

    def lines(self) -> Iterator[Any]:
        """Yield the summary that is printed without `--json`."""
        yield self.table()
        yield from self.sentences()
        yield from self.notes
        if self.chart:
            yield f"the chart is in {self.chart}"

    def table(self) -> Table:
        """Return a table of the measured sizes, followed by the expected ones."""
        title = f"heads on subsets of {self.images:,} training images, scored on {self.val_images:,} of val"
        table = Table("images", "", titled(self.metric), f"{LEVEL:.0%} interval".replace("%", " %"), title=title)
        for kind, sizes in (("measured", self.sizes), ("expected", self.forecast)):
            for size in sizes:
                figure = size.figure
                interval = f"{figure.low:.3f} - {figure.high:.3f}"
                table.add_row(f"{size.images:,}", kind, f"{figure.value:.4f}", interval)
        return table

    def sentences(self) -> Iterator[str]:
        """Yield sentences about the gain from more images, the images for the target, the law and the classes."""
        yield f"{self.more:,} more images: {self._gained()}"
        if self.needed:
            yield self._reached(self.needed)
        values = ", ".join(f"{name} = {value:.4g}" for name, value in self.parameters.items())
        yield f"{self.law}: {self.formula()}, with {values}"
        sure = [one for one in self.classes if one.low > 0][:_CLASSES_SHOWN]
        for one in sure:
            points = f"+{100 * one.gain:.1f} points ({100 * one.low:.1f} to {100 * one.high:.1f})"
            yield f"twice the images: recall of {one.name!r} {points}, now {one.recall:.3f}"
        if not sure:
            yield "no class surely gains from more images" + (": val has too few of each" if self._few_val() else "")

    def formula(self) -> str:
        """Return the formula of the law, such as `1 - accuracy = c + a n^-b`."""
        if self.law == "power law":
            return f"{'loss' if self.metric == 'loss' else f'1 - {titled(self.metric)}'} = c + a n^-b"
        return f"{titled(self.metric)} = a + b log(n)"

    def _few_val(self) -> bool:
        return self.val_images < 10 * len(self.classes)

    def _gained(self) -> str:
        low, value, high = self.gain.low, self.gain.value, self.gain.high
        if self.metric == "loss":
            return f"loss -{value:.4f} ({low:.4f} to {high:.4f})"
        return f"+{100 * value:.1f} points ({100 * low:.1f} to {100 * high:.1f}) of {titled(self.metric)}"

    def _reached(self, needed: Needed) -> str:
        name, now = f"{titled(self.metric)} {needed.target:g}", self.images
        if needed.images is None:
            perhaps = f", at the earliest with {rounded(needed.low)} images" if needed.low and needed.low > now else ""
            return f"{name}: not in sight with this backbone{perhaps}"
        if needed.images <= self.sizes[0].images:
            return f"{name}: reached with {self.sizes[0].images:,} images or fewer"
        low = rounded(needed.low or 1)
        interval = f"{low} to {rounded(needed.high)}" if needed.high else f"{low} or more, perhaps never"
        reached = "reached, with " if needed.images <= now else ""
        return f"{name}: {reached}about {rounded(needed.images)} images ({interval})"


def rounded(images: int) -> str:
    """Return a number of images, rounded to two significant digits, such as `1,900`."""
    return f"{round(images, min(0, 2 - len(str(images)))):,}"
