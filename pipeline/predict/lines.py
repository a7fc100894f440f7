"""Predictions as CSV and as JSON lines. The predictions are appended to a file one by one.

If a command is killed, the last line of the file may be cut off. The next command with `--append` then removes this
line, and classifies its image again.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from headstart.features.errors import DataError
from headstart.features.files import flush_to_disk
from headstart.features.terminal import console
from headstart.pipeline.predict.done import Done, Output, lock_output
from headstart.pipeline.predict.items import Item, Layout
from headstart.pipeline.spreadsheets import csv_line, spreadsheet_safe


@dataclass(frozen=True)
class _Form:
    """How predictions and rejects are written as lines of a file, and how these lines are read again."""

    header: bytes
    encode: Callable[[Item], bytes]
    path: Callable[[str], str]  # returns a path in the form that it has in the file
    parse: Callable[[bytes], str | None]  # returns the path in a line; None if the line is of another layout
    quotes: bool  # whether a line break within quotes is part of a line
    start: bytes = b""  # the first bytes of every line


@contextmanager
def open_lines(output: Path, layout: Layout) -> Iterator[Output]:
    """Open a `.csv` or `.jsonl` file for the rows of `layout`; see `open_output`."""
    form = _csv_form(layout) if output.suffix.lower() == ".csv" else _json_form(layout)
    with output.open("a+b") as file:
        lock_output(file, output)
        done = _take_up(file, output, form)
        yield _Lines(file, form, done)
        file.flush()
        flush_to_disk(output)


class _Lines:
    def __init__(self, file: BinaryIO, form: _Form, done: Done) -> None:
        self._file, self._form, self._done = file, form, done

    def is_done(self, path: str) -> bool:
        return self._form.path(path) in self._done

    def write(self, item: Item) -> None:
        self._file.write(self._form.encode(item))
        self._file.flush()


def _take_up(file: BinaryIO, output: Path, form: _Form) -> Done:
    """Return the paths in `file`, after removing an unfinished last line or writing a missing header."""
    done, end = Done(), len(form.header)
    file.seek(0)
    begin = file.read(end)
    if begin != form.header and not form.header.startswith(begin):
        raise _other(output, 1)
    if len(begin) < end:
        file.truncate(0)
        file.write(form.header)
        return done
    number = form.header.count(b"\n") + 1
    for line in _lines(file, form, output, number):
        whole = _is_whole(line, form)
        path = form.parse(line) if whole else None
        if not whole and line.startswith(form.start[: len(line)]):
            console.print(f"{output}: its last line was cut off; its image is classified again")
            file.truncate(end)
            break
        if path is None:
            raise _other(output, number)
        done.add(path)
        end, number = end + len(line), number + line.count(b"\n")
    return done


def _lines(file: BinaryIO, form: _Form, output: Path, number: int) -> Iterator[bytes]:
    """Yield the remaining lines of `file`. The last one may be unfinished."""
    line = b""
    for piece in file:
        if line and not piece.count(b'"') % 2 and form.parse(piece) is not None:
            raise DataError(f"--output {output}: line {number} has a quote too many; correct it, or name another file")
        line += piece
        if _is_whole(line, form):
            yield line
            line, number = b"", number + line.count(b"\n")
    if line:
        yield line


def _is_whole(line: bytes, form: _Form) -> bool:
    return line.endswith(b"\n") and not (form.quotes and line.count(b'"') % 2)


def _other(output: Path, number: int) -> DataError:
    return DataError(
        f"--output {output}: line {number} is not of this run, model and options (--top, --probabilities, --views, "
        "--threshold, --abstain, --conformal, --seed); --append goes on only with those: name another file"
    )


def _csv_form(layout: Layout) -> _Form:
    columns = list(layout.columns())

    def encode(values: Sequence[Any]) -> bytes:
        return csv_line(map(_cell, values)).encode(errors="surrogateescape")

    def parse(line: bytes) -> str | None:
        with suppress(csv.Error, ValueError):
            (row,) = csv.reader(io.StringIO(line.decode(errors="surrogateescape"), newline=""))
            if len(row) == len(columns) and row[columns.index("model")] == layout.model:
                return row[0]
        return None

    return _Form(encode(columns), lambda item: encode(layout.row(item)), spreadsheet_safe, parse, quotes=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _json_form(layout: Layout) -> _Form:
    def encode(item: Item) -> bytes:
        # Bytes of a name that are not UTF-8 become escapes, which JSON reads as Python's surrogates.
        return (json.dumps(layout.json(item), ensure_ascii=False) + "\n").encode(errors="backslashreplace")

    def parse(line: bytes) -> str | None:
        with suppress(ValueError, RecursionError):
            found = json.loads(line)
            if isinstance(found, dict) and found.get("model") == layout.model and _fits(found, layout):
                return str(found["path"])
        return None

    return _Form(b"", encode, lambda path: path, parse, quotes=False, start=b'{"path": ')


def _fits(found: dict[str, Any], layout: Layout) -> bool:
    """Return whether a JSON object has the fields of `layout`."""
    if "path" not in found or "rejected" in found:
        return "path" in found
    top = found.get("top", [None])
    return isinstance(top, list) and len(top) == layout.top and ("probabilities" in found) == layout.every
