"""Rewrite a list of images: change labels, or leave out rows. All other rows and columns stay as they are."""

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headstart.features.errors import DataError, OptionError
from headstart.features.files import sha256_of, write_atomically, written_atomically
from headstart.features.outputs import unwritable
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.manifest import Entry, csv_delimiter, csv_encoding, entry_of, read_manifest
from headstart.pipeline.data.names import as_label
from headstart.pipeline.labels.log import Log, State, kept_list, write_log
from headstart.pipeline.labels.planning import require_classes, require_label
from headstart.pipeline.labels.table import ASIDE, Row

_PathOf = Callable[[Mapping[str, Any]], str]  # returns the path of the image of a row; a row maps columns to values
_BOM = b"\xef\xbb\xbf"


def change_list(file: Path, rows: Sequence[Row], config: DataConfig, log: Log, path: Path) -> set[str]:
    """Change the list `file` by the actions of `rows`. Return the paths of the images that were changed.

    `rows` come from the CSV file of labels. A changed image gets another label, or is removed from the list. Before
    the list changes, its new state is added to `log`, and `log` is written to `path`. Before the first change, the
    original list is copied to `kept_list(path)`.

    Raises:
        OptionError: `config.label_from` is set.
        DataError: a row does not fit the list, a class would have no image left, the list can't be replaced, something
            else changed the list since the log was written, or the copy of the original list is missing or damaged.
    """
    if config.label_from:
        raise OptionError(
            "--label-from: --apply changes the column of labels, and here labels are in paths; rename files"
        )
    if log.states:
        _original(path, log)
        del log.states[_state_of(file, log, path) + 1 :]  # states that a call announced before it was cut off
    changes = _changes(file, rows, read_manifest(file, config), config, log)
    if not changes:
        return set()
    if reason := unwritable(os.path.dirname(os.path.realpath(file))):
        raise DataError(f"{file}: can't be replaced ({reason}); make its folder writable")
    content = _rewritten(file, changes, config)
    if not log.states:
        with written_atomically(kept_list(path)) as partial:
            shutil.copyfile(file, partial)
        log.states.append(State(sha256_of(kept_list(path))))
    log.states.append(State(hashlib.sha256(content).hexdigest(), changes))
    write_log(path, log)
    _replace(file, content)
    return set(changes)


def restore_list(file: Path, log: Log, path: Path) -> int:
    """Undo the changes to the list `file` that `log` records. Return the number of images whose change was undone.

    `path` is the path of the log. Raises DataError if something else has changed the list since the log was written, or
    if the copy of the original list is missing or damaged.
    """
    del log.states[_state_of(file, log, path) + 1 :]
    if log.states[1:]:
        _replace(file, _original(path, log))
    return len(_made(log))


def _state_of(file: Path, log: Log, path: Path) -> int:
    """Return the index of the list's present state in `log.states`. Raises DataError if this state is not there."""
    now = sha256_of(file)
    for at, state in enumerate(log.states):
        if state.sha256 == now:
            return at
    raise DataError(
        f"{file}: was changed by something else since {path} was written, which --undo would lose; the list as it was "
        f"before --apply is in {kept_list(path)}. To keep {file} as it is now, move both of these files elsewhere"
    )


def _original(path: Path, log: Log) -> bytes:
    """Return the content that the list had before all changes in `log`.

    The content is read from the list's copy, `kept_list(path)`. Raises DataError if the copy is missing or damaged.
    """
    kept = kept_list(path)
    try:
        content = kept.read_bytes() if kept.is_file() else b""
    except OSError as error:
        raise DataError(f"{kept}: can't be read ({error.strerror}); it holds the list as it was") from error
    if hashlib.sha256(content).hexdigest() != log.states[0].sha256:
        raise DataError(f"{kept}: missing, damaged or replaced; it should hold {log.data} as it was before --apply")
    return content


def _made(log: Log) -> dict[str, str]:
    """Return a dict from the path of each image in `log` to the image's last action. `log` is the log of a list."""
    return {path: action for state in log.states for path, action in state.rows.items()}


def _replace(file: Path, content: bytes) -> None:
    """Replace the content of a file, and keep its mode. If `file` is a link, its target is replaced."""
    file = Path(os.path.realpath(file))
    mode = file.stat().st_mode
    write_atomically(file, content)
    file.chmod(mode)


def _changes(file: Path, rows: Sequence[Row], entries: Sequence[Entry], config: DataConfig, log: Log) -> dict[str, str]:
    """Return the changes in `rows` that are still to be made: a dict from the path of each image to its action."""
    by_path = {entry.path: entry for entry in entries}
    require_classes(rows, sorted({entry.label for entry in entries if entry.label}), file)
    changes: dict[str, str] = {}
    made = _made(log)
    for row in rows:
        entry = by_path.get(row.path)
        if entry is None and made.get(row.path) == row.action == ASIDE:
            continue
        if entry is None:
            raise DataError(f"{row.where}: {row.path!r} has no row in {file}; it was removed, renamed or never there")
        if entry.label == as_label(row.action):
            continue
        require_label(row, entry.label, "" if config.resplit else entry.split, file)
        changes[row.path] = row.action
    left = {as_label(changes.get(one.path, one.label or "")) for one in entries if changes.get(one.path) != ASIDE}
    if lost := {entry.label for entry in entries if entry.label} - left:
        raise DataError(f"{file}: class {min(lost)!r} would have no image left; empty the action of one of its images")
    return changes


def _rewritten(file: Path, changes: Mapping[str, str], config: DataConfig) -> bytes:
    """Apply `changes` to a copy of the content of `file`, and return the copy.

    `file` is a list of images. `changes` is a dict from the path of an image to the image's action.
    """
    folder = os.path.abspath(file.parent)

    def path_of(row: Mapping[str, Any]) -> str:
        return entry_of(str(file), row, config, True, folder).path

    if file.suffix.lower() == ".parquet":
        return _parquet(file, changes, config.column_of_labels, path_of)
    content = file.read_bytes()
    is_json = file.suffix.lower() in (".jsonl", ".ndjson")
    encoding = config.encoding if is_json or not content.startswith(_BOM) else csv_encoding(config.encoding)
    text = content.decode(encoding)
    records = list(_json_records(text) if is_json else _csv_records(text))
    spelt = _spellings([row for _, row, _ in records], config.column_of_labels)
    lines = []
    for line, row, written in records:
        action = changes.get(path_of(row)) if row else None
        if action is None:
            lines.append(line)
        elif action != ASIDE:
            lines.append(written({**row, config.column_of_labels: spelt[as_label(action)]}))
    return "".join(lines).encode(encoding)


def _spellings(rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, Any]:
    """Return a dict from the name of each class to the value that stands for the class in `column` of `rows`.

    Such a value may be a number.
    """
    return {as_label(str(row[column]).strip()): row[column] for row in reversed(rows) if row.get(column) is not None}


# Three parts: the text of a record; its values by column, or {} if it is no row; a function that formats other values.
_Record = tuple[str, Mapping[str, Any], Callable[[Mapping[str, Any]], str]]


def _csv_records(text: str) -> Iterator[_Record]:
    """Yield the records of a CSV file, including the header and empty lines."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            taken.append(line)
            yield line

    delimiter, header = csv_delimiter(io.StringIO(text, newline="").readline()), list[str]()
    for cells in csv.reader(lines(), delimiter=delimiter, strict=True):
        record = "".join(taken)
        taken.clear()
        end = record[len(record.rstrip("\r\n")) :]

        def written(row: Mapping[str, Any], end: str = end) -> str:
            line = io.StringIO(newline="")
            csv.writer(line, delimiter=delimiter, lineterminator=end).writerow(row.values())
            return line.getvalue()

        yield record, dict(zip(header, cells, strict=False)) if header else {}, written
        header = header or cells


def _json_records(text: str) -> Iterator[_Record]:
    for line in io.StringIO(text, newline=""):
        end = line[len(line.rstrip("\r\n")) :]

        def written(row: Mapping[str, Any], end: str = end) -> str:
            return json.dumps(row, ensure_ascii=False) + end

        yield line, json.loads(line) if line.strip() else {}, written


def _parquet(file: Path, changes: Mapping[str, str], column: str, path_of: _PathOf) -> bytes:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    rows = table.to_pylist()
    spelt = _spellings(rows, column)
    actions = [changes.get(path_of(row)) for row in rows]
    labels = [
        spelt[as_label(action)] if action and action != ASIDE else row[column]
        for row, action in zip(rows, actions, strict=True)
    ]
    at = table.schema.get_field_index(column)
    changed = table.set_column(at, table.schema.field(at), pyarrow.array(labels, table.schema.field(at).type))
    written = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(changed.filter([action != ASIDE for action in actions]), written)
    return bytes(written.getvalue())
