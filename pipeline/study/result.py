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

FEW_VAL = 100  # with fewer val images, no figure is sure
_CLASSES_SHOWN, _FEW_OF_EACH = 3, 10


@dataclass(frozen=True)
class Size:
    """A number of training images, with the figure that was measured or is expected for this number."""

    images: int
    figure: Estimate

    def fields(self, metric: ChooseBy) -> dict[str, Any]:
        """Return this size as a JSON object. The key of the figure is `metric`."""
        return {"images": self.images, metric: self.figure.value, "interval": [self.figure.low, self.figure.high]}


@dataclass(frozen=True)
class StudyResult:
    """The learning curve of a data folder, and its continuation."""

    metric: ChooseBy
    images: int  # number of images in train; the largest of `sizes` may be smaller
    val_images: int
    seeds: int  # draws of the images of each size
    sizes: list[Size]  # measured
    law: LawName
    parameters: dict[str, float]
    fitted: Size  # the figure that the law gives for `images`
    forecast: list[Size]  # the law's figures for more images
    more: int
    gain: Estimate  # the rise of the figure from `more` images; for the loss, its fall
    needed: Needed | None  # None if no target was given or chosen
    classes: list[ClassGain]  # sorted by the lower end of the gain's interval, the highest first
    notes: Sequence[str] = ()  # sentences on the limits of this study
    chart: str | None = None

    @property
    def few_val(self) -> bool:
        """Whether there are so few val images that no figure is sure."""
        return self.val_images < FEW_VAL

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        gain = {"images": self.more, "gain": self.gain.value, "interval": [self.gain.low, self.gain.high]}
        needed = self.needed
        return {
            "metric": self.metric,
            "level": LEVEL,
            "sizes": [size.fields(self.metric) for size in self.sizes],
            "law": {"name": self.law, "parameters": self.parameters},
            "fitted": self.fitted.fields(self.metric),
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
        """Yield the summary that is printed without `--json`. With few val images, the summary is short."""
        if self.few_val:
            yield from self.notes
        yield self.table(short=self.few_val)
        yield from self._outlook() if self.few_val else [*self.sentences(), *self.notes]
        if self.chart:
            yield f"the chart is in {self.chart}"

    def table(self, short: bool = False) -> Table:
        """Return a table with a row for each measured figure, for the fitted figure, and for each expected figure.

        Each row begins with the number of training images that its figure is for. The fitted figure is the one that the
        law gives for the present number of images. If `short`, the table has only the first and last measured figures,
        the fitted figure, and the first expected figure.
        """
        title = f"heads on subsets of {self.images:,} training images, scored on {self.val_images:,} of val"
        table = Table("images", "", titled(self.metric), f"{LEVEL:.0%} interval".replace("%", " %"), title=title)
        measured, expected = self.sizes, self.forecast
        if short:
            measured, expected = [measured[0], measured[-1]], expected[:1]
        for kind, sizes in (("measured", measured), ("fitted", [self.fitted]), ("expected", expected)):
            for size in sizes:
                figure = size.figure
                interval = f"{figure.low:.3f} - {figure.high:.3f}"
                table.add_row(f"{size.images:,}", kind, f"{figure.value:.4f}", interval)
        return table

    def sentences(self) -> Iterator[str]:
        """Yield sentences about four things: the gain from more images, the target, the law, and the classes."""
        yield from self._outlook()
        values = ", ".join(f"{name} = {value:.4g}" for name, value in self.parameters.items())
        yield f"{self.law}: {self.formula()}, with {values}"
        sure = [one for one in self.classes if one.low > 0][:_CLASSES_SHOWN]
        for one in sure:
            points = f"+{100 * one.gain:.1f} points ({100 * one.low:.1f} to {100 * one.high:.1f})"
            yield f"twice the images: recall of {one.name!r} {points}, now {one.recall:.3f}"
        if not sure:
            few = self.val_images < _FEW_OF_EACH * len(self.classes)
            yield "no class surely gains from more images" + (": val has too few of each" if few else "")

    def _outlook(self) -> Iterator[str]:
        yield f"{self.more:,} more images: {self._gained()}"
        if self.needed:
            yield self._reached(self.needed)

    def formula(self) -> str:
        """Return the formula of the law, such as `1 - accuracy = c + a n^-b`."""
        if self.law == "power law":
            return f"{'loss' if self.metric == 'loss' else f'1 - {titled(self.metric)}'} = c + a n^-b"
        return f"{titled(self.metric)} = a + b log(n)"

    def _gained(self) -> str:
        low, value, high = self.gain.low, self.gain.value, self.gain.high
        if self.metric == "loss":
            return f"loss -{value:.4f} ({low:.4f} to {high:.4f})"
        return f"+{100 * value:.1f} points ({100 * low:.1f} to {100 * high:.1f}) of {titled(self.metric)}"

    def _reached(self, needed: Needed) -> str:
        """Return a sentence that tells how many images are needed to reach `needed.target`."""
        name, first, last = f"{titled(self.metric)} {needed.target:g}", self.sizes[0].images, self.sizes[-1].images
        under = [row for row, size in enumerate(self.sizes) if not self._meets(size, needed.target)]
        if not under:
            return f"{name}: reached with {first:,} images or fewer"
        if under[-1] < len(self.sizes) - 1:
            return f"{name}: reached with {self.sizes[under[-1] + 1].images:,} images"
        if needed.low is not None and needed.low <= first and needed.high is None:
            return f"{name}: the images for it can't be told with so few val images ({self.val_images:,})"
        if needed.images is None:
            sure = needed.low and needed.low > self.images
            perhaps = f", at the earliest with {rounded(needed.low or 0)} images" if sure else ""
            return f"{name}: not in sight with this backbone{perhaps}"
        if needed.images <= last:
            expected = f"though the law expects it with about {rounded(needed.images)}"
            return f"{name}: not reached with {last:,} images, {expected}; {self.val_images:,} val images can't tell"
        low = rounded(needed.low or 1)
        interval = f"{low} to {rounded(needed.high)}" if needed.high else f"{low} or more, perhaps never"
        return f"{name}: about {rounded(needed.images)} images ({interval})"

    def _meets(self, size: Size, target: float) -> bool:
        """Return whether the figure measured with `size` is `target` or better."""
        return size.figure.value <= target if self.metric == "loss" else size.figure.value >= target


def rounded(images: int) -> str:
    """Return the number `images` as text, rounded to two significant digits, such as `1,900`."""
    return f"{round(images, min(0, 2 - len(str(images)))):,}"
