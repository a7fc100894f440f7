"""Remove the results of an earlier fine-tuned classifier from the files that `evaluate` wrote.

The results of the head stay.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from headstart.features.files import written_atomically
from headstart.pipeline.runs import Run
from headstart.pipeline.spreadsheets import csv_line, original_text

_MODEL = "finetuned"
_FIELDS = (_MODEL, "better", "mcnemar")  # `better` and `mcnemar` compare the classifier with the head
_OF_THE_MODEL = ("model", "predicted", "probability")  # columns of `predictions-<split>.csv`


def forget_classifier(run: Run) -> None:
    """Remove the results of the classifier from the metrics, the predictions and the confusion counts in `run`."""
    if evaluated := run.metrics().get("evaluate"):
        left = {
            split: {name: value for name, value in fields.items() if name not in _FIELDS}
            for split, fields in evaluated.items()
        }
        run.update(run.metrics_file, evaluate=left)
    for file in (*run.path.glob("predictions-*.csv"), *run.path.glob("confusion-*.csv")):
        _rewrite(file, drop_rows=file.name.startswith("confusion-"))


def _rewrite(path: Path, drop_rows: bool) -> None:
    """Remove the predictions of the fine-tuned classifier from a CSV file. For `drop_rows`, see `_of_the_head`."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        with (
            written_atomically(path) as partial,
            partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as out,
        ):
            kept = [at for at, name in enumerate(header) if not name.startswith(f"{_MODEL}:")]
            for row in (header, *_of_the_head(header, rows, drop_rows)):
                out.write(csv_line(original_text(row[at]) for at in kept))


def _of_the_head(header: Sequence[str], rows: Iterator[list[str]], drop_rows: bool) -> Iterator[list[str]]:
    """Yield `rows` without the predictions of the fine-tuned classifier.

    If `drop_rows` is true, leave out the classifier's rows. Otherwise, keep these rows, and replace their predictions
    by empty cells.
    """
    predicted = [at for at, name in enumerate(header) if name in _OF_THE_MODEL]
    for row in rows:
        if "model" not in header or row[header.index("model")] != _MODEL:
            yield row
        elif not drop_rows:
            yield ["" if at in predicted else cell for at, cell in enumerate(row)]
