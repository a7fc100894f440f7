"""The log of `--apply`, from which `--undo` restores the labels. It is written before the first change.

A log belongs to one CSV file of labels: a further `--apply` of this file adds to its log.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
from headstart.features.errors import DataError
from headstart.features.files import read_json, write_atomically

_SUFFIX, _KEPT_SUFFIX = ".undo.json", ".undo.list"


@dataclass(frozen=True)
class Move:
    """The move of a file. Both paths are relative to DATA."""

    source: str
    target: str
    action: str  # `aside`, or the name of a class


@dataclass
class Log:
    """The changes that were made by one CSV file, or are about to be made."""

    moves: list[Move] = field(default_factory=list)  # of the images of a folder; each path occurs once
    folders: list[str] = field(default_factory=list)  # made for `moves`, parents first; relative to DATA
    states: list[str] = field(default_factory=list)  # SHA-256 of a list before the changes, and after each --apply
    rows: dict[str, str] = field(default_factory=dict)  # the action for each changed path of a list


def log_of(table: Path) -> Path:
    """Return the path of the log of the CSV file `table`, such as `labels.undo.json` beside `labels.csv`."""
    return table.with_name(table.stem + _SUFFIX)


def kept_list(log: Path) -> Path:
    """Return the path of the copy of a list from before the changes of `log`."""
    return log.with_name(log.name.removesuffix(_SUFFIX) + _KEPT_SUFFIX)


def read_log(path: Path) -> Log:
    """Read a log. Raises DataError if the file can't be read or is no log."""
    try:
        return msgspec.convert(read_json(path), Log)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); name the log that --apply named") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise DataError(f"{path}: not a log of --apply ({error}); name the log that --apply named") from error


def write_log(path: Path, log: Log) -> None:
    """Write a log. Names that are not UTF-8 are kept as escapes."""
    write_atomically(path, json.dumps(asdict(log), indent=2) + "\n")
