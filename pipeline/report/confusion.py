"""Two sections of the report: the confused classes, and the figures of each class."""

import numpy as np
from headstart.pipeline.pages.html import isolated, more
from headstart.pipeline.pages.tables import table
from headstart.pipeline.report.evidence import NAMES, Evidence
from headstart.pipeline.report.summary import figure
from headstart.pipeline.scoring.metrics import confusions

_MATRIX, _PAIRS, _ROWS = 15, 20, 2000  # most classes in a matrix, pairs, and classes in the table
_OPENED = 40  # a table of more classes is folded


def confusion(evidence: Evidence) -> str:
    """Return the confusion matrix of the model that `predict` uses, as HTML.

    With more than 15 classes, return a table of the pairs of classes that are confused most often. If this table would
    be empty, or if there are no predictions, return an empty string.
    """
    found = evidence.predictions
    if not found:
        return ""
    names, predicted = found.class_names, evidence.predicted(evidence.answering)
    pairs = confusions(predicted, found.labels)
    if len(names) > _MATRIX:
        wrong = sorted((one for one in pairs if one[0] != one[1]), key=lambda one: -one[2])
        counts = np.bincount(found.labels, minlength=len(names))
        rows = [
            [isolated(names[true]), isolated(names[other]), f"{count:,} of {counts[true]:,}"]
            for true, other, count in wrong[:_PAIRS]
        ]
        title = f"The pairs confused most often, by {NAMES[evidence.answering]}"
        return table(title, ["true class", "predicted", "images"], rows) + more(wrong, _PAIRS, "pairs") if rows else ""
    matrix = np.zeros((len(names), len(names)), int)
    for true, other, count in pairs:
        matrix[true, other] = count
    rows = [
        [isolated(name), *(_shaded(int(count), int(row.sum()), at == label) for at, count in enumerate(row))]
        for label, (name, row) in enumerate(zip(names, matrix, strict=True))
    ]
    title = f"Rows are true classes, columns are the answers of {NAMES[evidence.answering]}"
    return table(title, ["", *map(isolated, names)], rows, "matrix")


def classes(evidence: Evidence) -> str:
    """Return an HTML table of precision, recall and other figures of each class. The lowest recall comes first.

    The figures are computed for the model that `predict` uses. Without predictions, return an empty string.
    """
    if not evidence.predictions:
        return ""
    found = sorted(
        evidence.metrics[evidence.answering]["per_class"].items(),
        key=lambda one: (one[1]["recall"] is None, one[1]["recall"] or 0),
    )
    rows = [
        [isolated(name), f"{one['support']:,}", *(figure(one[key]) for key in ("recall", "recall_interval")),
         *(figure(one[key]) for key in ("precision", "f1"))]
        for name, one in found[:_ROWS]
    ]  # fmt: skip
    columns = ["class", "images", "recall", "95 % interval", "precision", "F1"]
    shown = table(f"Each class, by {NAMES[evidence.answering]}, the least recognised first", columns, rows, "numbers")
    shown += more(found, _ROWS, "classes")
    return shown if len(rows) <= _OPENED else f"<details><summary>all {len(found):,} classes</summary>{shown}</details>"


def _shaded(count: int, all: int, right: bool) -> str:
    share = f" style='--share:{count / all:.2f}'" if all and count else ""
    return f"<td class='{'right' if right else 'wrong'}'{share}>{count:,}</td>"
