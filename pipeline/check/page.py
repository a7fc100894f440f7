"""Write the findings of `headstart check` as one HTML file with embedded thumbnails."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from headstart.features.files import write_atomically
from headstart.features.images.pixels import ImageConfig
from headstart.pipeline.check.report import CheckResult
from headstart.pipeline.data.examples import Example
from headstart.pipeline.data.splits import SPLITS
from PIL import Image

SHOWN = 200  # at most this many findings of each kind, and files of each finding
_THUMBNAIL = ImageConfig(128, "crop")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .2rem .8rem .2rem 0; text-align: left }
td.n, th.n { text-align: right }
.group { display: flex; flex-wrap: wrap; gap: 1rem; border-top: 1px solid #ddd; padding: .8rem 0 }
figure { margin: 0; width: 10rem } img { width: 128px; height: 128px; background: #eee }
figcaption { font-size: 12px; overflow-wrap: anywhere } .none { color: #777 }
"""


def write_page(result: CheckResult, path: Path) -> None:
    """Write the page to `path`: counts, and the first `SHOWN` findings of each kind with thumbnails."""
    found = result.findings()
    thumbnails = _thumbnails([example for groups in found.values() for group in groups[:SHOWN] for example in group])
    rows = [(name, *counts.values(), sum(counts.values())) for name, counts in result.classes.items()]
    rows.append(("all", *result.splits.values(), len(result.examples)))
    body = [f"<h1>{_text(result.data)}</h1>", _table(("class", *SPLITS, "all"), rows)]
    body += [f"<p>{_text(fact)}</p>" for fact in result.facts()]
    body.append(_table(("path", "reason", "detail"), [tuple(vars(one).values()) for one in result.rejects[:SHOWN]]))
    body.append(_more(len(result.rejects)))
    for title, groups in found.items():
        body.append(f"<h2>{len(groups)} {_text(title)}</h2>")
        body += [_group(group[:SHOWN], result.class_names, thumbnails) for group in groups[:SHOWN]]
        body.append(_more(len(groups)))
    page = f"<!doctype html><meta charset=utf-8><title>{_text(result.data)}</title><style>{_STYLE}</style>"
    write_atomically(path, page + "\n".join(body) + "\n")


def _text(value: object) -> str:
    """Escape `value` for HTML. Bytes of a name that are not UTF-8 become backslash escapes."""
    return escape(str(value).encode(errors="backslashreplace").decode())


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th{'' if not place else ' class=n'}>{_text(cell)}" for place, cell in enumerate(header))
    lines = (
        "<tr>" + "".join(f"<td{' class=n' if isinstance(cell, int | float) else ''}>{_text(cell)}" for cell in row)
        for row in rows
    )
    return f"<table><tr>{head}{''.join(lines)}</table>"


def _more(count: int) -> str:
    return f"<p class=none>and {count - SHOWN} more; <code>--json</code> lists all</p>" if count > SHOWN else ""


def _group(group: Sequence[Example], class_names: Sequence[str], thumbnails: dict[str, str]) -> str:
    figures = (
        f"<figure><img src='{thumbnails.get(example.image.digest, '')}' alt=''><figcaption>"
        f"{_text(example.split)}, {_text(class_names[example.label])}, {example.image.width} x {example.image.height}"
        f"<br>{_text(example.image.path)}</figcaption></figure>"
        for example in group
    )
    return f"<div class=group>{''.join(figures)}</div>"


def _thumbnails(examples: Iterable[Example]) -> dict[str, str]:
    """Make a thumbnail of each image. Return a dict from digest to the data URL of a JPEG."""
    images = list({example.image.digest: example.image for example in examples}.values())
    if not images:
        return {}
    from headstart.features.images.batches import decoded_batches

    found: dict[str, str] = {}
    for positions, pixels in decoded_batches(images, _THUMBNAIL, 64):
        for position, thumbnail in zip(positions, pixels, strict=True):
            Image.fromarray(thumbnail).save(data := io.BytesIO(), "JPEG", quality=80)
            encoded = base64.b64encode(data.getvalue()).decode()
            found[images[position].digest] = f"data:image/jpeg;base64,{encoded}"
    return found
