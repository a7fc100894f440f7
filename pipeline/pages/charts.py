"""Charts as inline SVG, without scripts. Their colours come from the page's light or dark style."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.pipeline.pages.html import escaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib draws in these colours, and `chart` replaces them by variables of the style. So they have no other use.
_COLOURS = {"#010203": "--ink", "#020304": "--soft", "#030405": "--line", "#040506": "--paper"}
_SERIES = {"#111213": "--c0", "#121314": "--c1", "#131415": "--c2", "#141516": "--bad"}
INK, SOFT, LINE, PAPER = _COLOURS
SERIES = tuple(_SERIES)  # the colours of lines and bars, in order

_BINS, _WIDTH, _HEIGHT = 24, 240, 60


def stacked_bar(counts: Sequence[int], longest: int) -> str:
    """Return an SVG bar with a part for each of `counts`, side by side.

    If the counts sum to `longest`, the bar has the full width.
    """
    parts, start = [], 0.0
    for number, count in enumerate(counts):
        width = 100 * count / max(1, longest)
        parts.append(f"<rect class=c{number} x={start:.2f} width={width:.2f} height=10 />")
        start += width
    return f"<svg class=bar viewBox='0 0 100 10' preserveAspectRatio=none aria-hidden=true>{''.join(parts)}</svg>"


def histogram(values: Sequence[int], title: str) -> str:
    """Return a histogram of `values`, integers over 0, as an HTML figure. Bins are equally wide on a log scale."""
    low, high = min(values), max(values)
    counts, _ = np.histogram(np.log(values), _BINS, (np.log(low) - 0.01, np.log(high) + 0.01))
    step, most = _WIDTH / _BINS, int(counts.max())
    columns = (
        f"<rect class=c0 x={place * step:.1f} y={_HEIGHT - _HEIGHT * count / most:.1f} width={step - 1:.1f} "
        f"height={_HEIGHT * count / most:.1f} />"
        for place, count in enumerate(counts.tolist())
        if count
    )
    shape = f"viewBox='0 0 {_WIDTH} {_HEIGHT}' preserveAspectRatio=none"
    drawn = f"<svg {shape} role=img aria-label='{escaped(title)}'>{''.join(columns)}</svg>"
    ends = f"<div class=ends>{low:,}<span>{high:,}</span></div>"
    return f"<figure class=chart><figcaption>{escaped(title)}</figcaption>{drawn}{ends}</figure>"


def chart(draw: Callable[[Axes], None], title: str, alt: str, size: tuple[float, float] = (6.4, 3.6)) -> str:
    """Return a chart as an HTML figure with the caption `title`.

    Args:
        draw: a function that draws on matplotlib axes, in the colours `SERIES`, `INK`, `SOFT` or `LINE`.
        alt: the text for readers who can't see the chart.
        size: width and height in inches. The page scales the chart to its own width.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_settings(title)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib warns of letters that its font lacks; the browser has them
        figure = Figure(size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(data := io.StringIO(), format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = data.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda name: name[0] if name[1] in used else "", svg)  # unique within a page
    for colour, variable in (_COLOURS | _SERIES).items():
        svg = svg.replace(colour, f"var({variable})")
    svg = svg.replace(
        svg[: svg.index(">") + 1], f"<svg viewBox='{_view_box(svg)}' role=img aria-label='{escaped(alt)}'>", 1
    )
    return f"<figure class=plot><figcaption>{escaped(title)}</figcaption>{svg}</figure>"


def side_by_side(*charts: str) -> str:
    """Return HTML of charts side by side. On a narrow page, they are one below the other."""
    return f"<div class=plots>{''.join(charts)}</div>"


def _view_box(svg: str) -> str:
    found = re.search('viewBox="([^"]*)"', svg)
    assert found
    return found[1]


def _settings(title: str) -> dict[Any, Any]:
    from cycler import cycler

    return {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": hashlib.sha256(title.encode()).hexdigest(),  # names in the SVG differ between charts
        "font.family": "sans-serif",
        "font.size": 11,
        "text.parse_math": False,
        "text.color": INK,
        "axes.edgecolor": SOFT,
        "axes.labelcolor": INK,
        "axes.prop_cycle": cycler(color=SERIES),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": LINE,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
    }
