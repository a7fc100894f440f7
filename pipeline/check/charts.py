"""Small charts as inline SVG, without a script. Their colours come from the page's style."""

from collections.abc import Sequence

import numpy as np

_BINS, _WIDTH, _HEIGHT = 24, 240, 60


def stacked_bar(counts: Sequence[int], longest: int) -> str:
    """Return an SVG bar with `counts` side by side. A bar whose counts sum to `longest` fills the width."""
    parts, start = [], 0.0
    for number, count in enumerate(counts):
        width = 100 * count / max(1, longest)
        parts.append(f"<rect class=c{number} x={start:.2f} width={width:.2f} height=10 />")
        start += width
    return f"<svg class=bar viewBox='0 0 100 10' preserveAspectRatio=none aria-hidden=true>{''.join(parts)}</svg>"


def histogram(values: Sequence[int], title: str) -> str:
    """Return a histogram of `values`, whole numbers over 0, as an HTML figure. Bins are equally wide on a log scale."""
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
    drawn = f"<svg {shape} role=img aria-label='{title}'>{''.join(columns)}</svg>"
    ends = f"<div class=ends>{low:,}<span>{high:,}</span></div>"
    return f"<figure class=chart><figcaption>{title}</figcaption>{drawn}{ends}</figure>"
