"""The chart of a study: the measured curve and its continuation, with intervals."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.files import write_atomically
from headstart.pipeline.scoring.choosing import titled
from headstart.pipeline.study.result import Size, StudyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE, _DPI = (6.4, 3.6), 160  # inches, and dots per inch


def drawing(result: StudyResult, measured: str, expected: str) -> Callable[[Axes], None]:
    """Return a function that draws the study `result` on matplotlib axes.

    `measured` and `expected` are the colours of the measured curve and of its continuation.
    """

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import LogLocator, NullLocator

        law = [result.fitted, *result.forecast]
        for sizes, colour, style, label in (
            (result.sizes, measured, "o-", "measured"),
            (law, expected, "o--", "expected"),
        ):
            images, values, low, high = _columns(sizes)
            axes.fill_between(images, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(images, values, style, color=colour, markersize=4, label=label)
        if result.needed and result.needed.images:
            axes.axhline(result.needed.target, color=expected, linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{round(value):,}")
        axes.set_xlabel("training images")
        axes.set_ylabel(titled(result.metric))
        axes.legend(loc="upper right" if result.metric == "loss" else "lower right")

    return draw


def _columns(sizes: list[Size]) -> np.ndarray:
    return np.array([(size.images, size.figure.value, size.figure.low, size.figure.high) for size in sizes]).T


def write_chart(result: StudyResult, path: Path) -> None:
    """Write the chart of the study `result` to `path`. The ending of `path` decides the format: `.svg` or `.png`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    kind = path.suffix.lower().removeprefix(".")
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "study", "axes.spines.top": False}
    with mpl.rc_context(settings):
        figure = Figure(_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.spines.right.set_visible(False)
        axes.grid(visible=True, color="#dddddd")
        drawing(result, "#2f6fb3", "#b06a00")(axes)
        axes.set_title(f"{titled(result.metric)} by the number of training images", loc="left", fontsize=11)
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(data := io.BytesIO(), format=kind, dpi=_DPI, metadata=metadata)
    write_atomically(path, data.getvalue())
