"""The CSV file of likely label errors. A person edits its column `action`, which says how to change each label."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headstart.features.errors import DataError, OptionError
from headstart.features.files import write_atomically
from headstart.features.outputs import require_place
from headstart.pipeline.labels.result import Suspect
from headstart.pipeline.spreadsheets import csv_line, original_text

_COLUMNS = ("path", "label", "suggested", "score", "conflict", "action")
_NEEDED = ("path", "label", "action")
SUGGESTED, ASIDE = "suggested", "aside"  # actions; any other action is the name of a class


@dataclass(frozen=True)
class Row:
    """A row that has an action, from the CSV file of labels."""

    where: str  # file and number of the row, for messages
    path: str  # relative to DATA, or to the folder of the list
    label: str  # the image's label when the file was written
    action: str  # `aside`, or the name of a class
    conflict: str = ""  # equal for copies and near-duplicates with different labels; empty for other images


def write_table(path: Path, suspects: Iterable[Suspect]) -> None:
    """Write a CSV file to `path`, with a row for each of `suspects`. The column `action` is left empty."""
    rows = [(one.name, one.label, one.suggested or "", round(one.score, 4), one.conflict or "", "") for one in suspects]
    write_atomically(path, "".join(map(csv_line, [_COLUMNS, *rows])))


def require_table(flag: str, path: Path) -> None:
    """Raise an error if no CSV file of labels can be written to `path`, the value of the option `flag`.

    Raises OptionError if no file can be made at `path`, if `path` is a link, or if the file at `path` is no CSV file of
    labels. Raises DataError if `path` is a CSV file of labels with actions, because the actions would be lost.
    """
    require_place(flag, path)
    if path.is_symlink():
        raise OptionError(f"{flag} {path}: is a link; name the file itself")
    if not path.exists():
        return
    try:
        header, _ = _records(path)
    except DataError:
        header = []
    if tuple(header) != _COLUMNS:
        raise OptionError(f"{flag} {path}: exists and was not written by --csv; give another name")
    if rows := read_table(path):
        raise DataError(f"{rows[0].where}: has an action; --csv would lose it: name another file, or remove this one")


def read_table(path: Path) -> list[Row]:
    """Read a CSV file of labels. Return the rows that have an action. Equal actions for the same image give one row.

    Raises DataError if the file can't be read as CSV, lacks a column, or has different actions for one image. Actions
    must not exchange the labels of two images that are copies of each other. For another error, see `_row`.
    """
    header, records = _records(path)
    if lacking := [name for name in _NEEDED if name not in header]:
        raise DataError(f"{path}: has no column {lacking[0]}; expected {', '.join(_COLUMNS)}, as --csv writes them")
    rows: dict[str, Row] = {}
    for number, cells in enumerate(records, 2):  # as a spreadsheet counts, where the header is row 1
        where = f"{path}, row {number}"
        if len(cells) > len(header):
            raise DataError(f"{where}: has more cells than the header; write it as --csv does")
        row = _row(where, dict(zip(header, cells, strict=False)))
        if row and rows.setdefault(row.path, row).action != row.action:
            raise DataError(f"{row.where}: {row.path} has the action {row.action}, and an earlier row has another")
    _require_no_exchange(rows.values())
    return list(rows.values())


def _records(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the other records of a CSV file. Raises DataError if the file can't be read as CSV."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is no regular file; name the file that --csv wrote")
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); name the file that --csv wrote") from error
    first = text.partition("\n")[0]
    delimiter = max(",\t;", key=first.count)  # a spreadsheet program may have changed the delimiter
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return next(reader, []), list(reader)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: can't be read as CSV ({error})") from error


def _row(where: str, cells: Mapping[str, str]) -> Row | None:
    """Return a record of the CSV file as a `Row`, or None if the record asks for no change."""
    value = {name: original_text(cells.get(name, "")) for name in _COLUMNS}
    action = original_text(cells.get("action", "").strip()).strip()
    if action == SUGGESTED:
        action = value["suggested"]
        if not action and not value["conflict"].strip():  # in a conflict, the label itself is suggested
            raise DataError(f"{where}: the action is suggested, and the column suggested is empty; name a class")
    if not action or action in (value["label"], value["label"].strip()):
        return None
    return Row(where, value["path"], value["label"], action, value["conflict"].strip())


def _require_no_exchange(rows: Iterable[Row]) -> None:
    """Raise DataError if the changes in `rows` exchange the labels of two copies or near-duplicates."""
    seen: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        seen[row.conflict, row.label, row.action] = row
        other = seen.get((row.conflict, row.action, row.label))
        if row.conflict and other:  # after an exchange, their labels would still differ
            raise DataError(
                f"{row.where}: {row.path} and {other.path} are copies or near-duplicates, and would exchange their "
                "labels; empty one of the two actions"
            )
