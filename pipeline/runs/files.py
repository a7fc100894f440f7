"""Read and write the JSON and CSV files of a run. A run may come from elsewhere, so very large files are not read."""

import csv
import itertools
import json
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from headstart.features.errors import RunError
from headstart.features.files import written_atomically
from headstart.pipeline.spreadsheets import csv_line, original_text

REMEDY = "copy the run anew, or train it again"
_JSON_BYTES = 512 << 20  # `metrics.json` of 1,500 classes had 34 MB per split in earlier versions
_CSV_BYTES = 8 << 30
_LINE = 16 << 20  # characters; the logits of 100,000 classes fit


def read_json(file: Path, remedy: str = REMEDY) -> dict[str, Any]:
    """Return the JSON object in `file`.

    Raises a RunError, whose message ends with `remedy`, in these cases:

    - The file is missing, or is over 512 MiB.
    - The file does not hold a JSON object.
    - The JSON object has a number that is NaN or infinite.
    """
    require_regular(file, _JSON_BYTES, remedy)
    try:
        content = json.loads(file.read_text("utf-8", "surrogateescape"), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise RunError(f"{file}: nested too deeply; {remedy}") from error
    except ValueError as error:
        raise RunError(f"{file}: not JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise RunError(f"{file}: expected a JSON object; {remedy}")
    return content


def without_null(values: Any, *inner: str) -> Any:
    """Return the JSON object `values` without the fields that are None.

    If `values` is no object, `values` is returned unchanged. The arguments `inner` are names of fields. If such a field
    holds an object, fields that are None are removed from this object, too.
    """
    if not isinstance(values, Mapping):
        return values
    kept = {name: value for name, value in values.items() if value is not None}
    return kept | {name: without_null(kept[name]) for name in inner if name in kept}


def read_csv(path: Path, columns: Sequence[str] = (), remedy: str = REMEDY) -> list[dict[str, str]]:
    """Return the rows of the CSV file at `path`; see `csv_rows`."""
    return list(csv_rows(path, columns, remedy))


def csv_rows(path: Path, columns: Sequence[str] = (), remedy: str = REMEDY) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file that `write_csv` wrote. A row is a dict from column name to text.

    Raises a RunError if the file is missing or over 8 GiB, if it lacks one of the columns `columns`, if a row can't be
    read, or if a row has more or fewer cells than the header. The message ends with `remedy`.
    """
    require_regular(path, _CSV_BYTES, remedy)
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(_lines(file, path, remedy))
        try:
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            if lacking:
                raise RunError(f"{path}: has no column {lacking[0]!r}; {remedy}")
            for row in reader:
                if None in row or None in row.values():
                    raise RunError(f"{path}: line {reader.line_num} has another number of columns; {remedy}")
                yield {original_text(name): original_text(value) for name, value in row.items()}
        except csv.Error as error:
            raise RunError(f"{path}: line {reader.line_num} can't be read ({error}); {remedy}") from error


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically. A text that a spreadsheet would run as a formula gets a `'` in front."""
    with (
        written_atomically(path) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        file.writelines(map(csv_line, itertools.chain([header], rows)))


def require_regular(file: Path, most: int, remedy: str = REMEDY) -> None:
    """Raise a RunError unless `file` is a regular file of at most `most` bytes. The message ends with `remedy`.

    A pipe is refused, because opening a pipe might never end.
    """
    try:
        status = file.stat()
    except FileNotFoundError as error:
        raise RunError(f"{file}: is missing; {remedy}") from error
    if not stat.S_ISREG(status.st_mode):
        raise RunError(f"{file}: is no regular file; {remedy}")
    if status.st_size > most:
        raise RunError(f"{file}: has {status.st_size} bytes, more than {most}; {remedy}")


def _lines(file: TextIO, path: Path, remedy: str) -> Iterator[str]:
    """Yield the lines of `file`. Raises RunError for a huge line, which might fill the memory."""
    while line := file.readline(_LINE):
        if len(line) == _LINE:
            raise RunError(f"{path}: has a line of {_LINE} characters or more; {remedy}")
        yield line


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
