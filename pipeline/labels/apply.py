"""`headstart labels DATA --apply FILE` changes labels, and `headstart labels DATA --undo LOG` restores them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from headstart.features.errors import DataError, OptionError
from headstart.features.files import remove_left_over
from headstart.features.locks import folder_locked
from headstart.features.terminal import console
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.reading import read_data
from headstart.pipeline.data.tars.naming import kind_of
from headstart.pipeline.labels.lists import change_list, restore_list
from headstart.pipeline.labels.log import Log, kept_list, log_of, new_log, read_log, write_log
from headstart.pipeline.labels.moves import move_all, move_back
from headstart.pipeline.labels.planning import plan
from headstart.pipeline.labels.result import Changed
from headstart.pipeline.labels.table import Row, read_table


def apply(data: Path, table: Path, reading: DataConfig = DataConfig()) -> Changed:
    """Change the labels of `data` by the actions in the CSV file `table`. All rows are checked before one is applied.

    If `data` is a folder, images are moved to the folder of another class, or renamed if their names tell the class.
    Images with the action `aside` are moved to the folder `.aside`. If `data` is a list, the list is rewritten, and
    images with the action `aside` lose their row. A log is kept beside `table`, for `undo`. If an earlier call was cut
    off, its remaining moves are made first.

    Raises DataError if a row does not fit `data`, or if another call is changing labels in the same folder. Raises
    OptionError for tars, for the layout `v1`, and for a list with `reading.label_from`.
    """
    if reading.layout == "v1":
        raise OptionError("--layout v1: --apply moves images of folders that are read by auto; leave it out")
    if kind_of(data) == "tars":
        raise OptionError(f"--apply {table}: labels in tars, as in {data}, are not changed; extract the tars first")
    rows, path = read_table(table), log_of(table)
    files = read_data(data, reading)
    console.print("\n".join(files.reading.lines))
    with _claimed(data):
        log = read_log(path, data) if os.path.lexists(path) else new_log(data)
        if data.is_file():
            changed = change_list(data, rows, reading, log, path)
        else:
            changed = _move(data, rows, reading, log, path)
    there = sum(row.path not in changed for row in rows)
    told = f"{data}: {len(changed):,} labels changed" + (f", {there:,} were changed before" if there else "")
    return Changed(len(read_data(data, reading).paths), len(changed), 0, path if path.exists() else None, told)


def undo(data: Path, path: Path, reading: DataConfig = DataConfig()) -> Changed:
    """Undo the changes in the log at `path`, and remove the log.

    `data` is a folder or a list. Raises DataError if the log belongs to other data. Also raises DataError if, since the
    log was written, something else has moved an image of the folder or changed the list. In these cases, nothing is
    undone.
    """
    with _claimed(data):
        log = read_log(path, data)
        undone = restore_list(data, log, path) if data.is_file() else move_back(data, log, path)
        path.unlink()
        if log.states:
            kept_list(path).unlink(missing_ok=True)
    count = len(read_data(data, reading).paths)
    return Changed(count, 0, undone, None, f"{data}: {undone:,} changes taken back; {path} is removed")


def _move(data: Path, rows: Sequence[Row], reading: DataConfig, log: Log, path: Path) -> set[str]:
    """Make the moves that are left in `log`, then move the images of `rows`. Returns the old paths of moved images."""
    moved = move_all(data, log, path)
    if moved:
        console.print(f"{path}: {len(moved)} moves of an earlier call were left, and were made now")
    if moves := plan(data, rows, reading, log):
        log.moves.extend(moves)
        write_log(path, log)
        moved += move_all(data, log, path)
    return set(moved)


@contextmanager
def _claimed(data: Path) -> Iterator[None]:
    """Lock the folder `data`. If `data` is a list file, lock the folder of this file.

    Raises DataError if another command has locked the same folder.
    """
    folder = data if data.is_dir() else Path(os.path.realpath(data)).parent
    try:
        with folder_locked(folder, wait=False):
            remove_left_over(folder)
            yield
    except BlockingIOError as error:
        raise DataError(f"{folder}: another command of headstart changes it; wait until it ends") from error
