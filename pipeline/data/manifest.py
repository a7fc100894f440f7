"""Read manifests: lists of images with labels, as CSV, TSV, JSON lines or Parquet."""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.features.errors import DataError, OptionError
from headstart.features.images.files.paths import is_url, shown
from headstart.features.images.files.urls import why_unknown
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.names import as_label, is_text, split_named

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")
_FIELD = re.compile(r"\{([^{}]*)\}")
_Row = Mapping[str, Any]


def is_manifest(path: Path) -> bool:
    """Return whether `path` is a file with the suffix of a manifest."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class Entry:
    """One row of a manifest."""

    path: str  # relative to the manifest's folder, or absolute, or a URL
    label: str | None
    split: str  # "" for none
    group: str | None


def read_manifest(file: Path, config: DataConfig, labelled: bool = True) -> list[Entry]:
    """Read a manifest. Rows with the same path, label and split become one entry.

    Labels are needed if `labelled` is true, `config.label_from` is empty, and `config.layout` is not `none`.

    Raises OptionError for an unknown encoding. Raises DataError in these cases:

    - The file can't be read in the format of its suffix, or has no rows.
    - A needed column is missing or appears twice.
    - A row lacks a path, or lacks a label that is needed, or names an unknown split.
    - A path, label or group can't be written in UTF-8, or a path has a zero byte.
    - A row has another label or split than an earlier row of the same path.
    - A path is a URL of an unknown kind.
    - A path leads out of the manifest's folder, and `config.allow_outside` is not set.
    """
    entries: dict[str, Entry] = {}
    labelled = labelled and not config.label_from and config.layout != "none"
    for number, row in _rows(file, config, labelled):
        entry = entry_of(f"{file}, row {number}", row, config, labelled, os.path.abspath(file.parent))
        before = entries.setdefault(entry.path, entry)
        if (before.label, before.split) != (entry.label, entry.split):
            raise DataError(
                f"{file}, row {number}: {entry.path} is {entry.label!r} {entry.split}, and was {before.label!r} "
                f"{before.split} in an earlier row; keep one of them"
            )
    if not entries:
        raise DataError(f"{file}: has no rows")
    return list(entries.values())


def entry_of(where: str, row: Mapping[str, Any], config: DataConfig, labelled: bool, folder: str) -> Entry:
    """Return the entry of `row`, a dict from columns to values. Raises DataError for a faulty row; see `read_manifest`.

    `labelled` says whether labels are needed. `where` names the row in messages. `folder` is the absolute path of the
    manifest's folder.
    """
    path = _text(row, config.path_column) if not config.path_format else _formatted(where, row, config.path_format)
    if not path:
        raise DataError(f"{where}: {config.path_column} is empty")
    if is_url(path) and (why := why_unknown(path)):
        raise DataError(f"{where}: {shown(path)}: {why}")
    path = path if is_url(path) else _relative(where, os.path.normpath(path), folder)
    told = shown(path) if is_url(path) else path
    if not config.allow_outside and not is_url(path) and (os.path.isabs(path) or path.split(os.sep)[0] == ".."):
        raise DataError(f"{where}: {path} leads out of the list's folder; move the file, or --allow-outside")
    label = _text(row, config.column_of_labels)
    if labelled and not label:
        raise DataError(f"{where}: {config.column_of_labels} is empty for {told}; give it a label, or remove the row")
    group = _text(row, config.group_column)
    for column, text in ((config.path_column, path), (config.column_of_labels, label), (config.group_column, group)):
        if not is_text(text):
            raise DataError(f"{where}: {column} {text[:40]!a} can't be written in UTF-8; give another")
    given = _text(row, config.split_column)
    split = split_named(given) if given else ""
    if split is None:
        raise DataError(f"{where}: {config.split_column} is {given!r}; expected train, val or test")
    return Entry(path, as_label(label) if label else None, split, group or None)


def _relative(where: str, path: str, folder: str) -> str:
    """Make `path` relative to `folder` if `path` lies below `folder`.

    Raises DataError if no file can have this path.
    """
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {path!a} can't be the path of a file ({error.reason})") from error
    if "\0" in path:
        raise DataError(f"{where}: {path!a} can't be the path of a file: it has a zero byte")
    return os.path.relpath(path, folder) if path.startswith(f"{folder}{os.sep}") else path


def _text(row: _Row, column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value).strip()


def _formatted(where: str, row: _Row, pattern: str) -> str:
    """Return `pattern` with the values of `row` in place of each `{column}`. Raises DataError for an empty value."""

    def value(match: re.Match[str]) -> str:
        text = _text(row, match[1])
        if not text:
            raise DataError(f"{where}: {match[1]} of --path-format is empty")
        return text

    return _FIELD.sub(value, pattern)


def _rows(file: Path, config: DataConfig, labelled: bool) -> Iterator[tuple[int, _Row]]:
    """Yield the number and the content of each row. Numbers count from 1.

    Raises DataError if a needed column is missing.
    """
    needed = list(_FIELD.findall(config.path_format)) or [config.path_column]
    default = DataConfig()
    needed += [
        getattr(config, name)
        for name in ("column_of_labels", "split_column", "group_column")
        if getattr(config, name) != getattr(default, name)
    ]
    if labelled:
        needed.append(config.column_of_labels)
    readers = {".jsonl": _json_rows, ".ndjson": _json_rows, ".parquet": _parquet_rows}
    try:
        yield from readers.get(file.suffix.lower(), _csv_rows)(file, config.encoding, list(dict.fromkeys(needed)))
    except LookupError as error:
        raise OptionError(f"--encoding {config.encoding}: {error}") from error
    except UnicodeError as error:
        raise DataError(f"{file}: not {config.encoding} ({error}); say with --encoding what it is") from error


def _require_columns(file: Path, needed: list[str], found: list[str]) -> None:
    if twice := [name for name in needed if found.count(name) > 1]:
        raise DataError(f"{file}: has two columns {twice[0]}; rename one of them")
    if absent := [name for name in needed if name not in found]:
        raise DataError(
            f"{file}: has no column {', '.join(absent)}; it has {', '.join(map(str, found[:12])) or 'none'}; name "
            "them with --path-column, --label-column or --path-format"
        )


def csv_delimiter(header: str) -> str:
    """Return the delimiter of a CSV file: the tab, semicolon or comma, whichever is most frequent in its first line.

    `header` is the first line. If it has none of these marks, return the comma.
    """
    return max("\t;,", key=header.count) if any(mark in header for mark in "\t;,") else ","


def csv_encoding(encoding: str) -> str:
    """Return `encoding`, or `utf-8-sig` if `encoding` is UTF-8. `utf-8-sig` skips the byte order mark of a CSV file."""
    return "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding


def _csv_rows(file: Path, encoding: str, needed: list[str]) -> Iterator[tuple[int, _Row]]:
    with file.open(newline="", encoding=csv_encoding(encoding)) as lines:
        header = lines.readline()
        lines.seek(0)
        delimiter = csv_delimiter(header)
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        try:
            _require_columns(file, needed, list(reader.fieldnames or []))
            for number, row in enumerate(reader, 1):
                if None in row:
                    raise DataError(
                        f"{file}, row {number}: has more fields than the header; quote those with a {delimiter!r}"
                    )
                yield number, row
        except csv.Error as error:
            raise DataError(f"{file}, line {reader.line_num}: can't be read as CSV ({error})") from error


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return `pairs`, the keys and values of a JSON object, as a dict. Raises ValueError if a key appears twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _json_rows(file: Path, encoding: str, needed: list[str]) -> Iterator[tuple[int, _Row]]:
    with file.open(encoding=encoding) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=object_of)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}, row {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(f"{file}, row {number}: expected a JSON object. Received: {line.strip()[:60]}")
            _require_columns(file, needed, list(row))
            yield number, row


def _parquet_rows(file: Path, _: str, needed: list[str]) -> Iterator[tuple[int, _Row]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{file}: reading Parquet needs pyarrow: pip install 'headstart[parquet]'") from error
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            _require_columns(file, needed, table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: can't be read as Parquet ({error})") from error
