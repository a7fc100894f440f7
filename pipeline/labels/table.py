"""The CSV file of likely label errors. A person edits its column `action`, which gives the change of each image."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from headstart.features.errors import DataError
from headstart.features.files import write_atomically
from headstart.pipeline.labels.result import Suspect
from headstart.pipeline.spreadsheets import csv_line, original_text

_COLUMNS = ("path", "label", "suggested", "score", "action")
_NEEDED = ("path", "label", "action")
SUGGESTED, ASIDE = "suggested", "aside"  # actions; any other action is the name of a class


@dataclass(frozen=True)
class Row:
    """A row of the file that has an action."""

    where: str  # file and number of the row, for messages
    path: str  # relative to DATA, or to the folder of the list
    label: str  # the image's label when the file was written
    action: str  # `aside`, or the name of a class


def write_table(path: Path, suspects: Iterable[Suspect]) -> None:
    """Write a row with an empty action for each of `suspects` to the CSV file `path`."""
    rows = [(one.name, one.label, one.suggested, round(one.score, 4), "") for one in suspects]
    write_atomically(path, "".join(map(csv_line, [_COLUMNS, *rows])))


def require_replaceable(path: Path) -> None:
    """Raise a DataError if the CSV file `path` exists and holds actions, which would be lost."""
    if path.exists() and (rows := read_table(path)):
        raise DataError(f"{rows[0].where}: has an action; --csv would lose it: name another file, or remove this one")


def read_table(path: Path) -> list[Row]:
    """Read the rows of a CSV file that have an action. Several rows with the same image and action count once.

    Raises DataError if the file can't be read as CSV, lacks a column, or has different actions for one image.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); name the file that --csv wrote") from error
    header = text.partition("\n")[0]
    delimiter = max(",\t;", key=header.count)  # a spreadsheet program may have changed the delimiter
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: dict[str, Row] = {}
    try:
        if lacking := [name for name in _NEEDED if name not in (reader.fieldnames or [])]:
            raise DataError(f"{path}: has no column {lacking[0]}; expected {', '.join(_COLUMNS)}, as --csv writes them")
        for number, cells in enumerate(reader, 1):
            row = _row(f"{path}, row {number}", cells)
            if row and rows.setdefault(row.path, row).action != row.action:
                raise DataError(f"{row.where}: {row.path} has the action {row.action}, and an earlier row has another")
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: can't be read as CSV ({error})") from error
    return list(rows.values())


def _row(where: str, cells: dict[str, str | None]) -> Row | None:
    """Return the row of `cells`, or None if it has no action or its action is its label.

    The action `suggested` is replaced by the name of the suggested class.
    """
    if None in cells:
        raise DataError(f"{where}: has more cells than the header; write it as --csv does")
    value = {name: original_text(cells.get(name) or "") for name in _COLUMNS}
    action = value["action"]
    if not action.strip() or action == value["label"]:
        return None
    if action.strip() == SUGGESTED:
        action = value["suggested"]
        if not action:
            raise DataError(f"{where}: the action is suggested, and the column suggested is empty; name a class")
    return Row(where, value["path"], value["label"], ASIDE if action.strip() == ASIDE else action)
