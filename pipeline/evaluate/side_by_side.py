"""Show models side by side: as columns on the console, or as a page with a chart of the accuracies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.pipeline.pages.charts import SERIES, chart
from headstart.pipeline.pages.html import escaped, isolated, printable, shortened, write_html
from headstart.pipeline.pages.tables import table
from headstart.pipeline.scoring.metrics import McNemar
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

_LEAST, _MOST, _FRAME = 14, 30, 3  # least and most characters of a column, and characters of its frame


@dataclass(frozen=True)
class Compared:
    """One of the compared models: the head or the fine-tuned classifier of a run."""

    run: str
    model: str
    accuracy: float
    accuracy_interval: list[float]
    loss: float
    seconds: float | None  # of training the model; None if unknown
    settings: dict[str, Any]  # the run's settings in which the runs differ

    def cells(self) -> dict[str, str]:
        """Return the texts of this model's column, as a dict from the name of each row to the text."""
        low, high = self.accuracy_interval
        return {
            "model": self.model,
            "accuracy": f"{self.accuracy:.4f}",
            "95 % interval": f"{low:.4f} - {high:.4f}",
            "loss": f"{self.loss:.4f}",
            "seconds": "-" if self.seconds is None else f"{self.seconds:.1f}",
            **{name: _text(value) for name, value in self.settings.items()},
        }


@dataclass(frozen=True)
class SideBySide:
    """A table with a column for each of `sides`. Columns that do not fit the console follow in another table below."""

    sides: Sequence[Compared]
    title: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Yield the tables. Long text is wrapped, and never cut off."""
        cells = [side.cells() for side in self.sides]
        names = max(len(name) for name in cells[0]) + _FRAME + 1
        widths = [
            min(_MOST, max(_LEAST, len(side.run), *map(len, one.values()))) + _FRAME
            for side, one in zip(self.sides, cells, strict=True)
        ]
        start = 0
        while start < len(cells):
            end, left = start + 1, options.max_width - names - widths[start]
            while end < len(cells) and widths[end] <= left:
                left -= widths[end]
                end += 1
            shown = Table(title=Text(self.title if not start else f"{self.title}, continued"))
            shown.add_column("run", overflow="fold")
            for side in self.sides[start:end]:
                shown.add_column(Text(side.run), overflow="fold", max_width=_MOST)
            for name in cells[0]:
                shown.add_row(name, *(Text(one[name]) for one in cells[start:end]))
            yield shown
            start = end


def write_comparison(path: Path, sides: Sequence[Compared], test: McNemar, scored: str) -> None:
    """Write a page to `path` with the HTML from `comparison`. For the other arguments, see `comparison`."""
    title = f"{len({side.run for side in sides})} runs on {scored}"
    write_html(path, title, [f"<h1>{escaped(title)}</h1>", *comparison(sides, test, scored)])


def comparison(sides: Sequence[Compared], test: McNemar, scored: str) -> list[str]:
    """Return three pieces of HTML: a paragraph about the two best models, a chart of accuracies, a table of metrics.

    `test` is McNemar's test of the two best models. The paragraph reports this test. `scored` is a phrase that names
    the scored images. The table also shows the settings in which the runs differ.
    """
    cells = [side.cells() for side in sides]
    rows = [[escaped(name), *(isolated(one[name]) for one in cells)] for name in cells[0]]
    best = f"<p class=summary>On {test.n:,} images of {escaped(scored)}, {isolated(test.first)} is the most accurate."
    return [
        f"{best} Against the second, {escaped(test)}.</p>",
        _picture(sides, scored),
        table("Settings in which the runs differ", ["run", *(isolated(side.run) for side in sides)], rows),
    ]


def _picture(sides: Sequence[Compared], scored: str) -> str:
    names = [f"{shortened(printable(side.run))} ({side.model})" for side in sides]

    def draw(axes: Any) -> None:
        for row, side in enumerate(sides):
            low, high = side.accuracy_interval
            colour = SERIES[side.model != "head"]
            axes.plot([low, high], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot([side.accuracy], [row], "o", color=colour, markersize=8)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(f"accuracy on {scored}, with 95 % interval")

    told = ", ".join(
        f"{name} {side.accuracy:.4f} ({side.accuracy_interval[0]:.4f} to {side.accuracy_interval[1]:.4f})"
        for name, side in zip(names, sides, strict=True)
    )
    return chart(draw, "Accuracy with its 95 % interval", told, (6.4, 1.0 + 0.4 * len(names)))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return (", ".join(map(str, value)) or "none") if isinstance(value, (list, tuple)) else str(value)
