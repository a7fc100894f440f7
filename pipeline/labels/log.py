"""The log of `--apply`, from which `--undo` restores the labels. `--apply` writes the log before the first change.

A log belongs to one CSV file of labels and to one DATA. If `--apply` is used again with the same file and the same
DATA, the log is extended.
"""

import json
import os
from pathlib import Path
from typing import Literal

import msgspec
from headstart.features.errors import DataError
from headstart.features.files import read_json, write_atomically

_SUFFIX, _KEPT_SUFFIX = ".undo.json", ".undo.list"


class Move(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The move of a file. Both paths are relative to DATA."""

    source: str
    target: str
    action: str  # `aside`, or the name of a class


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A state that a list once had: before the first `--apply`, or after one of the calls of `--apply`."""

    sha256: str
    rows: dict[str, str] = {}  # the action for each path that this call changed


class Log(msgspec.Struct, forbid_unknown_fields=True):
    """The changes to DATA by all calls of `--apply` with the same CSV file of labels.

    The log is written before the changes. So the last changes may not have been made yet.
    """

    kind: Literal["log of headstart labels"]  # tells a log from other files
    data: str  # the real path of DATA
    moves: list[Move] = []  # of the images of a folder; each path occurs once
    folders: list[str] = []  # made for `moves`, parents first; relative to DATA
    states: list[State] = []  # of a list, the oldest first


def log_of(table: Path) -> Path:
    """Return the path of the log of the CSV file `table`, such as `labels.csv.undo.json` for `labels.csv`."""
    return table.with_name(table.name + _SUFFIX)


def kept_list(log: Path) -> Path:
    """Return the path at which DATA is copied, such as `labels.csv.undo.list`. `log` is the path of the log.

    There is a copy only if DATA is a list file and not a folder. `--apply` makes the copy before the first change.
    """
    return log.with_name(log.name.removesuffix(_SUFFIX) + _KEPT_SUFFIX)


def new_log(data: Path) -> Log:
    """Return a log for `data` that has no changes yet."""
    return Log("log of headstart labels", os.path.realpath(data))


def read_log(path: Path, data: Path) -> Log:
    """Read the log at `path`. Raises DataError if the file can't be read, is no log, or is the log of other data."""
    try:
        if not path.name.endswith(_SUFFIX):
            raise ValueError(f"its name does not end with {_SUFFIX}")
        log = msgspec.convert(read_json(path), Log)
        _require_sound(log)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); name the log that --apply named") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise DataError(f"{path}: not a log of --apply ({error}); name the log that --apply named") from error
    if log.data != os.path.realpath(data):
        raise DataError(
            f"{path}: is the log of {log.data}, and DATA is {data}; name the DATA of the log, or, if it was moved to "
            f"{data}, write its new path into `data` of the log"
        )
    if bool(log.states) != data.is_file():
        kinds = ("a list", "a folder") if log.states else ("a folder", "a list")
        raise DataError(f"{path}: is the log of {kinds[0]} of images, and {data} is {kinds[1]}; name another log")
    return log


def _require_sound(log: Log) -> None:
    """Raise a ValueError if a log could not have been written by `write_log`."""
    if bool(log.moves) == bool(log.states):
        raise ValueError("it has neither moves nor states" if not log.moves else "it has both moves and states")
    names = [name for move in log.moves for name in (move.source, move.target)]
    once = set(names)
    if len(once) < len(names):
        raise ValueError("a path occurs twice in its moves")
    for name in names:
        if above := next((parent for parent in map(str, Path(name).parents) if parent in once), None):
            raise ValueError(f"{above} is a file and a folder in its moves")


def write_log(path: Path, log: Log) -> None:
    """Write a log. Names that are not UTF-8 are kept as escapes."""
    write_atomically(path, json.dumps(msgspec.to_builtins(log), indent=2) + "\n")
