"""Write the result of `headstart check` as one HTML page that needs no other file, no script and no network."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from headstart.pipeline.check.report import WITHOUT, CheckResult
from headstart.pipeline.data.examples import Example
from headstart.pipeline.data.splits import SPLITS
from headstart.pipeline.pages.charts import histogram, stacked_bar
from headstart.pipeline.pages.html import escaped, isolated, items, more, write_html
from headstart.pipeline.pages.pictures import Pictures

SHEETS, ON_A_SHEET = 30, 12  # at most this many classes have a contact sheet, with this many images each
SHOWN, FILES = 40, 8  # at most this many findings of each kind have thumbnails, and this many files of each finding
ROWS = 500  # at most this many classes and rejects are listed
_OPENED = 20  # a list of more rejects is folded


def write_page(result: CheckResult, path: Path) -> None:
    """Write the page to `path`: how the folder was read, what is wrong, counts, and a contact sheet of each class."""
    sheets = _sheets(result)
    findings = result.findings()
    found = (one for groups in findings.values() for group in groups[:SHOWN] for one in group[:FILES])
    images = _Images(list(chain(found, *sheets.values())), result)
    body = [f"<h1>{isolated(result.data)}</h1>", _summary(result)]
    body += [items(result.reading, "reading")]
    body += [items([f"training refuses: {one}" for one in result.problems], "problems")]
    for title, groups in findings.items():
        body.append(f"<h2>{len(groups):,} {escaped(title)}</h2>")
        body.append(_findings(groups[:SHOWN], images))
        body.append(more(groups, SHOWN))
    body += [_rejects(result), _classes(result), _charts(result), items(result.facts(), "facts")]
    body.append("<h2>Images of each class</h2>" if sheets else "")
    for name, sheet in sheets.items():
        count = sum((result.classes[name] if name is not None else result.unlabelled).values())
        title = f"{isolated(WITHOUT if name is None else name)} <small>{count:,}</small>"
        body.append(f"<h3>{title}</h3><div class=sheet>{images.plain(sheet)}</div>")
    body.append(more([name for name, counts in result.classes.items() if sum(counts.values())], SHEETS, "classes"))
    write_html(path, str(result.data), body)


def _sheets(result: CheckResult) -> dict[str | None, list[Example]]:
    """Return the images of each contact sheet, by class. Images without a class have the key None."""
    by_label: dict[int, list[Example]] = defaultdict(list)
    for example in result.examples:
        by_label[example.label].append(example)
    return {
        result.class_of(some[0]): [some[place * len(some) // ON_A_SHEET] for place in range(ON_A_SHEET)]
        if len(some) > ON_A_SHEET
        else some
        for _, some in sorted(by_label.items())[: SHEETS + (-1 in by_label)]
    }


class _Images:
    """Makes HTML from examples: their thumbnails, with or without captions."""

    def __init__(self, examples: Sequence[Example], result: CheckResult) -> None:
        self._result = result
        self._pictures = Pictures([example.image for example in examples])

    def plain(self, examples: Sequence[Example]) -> str:
        """Return HTML of images without captions. The `title` of an image is its path."""
        return "".join(self._pictures.html(one.image) for one in examples)

    def figures(self, examples: Sequence[Example]) -> str:
        """Return HTML of images with captions: split, class, size and path."""
        return "".join(
            f"<figure>{self._pictures.html(one.image)}<figcaption>{', '.join(self._facts(one))}<br>"
            f"{isolated(one.image.path)}</figcaption></figure>"
            for one in examples
        )

    def _facts(self, example: Example) -> list[str]:
        name = self._result.class_of(example)
        size = f"{example.image.width} x {example.image.height}"
        return [escaped(example.split), *([isolated(name)] if name is not None else []), size]


def _findings(groups: Sequence[Sequence[Example]], images: _Images) -> str:
    """Return HTML that shows findings one below the other, or side by side if each finding is a single image.

    `groups` holds the images of each finding.
    """
    if all(len(group) == 1 for group in groups):
        return f"<div class=group>{images.figures(list(chain(*groups)))}</div>"
    return "".join(f"<div class=group>{images.figures(group[:FILES])}</div>{more(group, FILES)}" for group in groups)


def _summary(result: CheckResult) -> str:
    splits = ", ".join(f"{count:,} {split}" for split, count in result.splits.items())
    unlabelled = sum(result.unlabelled.values())
    without = f"; {unlabelled:,} without a class" if unlabelled else ""
    return (
        f"<p class=summary><b>{len(result.examples):,}</b> images in <b>{len(result.classes):,}</b> classes: {splits}"
        f"{without}; {len(result.rejects):,} rejected</p>"
    )


def _rejects(result: CheckResult) -> str:
    if not result.rejects:
        return ""
    rows = "".join(
        f"<li>{isolated(one.path)}: {escaped(one.reason)}, {escaped(one.detail)}" for one in result.rejects[:ROWS]
    )
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in result.reasons.items())
    opened = " open" if len(result.rejects) <= _OPENED else ""
    files = f"<details{opened}><summary>files</summary><ul>{rows}</ul>{more(result.rejects, ROWS)}</details>"
    return f"<h2>{len(result.rejects):,} rejected: {escaped(reasons)}</h2>{files}"


def _classes(result: CheckResult) -> str:
    if not result.classes:
        return ""
    longest = max((sum(counts.values()) for counts in result.classes.values()), default=0)
    key = "".join(f"<span><i class=c{number}></i>{split}</span>" for number, split in enumerate(SPLITS))
    rows = "".join(_row(name, list(counts.values()), longest) for name, counts in list(result.classes.items())[:ROWS])
    left = more(list(result.classes), ROWS, "classes")
    return f"<h2>Classes</h2><p class=key>{key}</p><div class=rows>{rows}</div>{left}"


def _row(name: str, counts: Sequence[int], longest: int) -> str:
    numbers = " + ".join(f"{count:,}" for count in counts)
    return f"<div class=row><div>{isolated(name)}</div>{stacked_bar(counts, longest)}<div class=n>{numbers}</div></div>"


def _charts(result: CheckResult) -> str:
    if not result.examples:
        return ""
    widths, heights = ([getattr(one.image, side) for one in result.examples] for side in ("width", "height"))
    rows = "".join(_row(name, [count], len(result.examples)) for name, count in result.formats.items())
    drawn = histogram(widths, "width in pixels") + histogram(heights, "height in pixels")
    return f"<h2>Sizes and formats</h2><div class=charts>{drawn}<div class='rows formats'>{rows}</div></div>"
