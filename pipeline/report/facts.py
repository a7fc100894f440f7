"""Two sections of the report: the data of a run, and its settings."""

from collections import Counter
from typing import Any

from headstart.features.errors import HeadstartError
from headstart.pipeline.data.splits import SPLITS
from headstart.pipeline.pages.html import escaped, isolated, items, more, shortened
from headstart.pipeline.pages.tables import table
from headstart.pipeline.report.evidence import Evidence
from headstart.pipeline.runs import read_csv
from headstart.pipeline.runs.run import EXAMPLES_COLUMNS

_CLASSES, _REJECTS = 100, 50  # most classes and rejects that are listed
_VALUE = 300  # most characters of a setting
_UNSET: tuple[Any, ...] = (None, "", [], ())


def data(evidence: Evidence) -> str:
    """Return the section on the data, as HTML.

    The section says how the data were read. It counts the images of each class and split, the copies, the leaks between
    splits, and the rejects.
    """
    run, found = evidence.run, evidence.trained
    try:
        rows = read_csv(run.examples_file, EXAMPLES_COLUMNS)
    except HeadstartError as error:
        return f"<p>The list of examples can't be read: {escaped(error)}</p>"
    counts = Counter((row["label"], row["split"]) for row in rows)
    names = run.class_names()
    ranked = sorted(names, key=lambda name: -sum(counts[name, split] for split in SPLITS))
    lines = [["all", *(f"{sum(row['split'] == split for row in rows):,}" for split in SPLITS), f"{len(rows):,}"]]
    for name in ranked[:_CLASSES]:
        of = [counts[name, split] for split in SPLITS]
        lines.append([isolated(name), *(f"{count:,}" for count in of), f"{sum(of):,}"])
    shown = table(f"{len(rows):,} images of {len(names):,} classes", ["class", *SPLITS, "all"], lines, "numbers")
    return "".join([
        items(found.reading, "reading") if found else "",
        shown, more(names, _CLASSES, "classes"),
        items([*_copies(rows), *_leaks(evidence)], "facts"),
        _rejects(evidence),
    ])  # fmt: skip


def _copies(rows: list[dict[str, str]]) -> list[str]:
    """Return three lines: how many images are copies, are in several splits, and are in several classes."""
    labels, splits, times = dict[str, set[str]](), dict[str, set[str]](), Counter(row["digest"] for row in rows)
    for row in rows:
        labels.setdefault(row["digest"], set()).add(row["label"])
        splits.setdefault(row["digest"], set()).add(row["split"])
    found = {
        "files are copies of others": len(rows) - len(times),
        "images lie in several splits (leaks)": sum(len(one) > 1 for one in splits.values()),
        "images lie in several classes": sum(len(one) > 1 for one in labels.values()),
    }
    return [f"{count:,} {what}" for what, count in found.items()]


def _leaks(evidence: Evidence) -> list[str]:
    titles = {"duplicates_in_train": "are in train, too", "near_duplicates_in_train": "have a near-duplicate in train"}
    return [
        f"{'an unknown number of' if count is None else f'{count:,}'} images of {evidence.scored} {titles[name]}"
        for name, count in evidence.seen.items()
    ]


def _rejects(evidence: Evidence) -> str:
    found = evidence.trained
    if not found:
        return ""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(one.reason for one in found.rejects).items())
    told = f"{len(found.rejects):,} images rejected{f' ({escaped(reasons)})' if reasons else ''}"
    told += f", {found.ignored:,} other files ignored"
    if not found.rejects:
        return f"<p>{told}</p>"
    rows = "".join(
        f"<li>{isolated(one.path)}: {escaped(one.reason)}, {escaped(one.detail)}" for one in found.rejects[:_REJECTS]
    )
    return f"<details><summary>{told}</summary><ul>{rows}</ul>{more(found.rejects, _REJECTS)}</details>"


def settings(evidence: Evidence) -> str:
    """Return HTML tables of the run's settings, and of the versions of the software that made the run."""
    config = evidence.run.config()
    phases = evidence.run.metrics()
    general = {
        "run": evidence.run.path,
        "data": config["data"],
        "seed": config["seed"],
        "weights' digest": config["weights_digest"][:12],
        **{f"{phase}: {title}": value for phase in ("head", "finetune")
           for name, title in (("best_epoch", "best epoch"), ("seconds", "seconds of training"))
           if (value := phases.get(phase, {}).get(name)) is not None},
    }  # fmt: skip
    parts = {"The run": general, "Features": config["features"], "Head": config["head"]}
    parts |= {"Fine-tuning": config["finetune"]} if config.get("finetune") else {}
    parts |= {"Reading of the data": config["reading"]} if config.get("reading") else {}
    parts |= {"Versions": config.get("versions", {})}
    tables = "".join(
        table(title, ["setting", "value"], [[escaped(name), _value(value)] for name, value in values.items()
                                            if value not in _UNSET], "settings")
        for title, values in parts.items() if values
    )  # fmt: skip
    return f"<div class=columns>{tables}</div>"


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(isolated, value[:_CLASSES]))
    if isinstance(value, dict):
        return ", ".join(f"{isolated(name)} {isolated(one)}" for name, one in list(value.items())[:_CLASSES])
    if isinstance(value, float):
        return f"{value:.6g}"
    return isolated(shortened(str(value), _VALUE))
