"""Plan the moves of a folder's images to other classes. All moves are checked before the first is made."""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from headstart.features.errors import DataError
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.layouts import Reading
from headstart.pipeline.data.names import as_label, listed, with_label
from headstart.pipeline.data.reading import folder_names, read_names
from headstart.pipeline.labels.log import Log, Move
from headstart.pipeline.labels.moves import require_inside, require_writable
from headstart.pipeline.labels.table import ASIDE, SUGGESTED, Row

ASIDE_FOLDER = ".aside"  # in DATA; scans leave hidden folders out
_LONGEST = 255  # bytes of a file's name


def require_classes(rows: Sequence[Row], class_names: Sequence[str], data: Path) -> None:
    """Raise a DataError if a class is named `aside` or `suggested`, or if an action is neither `aside` nor a class."""
    known = set(class_names)
    if both := known & {ASIDE, SUGGESTED}:
        raise DataError(f"{data}: its class {min(both)} is called like an action of --apply; rename the class first")
    for row in rows:
        if row.action != ASIDE and as_label(row.action) not in known:
            raise DataError(
                f"{row.where}: the action {row.action!r} is no class of {data}; expected aside, suggested or one of "
                f"{listed(sorted(known))}"
            )


def require_label(row: Row, label: str | None, split: str, data: Path) -> None:
    """Raise a DataError if an image's label has changed since `row` was written, or if the image is in test.

    `label` and `split` are the current label and split of the image. `label` is None if the image has no class.
    """
    if label is None or label != as_label(row.label):
        now = f"is {label!r} now" if label is not None else "has no class"
        raise DataError(
            f"{row.where}: {row.path} {now}, and was {row.label!r} when the file was written; run `headstart labels "
            f"{data} --csv FILE` again, or empty the action"
        )
    if split == "test":
        raise DataError(f"{row.where}: {row.path} is of the test split, whose labels stay; empty the action")


def plan(data: Path, rows: Sequence[Row], config: DataConfig, log: Log) -> list[Move]:
    """Return the moves for `rows`, without the moves that are in `log` already.

    Raises DataError if a row does not fit the folder, if a file can't be moved, or if headstart would read an image
    with a wrong split or class after the moves. The split of an image must stay the same. The class must stay the same,
    too, unless a row names another class.
    """
    names, listing = folder_names(data)
    before = read_names(names, str(data), config, listing.empty)
    require_classes(rows, before.class_names, data)
    place = {name: at for at, name in enumerate(names)}
    made = {move.source: move for move in log.moves}
    targets = {move.target for move in log.moves}
    taken, moves = {*made, *targets}, list[Move]()
    for row in rows:
        done = made.get(row.path)
        if done and row.path not in place and done.action == row.action:
            continue
        if done or row.path in targets:
            raise DataError(f"{row.where}: {row.path} was moved before; take this back first: --undo the log")
        if row.path not in place:
            raise DataError(
                f"{row.where}: {row.path!r} is not an image of {data}; it was moved, renamed or never there"
            )
        at = place[row.path]
        require_label(row, before.labels[at], before.splits[at], data)
        require_inside(data, row.path, row.where)
        target = _target(data, row, before, names, config, taken)
        require_inside(data, target, row.where)
        taken.add(target)
        moves.append(Move(row.path, target, row.action))
    _require_reading(data, moves, names, before, config, listing.empty)
    require_writable(data, (name for move in moves for name in (move.source, move.target)))
    return moves


def _require_reading(
    data: Path, moves: Sequence[Move], names: Sequence[str], before: Reading, config: DataConfig, empty: Sequence[str]
) -> None:
    """Raise DataError if `moves` would take all images from a class, or would give an image a wrong split or label."""
    expected = dict(zip(names, zip(before.splits, before.labels, strict=True), strict=True))
    for move in moves:
        split, _ = expected.pop(move.source)
        if move.action != ASIDE:
            expected[move.target] = (split, as_label(move.action))
    lost = set(before.class_names) - {label for _, label in expected.values()} - set(before.empty_classes)
    if lost:
        raise DataError(f"{data}: class {min(lost)!r} would have no image left; empty the action of one of its images")
    after = sorted(expected)
    try:
        reading = read_names(after, str(data), config, empty)
    except DataError as error:
        raise DataError(f"{data}: after these moves, {error}") from error
    for name, split, label in zip(after, reading.splits, reading.labels, strict=True):
        if (split, label) != expected[name]:
            raise DataError(
                f"{data}: after these moves, {name} would be read as {label!r}, not {expected[name][1]!r}; "
                "move the images by hand"
            )


def _target(data: Path, row: Row, reading: Reading, names: Sequence[str], config: DataConfig, taken: set[str]) -> str:
    """Return a free path, relative to `data`, for the image of `row`. Raises DataError if there is none."""
    wanted = as_label(row.action)
    at = None if config.label_from or row.action == ASIDE else _class_folder(row.path, as_label(row.label), config)
    if row.action == ASIDE:
        paths = _numbered(os.path.join(ASIDE_FOLDER, row.path))
    elif at is not None:
        paths = _numbered(_with_part(row.path, at, _spelling(wanted, reading, names, config)))
    elif renamed := with_label(row.path, wanted, config.label_from):
        paths = _renumbered(renamed)
    else:
        raise DataError(f"{row.where}: the class of {row.path} is in no folder's or file's name; move the file by hand")
    for path in paths:
        free = path not in taken and not os.path.lexists(os.path.join(data, path))
        if free and len(os.fsencode(os.path.basename(path))) <= _LONGEST:
            return path
    raise DataError(f"{row.where}: another image has the name that {row.path} would get; rename one of them")


def _class_folder(path: str, label: str, config: DataConfig) -> int | None:
    """Return the index of the part of `path` that is the class folder of `label`, or None if there is no such part."""
    found = [at for at, part in enumerate(path.split("/")[:-1]) if as_label(part) == label]
    if not found:
        return None
    return found[-1] if config.layout == "inner" else found[0]


def _with_part(path: str, at: int, part: str) -> str:
    parts = path.split("/")
    return "/".join([*parts[:at], part, *parts[at + 1 :]])


def _spelling(label: str, reading: Reading, names: Sequence[str], config: DataConfig) -> str:
    """Return the name of the class folder of `label` on disk. The name may have another Unicode form than `label`."""
    for name, one in zip(names, reading.labels, strict=True):
        if one == label and (at := _class_folder(name, label, config)) is not None:
            return name.split("/")[at]
    return label


def _numbered(path: str) -> Iterator[str]:
    """Yield `path`, and then `path` with numbers added to its name: `a.jpg`, `a-2.jpg`, `a-3.jpg`."""
    stem, suffix = os.path.splitext(path)
    return itertools.chain([path], (f"{stem}-{number}{suffix}" for number in range(2, 1000)))


def _renumbered(path: str) -> Iterator[str]:
    """Yield `path`, and then `path` with higher values of the last number in its name: `cat.7.jpg`, `cat.8.jpg`."""
    yield path
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    if number := re.search(r"\d+(?=\D*$)", stem):
        for value in range(int(number[0]) + 1, int(number[0]) + 1_000_000):
            new = f"{stem[: number.start()]}{value:0{len(number[0])}d}{stem[number.end() :]}{suffix}"
            yield os.path.join(folder, new)
