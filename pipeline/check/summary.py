"""How `headstart check` tells a person what it found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart.pipeline.check.check import CheckResult
from headstart.pipeline.check.config import CheckConfig
from headstart.pipeline.check.report import facts, findings
from headstart.pipeline.data.examples import Example
from headstart.pipeline.data.splits import SPLITS
from rich.table import Table
from rich.text import Text

SHOWN = 5  # of each kind of finding, and files of each


def check_summary(result: CheckResult, config: CheckConfig, page: Path | None) -> list[Any]:
    """Tables and lines: counts, then each kind of finding with the first few files."""
    lines: list[Any] = [_counts(result), *facts(result, config)]
    lines += [f"  {reject.path}: {reject.reason}, {reject.detail}" for reject in result.rejects[:SHOWN]]
    lines += _more(len(result.rejects))
    for title, groups in findings(result, config).items():
        lines += _listed(title, groups, result.class_names)
    if page:
        lines.append(f"thumbnails are in {page}")
    return lines


def _counts(result: CheckResult) -> Table:
    table = Table("class", *SPLITS, "all", title=Text(f"{len(result.examples)} images in {result.data}"))
    for name, counts in result.classes.items():
        table.add_row(Text(name), *map(str, counts.values()), str(sum(counts.values())))
    table.add_row("all", *map(str, result.splits.values()), str(len(result.examples)), style="bold")
    return table


def _listed(title: str, groups: Sequence[Sequence[Example]], class_names: Sequence[str]) -> list[str]:
    files = [
        [f"{one.image.path} ({one.split}, {class_names[one.label]})" for one in group[:SHOWN]]
        for group in groups[:SHOWN]
    ]
    return [f"{title}: {len(groups)}", *(f"  {', '.join(group)}" for group in files), *_more(len(groups))]


def _more(count: int) -> list[str]:
    return [f"  and {count - SHOWN} more"] if count > SHOWN else []
