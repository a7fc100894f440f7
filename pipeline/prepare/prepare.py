"""`headstart prepare`: put labelled images of any usual layout into `DATA/{train,val,test}/<class>/`."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from headstart.features.errors import DataError, OptionError
from headstart.features.files import write_json
from headstart.features.images.faults import Fault
from headstart.features.images.files.fetched import bytes_kept
from headstart.features.images.files.paths import is_url
from headstart.features.images.files.urls import require_access
from headstart.features.images.scan import Reject
from headstart.features.terminal import console, progress
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.layouts import Reading
from headstart.pipeline.data.layouts_v1 import REJECTS
from headstart.pipeline.data.listing import list_files
from headstart.pipeline.data.manifest import is_manifest
from headstart.pipeline.data.reading import PREPARED, read_data, read_names
from headstart.pipeline.data.splits import SPLITS
from headstart.pipeline.data.trainable import too_few, too_many_rejects
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.copies import compare
from headstart.pipeline.prepare.placing import Placer
from headstart.pipeline.prepare.planning import (
    Chosen,
    Placement,
    There,
    choose_splits,
    read_images,
    require_full_splits,
    splits_there,
)
from headstart.pipeline.prepare.sources import SourceFile, opened_source, read_file, read_object, samples_told
from headstart.pipeline.prepare.targets import claimed, free_name, require_folder_names, targets
from headstart.pipeline.rejects import require_rejects_file, write_rejects


@dataclass(frozen=True)
class PrepareResult:
    """How many images of the source are in each split of `data`, and how many were rejected, dropped or moved."""

    data: Path
    train: int
    val: int
    test: int
    rejected: int
    dropped: int  # copies of other images
    moved: int  # images that were in another split of `data` before
    added: int  # images that this call wrote into `data`; the others were there
    ignored: int  # files in class folders that are no images, by name and content

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {name: value for name, value in vars(self).items() if name != "data"}

    def lines(self) -> list[Any]:
        """Return the summary that is printed without `--json`."""
        counts = f"{self.train} train, {self.val} val, {self.test} test, {self.rejected} rejected"
        there = self.train + self.val + self.test - self.added
        lines = [f"{self.data}: {counts}" + (f", {self.dropped} copies dropped" if self.dropped else "")]
        if there:
            lines.append(f"{self.added} of these are new, {there} were there")
        if self.ignored:
            lines.append(f"{self.ignored} files in class folders are no images, and are left out")
        if self.moved:
            lines.append(f"{self.moved} images moved to another split, because their groups grew together")
        if self.rejected:
            lines.append(f"{self.data}/rejects.csv says why, by their headers; `headstart features` decodes the rest")
        return lines


def prepare(
    source: Path,
    data: Path,
    config: PrepareConfig = PrepareConfig(),
    seed: int = 0,
    reading: DataConfig = DataConfig(),
) -> PrepareResult:
    """Link, copy or move the images of `source` into `data/{train,val,test}/<class>/`.

    `source` is a folder, an archive or a manifest. `reading` says how `source` is read. Splits that the source gives
    are kept. Other images get a split from their digest, `seed` and the fractions in `config`; see `splits.assign`.

    Images already in `data` keep their split, except if a new image unites two groups of different splits: the united
    group gets one split. All images are read before the first is written. An interrupted move can be repeated, because
    files are removed from `source` only after all are in `data`.

    Raises OptionError if an option, such as `config.move`, does not fit `source`. Raises the errors of `read_data`.
    Also raises DataError in these cases:

    - `source` or `data` can't be used, or `data` was made with other settings.
    - There is only one class, or a label can't be the name of a folder.
    - A class lacks images in a split; see `require_full_splits`.
    - An image is in one split of `data`, but in another split of `source`.
    - The fraction of rejects is over `config.max_rejects`. Before this error is raised, `rejects.csv` is written.
    """
    _require_places(source, data, config.move)
    record = {"seed": seed, "val": config.val, "test": config.test, "group": reading.group, "resplit": reading.resplit}
    placer, beside = Placer(config.copy, config.move), data.absolute().parent
    with bytes_kept(beside, source), claimed(data), _opened(source, data, config, reading) as (members, read):
        known = _require_same_settings(data, record)
        _require_movable(source, members, config.move)
        _require_classes(source, read)
        require_folder_names(source, members, read)
        images, rejects, ignored = read_images(members, read, config.max_pixels, is_manifest(source))
        list_rejects = partial(write_rejects, data, rejects, keep_other_than={member.path for member in members})
        _require_few_rejects(rejects, len(images) + len(rejects), data, config.max_rejects, list_rejects)
        there = splits_there(data)
        compared = compare(source, images, there, config, reading)
        chosen = choose_splits(compared.images, compared.others, there, seed, config)
        untested = require_full_splits(source, read, compared.images, chosen.splits, config)
        console.print("\n".join([*read.lines, *compared.lines, *chosen.lines, *untested]))
        moved, added = _fill(data, there, compared.images, chosen, placer)
        for told in placer.lines(source, data):
            console.print(told)
        list_rejects()
        if not known:
            write_json(data / PREPARED, record)
        _remove(compared.images if config.move else [])
    train, val, test = (chosen.splits.count(split) for split in SPLITS)
    return PrepareResult(data, train, val, test, len(rejects), compared.dropped, moved, added, ignored)


def _remove(images: Sequence[Placement]) -> None:
    """Remove the files of `images` from the source."""
    for one in images:
        assert one.member.file is not None
        one.member.file.unlink()


@contextmanager
def _opened(
    source: Path, data: Path, config: PrepareConfig, reading: DataConfig
) -> Iterator[tuple[list[SourceFile], Reading]]:
    """Yield a pair: all files of `source`, and a `Reading` with the label, the split and the group of each file."""
    if reading.layout == "v1":
        raise OptionError("--layout v1: is for data folders that are split already; `prepare` reads by auto")
    if is_manifest(source):
        files = read_data(source, reading)
        require_access(files.paths)
        yield (
            [
                SourceFile(path, path, partial(read_object, path))
                if is_url(path)
                else SourceFile(path, path, partial(read_file, Path(path)), Path(path))
                for path in files.paths
            ],
            files.reading,
        )
        return
    with opened_source(source, data, config.zip_encoding) as members:
        inside = [member for member in members if not member.escapes]
        empty = list_files(source).empty if source.is_dir() else []
        with samples_told(source, inside):
            read = read_names([member.name for member in inside], str(source), reading, empty)
        left = sum(label is None for label in read.labels)
        if left:
            read = replace(read, lines=[*read.lines, f"{left} files of {source} belong to no class and are left out"])
        outside = [member for member in members if member.escapes]
        blank: list[None] = [None] * len(outside)
        groups = [*read.groups, *blank] if read.groups else []
        read = replace(read, labels=[*read.labels, *blank], splits=[*read.splits, *[""] * len(outside)], groups=groups)
        yield [*inside, *outside], read


def _require_places(source: Path, data: Path, move: bool) -> None:
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if not (source.is_dir() or source.is_file()):
        raise DataError(f"{source}: neither a file nor a folder")
    if links := [path for path in (*data.glob("*"), *data.glob("*/*")) if path.is_symlink() and path.is_dir()]:
        raise DataError(f"{links[0]}: a link to a folder; images would be written outside of {data}; remove it")
    if data.exists() and not data.is_dir():
        raise DataError(f"{data}: not a folder")
    require_rejects_file(data)
    if move and not source.is_dir():
        raise OptionError(f"--move: {source} is not a folder; only files can be moved")
    inner, outer = data.resolve(), source.resolve()
    if source.is_dir() and (inner.is_relative_to(outer) or outer.is_relative_to(inner)):
        raise DataError(f"{data}: lies in {source}, or {source} in it; name a folder elsewhere")


def _require_movable(source: Path, members: Sequence[SourceFile], move: bool) -> None:
    if move and any(member.file is None for member in members):
        raise OptionError(f"--move: images of {source} lie in archives, or have URLs; only files can be moved")


def _require_classes(source: Path, read: Reading) -> None:
    if len(read.class_names) < 2:
        raise DataError(
            f"{source}: {too_few(read.class_names)}; expected at least two: <class>/*.jpg, or names like cat.0.jpg"
        )


def _require_few_rejects(
    rejects: Sequence[Reject], found: int, data: Path, max_rejects: float, list_rejects: Callable[[], None]
) -> None:
    """Raise a DataError if the fraction of rejects among the `found` images is over `max_rejects`.

    In this case, `list_rejects` is called before the error is raised.
    """
    if problem := too_many_rejects(rejects, found, max_rejects):
        list_rejects()
        raise DataError(f"{problem}; {data}/{REJECTS} has all")


def _require_same_settings(data: Path, settings: dict[str, Any]) -> bool:
    """Return whether `data` has a record of its settings. Raises DataError if they differ from `settings`."""
    file = data / PREPARED
    if not file.is_file():
        return False
    try:
        before = json.loads(file.read_bytes())
        before = {"resplit": False, **before}  # earlier versions did not write this setting
        differing = [name for name in settings if before[name] != settings[name]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{file}: damaged ({error!r}); name a new folder") from error
    if differing:
        name = differing[0]
        then, now = f"with --{name} {before[name]!r}", repr(settings[name])
        if isinstance(settings[name], bool):
            then, now = (f"with{'' if value else 'out'} --{name}" for value in (before[name], settings[name]))
        raise DataError(f"{data}: was made {then}, and now is asked for {now}; repeat that, or name a new folder")
    return True


def _move_within(data: Path, there: There, moves: Mapping[tuple[str, str], str]) -> int:
    """Move images within `data`, and return how many. `moves` maps (digest, old split) to the new split."""
    moved = [(digest, old, path) for digest, old in moves for split, path in there[digest] if split == old]
    for digest, old, path in moved:
        target = data / moves[digest, old] / path.relative_to(data / old)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(free_name(target, digest, {}))
    return len(moved)


def _part_from_links(data: Path, there: There, placer: Placer) -> None:
    """Replace hard links in `data` by copies. An earlier `prepare` may have made hard links.

    The argument `there` holds the files of `data`.
    """
    linked = [path for files in there.values() for _, path in files if path.stat().st_nlink > 1]
    for path in linked:
        placer.write(path.read_bytes(), path)
    if linked:
        console.print(
            f"{data}: {len(linked)} files that were linked are copies now; the files under their other names are still "
            "read-only"
        )


def _fill(data: Path, there: There, images: Sequence[Placement], chosen: Chosen, placer: Placer) -> tuple[int, int]:
    """Write `images` into `data`, moving those whose split changes. Return the numbers of moved and new images."""
    if placer.copies:
        _part_from_links(data, there, placer)
    moved = _move_within(data, there, chosen.moves)
    added = 0
    with progress("preparing", len(images)) as advance:
        for placed, target in targets(images, chosen.splits, data):
            added += _place(placed.member, target, placer)
            advance(1)
    return moved, added


def _place(member: SourceFile, target: Path, placer: Placer) -> bool:
    """Place one image at `target`, unless a file exists there. Return whether the image was placed.

    Raises DataError if the image can no longer be read.
    """
    if target.exists():
        return False
    if member.file:
        placer.place(member.file, target)
        return True
    content = member.read()
    if isinstance(content, Fault):
        raise DataError(f"{member.path}: changed while it was read ({content.detail})")
    placer.write(content, target)
    return True
