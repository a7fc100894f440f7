"""How `headstart check` tells a person what it found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.check import CheckResult
from pipeline.check_config import CheckConfig
from pipeline.check_report import facts, findings
from pipeline.examples import Example
from pipeline.splits import SPLITS

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
