"""`headstart prepare`: put labelled images of any usual layout into `DATA/{train,val,test}/<class>/`."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from headstart.features.errors import DataError, OptionError
from headstart.features.files import write_json
from headstart.features.images.faults import Fault
from headstart.features.terminal import console, progress
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import write_rejects
from headstart.pipeline.data.layouts import Reading
from headstart.pipeline.data.manifest import SUFFIXES
from headstart.pipeline.data.reading import PREPARED, read_data, read_names
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.placing import Placer
from headstart.pipeline.prepare.planning import (
    Placement,
    choose_splits,
    digest_of,
    read_images,
    require_full_splits,
    splits_there,
    without_copies,
)
from headstart.pipeline.prepare.sources import Member, opened_source, read_file

_MAX_NAME_BYTES = 240  # of the usual limit of 255; the rest is for a digest, which makes equal names unique


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

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {name: value for name, value in vars(self).items() if name != "data"}

    def lines(self) -> list[Any]:
        """Return the summary that is printed without `--json`."""
        counts = f"{self.train} train, {self.val} val, {self.test} test, {self.rejected} rejected"
        lines = [f"{self.data}: {counts}" + (f", {self.dropped} copies dropped" if self.dropped else "")]
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
    """Link (see `Placer`), copy or move the images of `source` into `data/{train,val,test}/<class>/`.

    Splits that the source gives are kept. Other images get a split from their digest, `seed` and the fractions in
    `config`; see `splits.assign`. Images already in `data` keep their split, unless a new image joins their groups. All
    images are read before the first is written. With `config.move`, files are removed from `source` only after all are
    in `data`, so an interrupted move can be repeated.

    Raises OptionError if `config.move` is set and images are in archives. Raises DataError if `source` can't be read
    (see `read_data`), has fewer than two classes, or gives an image another split than `data`; if a class lacks images
    in a split; or if `data` was made with other fractions, another seed or another `--group`.

    Args:
        source: a folder, an archive or a manifest.
        reading: how `source` is read.
    """
    _require_places(source, data, config.move)
    settings = {"seed": seed, "val": config.val, "test": config.test, "group": reading.group}
    _require_same_settings(data, settings)
    placer = Placer(config.copy, config.move)
    with _opened(source, data, config, reading) as (members, read):
        _require_movable(source, members, config.move)
        _require_classes(source, read)
        images, rejects = read_images(members, read, config.max_pixels)
        images, dropped, grouped = without_copies(source, images, config, reading)
        there = splits_there(data)
        splits, line = choose_splits(images, there, {split for split in read.splits if split}, seed, config)
        console.print("\n".join([*read.lines, *grouped, *line]))
        require_full_splits(source, read, images, splits, config)
        moved = _move_within(data, there, {one.image.digest: split for one, split in zip(images, splits, strict=True)})
        with progress("preparing", len(images)) as advance:
            for placed, target in _targets(images, splits, data):
                _place(placed.member, target, placer)
                advance(1)
    for told in placer.lines(source, data):
        console.print(told)
    write_rejects(data, rejects, keep_other_than={member.path for member in members})
    write_json(data / PREPARED, settings)
    if config.move:
        _remove(images)
    counts = Counter(splits)
    return PrepareResult(
        data, counts["train"], counts["val"], counts["test"], rejected=len(rejects), dropped=dropped, moved=moved
    )


def _remove(images: Sequence[Placement]) -> None:
    """Remove the files of `images` from the source."""
    for one in images:
        assert one.member.file is not None
        one.member.file.unlink()


@contextmanager
def _opened(
    source: Path, data: Path, config: PrepareConfig, reading: DataConfig
) -> Iterator[tuple[list[Member], Reading]]:
    """Yield the files of `source`, and their `Reading` in the same order."""
    if reading.layout == "v1":
        raise OptionError("--layout v1: is for data folders that are split already; `prepare` reads by auto")
    if source.is_file() and source.suffix.lower() in SUFFIXES:
        files = read_data(source, reading)
        yield [Member(path, path, partial(read_file, Path(path)), Path(path)) for path in files.paths], files.reading
        return
    with opened_source(source, data, config.zip_encoding) as members:
        inside = [member for member in members if not member.escapes]
        read = read_names([member.name for member in inside], str(source), reading)
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
    if data.exists() and not data.is_dir():
        raise DataError(f"{data}: not a folder")
    if move and not source.is_dir():
        raise OptionError(f"--move: {source} is not a folder; only files can be moved")
    inner, outer = data.resolve(), source.resolve()
    if source.is_dir() and (inner.is_relative_to(outer) or outer.is_relative_to(inner)):
        raise DataError(f"{data}: lies in {source}, or {source} in it; name a folder elsewhere")


def _require_movable(source: Path, members: Sequence[Member], move: bool) -> None:
    if move and any(member.file is None for member in members):
        raise OptionError(f"--move: images of {source} lie in archives; only files can be moved")


def _require_classes(source: Path, read: Reading) -> None:
    if len(read.class_names) < 2:
        raise DataError(
            f"{source}: one class only, {read.class_names[0]!r}; expected at least two: <class>/*.jpg, or names like "
            "cat.0.jpg"
        )


def _require_same_settings(data: Path, settings: dict[str, Any]) -> None:
    file = data / PREPARED
    if not file.is_file():
        return
    try:
        before = json.loads(file.read_bytes())
        differing = [name for name in settings if before[name] != settings[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged ({error!r}); name a new folder") from error
    if differing:
        name = differing[0]
        raise DataError(
            f"{data}: was made with --{name} {before[name]!r}, and now is asked for {settings[name]!r}; repeat that, "
            "or name a new folder"
        )


def _move_within(data: Path, there: dict[str, tuple[str, Path]], splits: dict[str, str]) -> int:
    """Move images within `data` to their new splits, and return the number of moved images.

    `there` maps the digest of each image in `data` to its old split and path. `splits` maps digests to new splits.
    """
    moved = [(digest, split, path) for digest, (split, path) in there.items() if splits.get(digest, split) != split]
    for digest, split, path in moved:
        target = data / splits[digest] / path.relative_to(data / split)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(_free_name(target, digest, {}))
    return len(moved)


def _targets(images: Sequence[Placement], splits: Sequence[str], data: Path) -> Iterator[tuple[Placement, Path]]:
    """Yield each of `images` with its target path in `data`."""
    taken: dict[Path, str] = {}
    for one, split in zip(images, splits, strict=True):
        place = data / split / one.label / _short_name(PurePosixPath(one.member.name), one.image.digest)
        yield one, _free_name(place, one.image.digest, taken)


def _short_name(path: PurePosixPath, digest: str) -> str:
    """Return the file name of `path`. A name over 240 bytes is cut, and part of the digest is added."""
    if len(os.fsencode(path.name)) <= _MAX_NAME_BYTES:
        return path.name
    return f"{path.name[: _MAX_NAME_BYTES // 8]}-{digest[:12]}{path.suffix[:8]}"


def _free_name(target: Path, digest: str, taken: dict[Path, str]) -> Path:
    """Return `target`. If another image has this path, add part of the digest to the name.

    `taken` maps each path that was returned before to its digest. Files on disk count, too.
    """
    if target not in taken and target.is_file():
        taken[target] = digest_of(target)
    if taken.setdefault(target, digest) == digest:
        return target
    return _free_name(target.with_stem(f"{target.stem}-{digest[:12]}"), digest, taken)


def _place(member: Member, target: Path, placer: Placer) -> None:
    """Place one image at `target`, unless `target` exists. Raises DataError if the image can no longer be read."""
    if target.exists():
        return
    if member.file:
        placer.place(member.file, target)
        return
    content = member.read()
    if isinstance(content, Fault):
        raise DataError(f"{member.path}: changed while it was read ({content.detail})")
    placer.write(content, target)
