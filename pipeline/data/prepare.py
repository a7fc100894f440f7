"""`headstart prepare`: put labelled images of any usual layout into `DATA/{train,val,test}/<class>/`."""

import hashlib
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
from headstart.features.files import write_atomically, write_json
from headstart.features.images.faults import Fault
from headstart.features.images.formats import inspect_bytes
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.terminal import console, progress
from headstart.pipeline.data.config import NEAR_DUPLICATES, DataConfig, PrepareConfig
from headstart.pipeline.data.examples import write_rejects
from headstart.pipeline.data.layouts import Reading
from headstart.pipeline.data.listing import files_below
from headstart.pipeline.data.manifest import SUFFIXES
from headstart.pipeline.data.placing import Placer
from headstart.pipeline.data.reading import PREPARED, read_data, read_names
from headstart.pipeline.data.similar import near_duplicate_groups
from headstart.pipeline.data.sources import Member, opened_source, read_file
from headstart.pipeline.data.splits import SPLITS, Item, complete

_MAX_NAME_BYTES = 240  # of 255; the rest is for a digest, which keeps equal names apart


@dataclass(frozen=True)
class PrepareResult:
    """The number of images of the source in each split of `data`, and of those that are not in it."""

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


@dataclass(frozen=True)
class _Placement:
    """An image of the source, its label, the split that the source gives it ("" for none), and its group."""

    member: Member
    image: ImageFile
    label: str
    split: str
    group: str | None


def prepare(
    source: Path,
    data: Path,
    config: PrepareConfig = PrepareConfig(),
    seed: int = 0,
    reading: DataConfig = DataConfig(),
) -> PrepareResult:
    """Link (see `Placer`), copy or move the images of `source` into `data/{train,val,test}/<class>/`.

    Splits that the source gives are kept. The others follow from the digests, `seed` and the fractions in `config`;
    see `splits.assign`. Images already in `data` keep their split, unless the groups of several grow together. All
    images are read before the first is written. With `config.move`, files are removed from `source` only after all are
    in `data`, so an interrupted move can be repeated.

    Raises OptionError if `config.move` is set and `source` is an archive. Raises DataError as `read_data` does, if
    there are fewer than two classes, if a class lacks images in a split, if an image is in another split of `data` than
    the source says, or if `data` was made with other fractions or another seed.

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
        images, rejects = _read(members, read, config.max_pixels)
        images, dropped, grouped = _without_copies(source, images, config, reading)
        there = _splits_there(data)
        splits, line = _splits(images, there, {split for split in read.splits if split}, seed, config)
        console.print("\n".join([*read.lines, *grouped, *line]))
        _require_full_splits(source, read, images, splits, config)
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
        for one in images:
            assert one.member.file is not None
            one.member.file.unlink()
    counts = Counter(splits)
    return PrepareResult(
        data, counts["train"], counts["val"], counts["test"], rejected=len(rejects), dropped=dropped, moved=moved
    )


@contextmanager
def _opened(
    source: Path, data: Path, config: PrepareConfig, reading: DataConfig
) -> Iterator[tuple[list[Member], Reading]]:
    """Yield the files of `source`, and how they are read."""
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
        read = replace(read, labels=[*read.labels, *blank], splits=[*read.splits, *[""] * len(outside)])
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
            f"{data}: was made with --{name} {before[name]!r}, and now is asked for {settings[name]!r}; repeat that, or "
            "name a new folder"
        )


def _read(members: Sequence[Member], read: Reading, max_pixels: int) -> tuple[list[_Placement], list[Reject]]:
    """Read every member with a class, and every member that escapes, once. Return the images, and the rejects."""
    images, rejects = [], []
    groups = read.groups or [None] * len(members)
    with progress("reading", len(members)) as advance:
        for member, label, split, group in zip(members, read.labels, read.splits, groups, strict=False):
            advance(1)
            if label is None and not member.escapes:
                continue
            content = member.read()
            header = content if isinstance(content, Fault) else inspect_bytes(content, member.name, max_pixels)
            if isinstance(header, Fault):
                rejects.append(Reject(member.path, header.reason, header.detail))
            elif header is not None:
                assert isinstance(content, bytes)
                assert label is not None
                digest = hashlib.sha256(content).hexdigest()
                image = ImageFile(str(member.file or member.path), digest, len(content), 0, **vars(header))
                images.append(_Placement(member, image, label, split, group))
    return images, rejects


def _without_copies(
    source: Path, images: list[_Placement], config: PrepareConfig, reading: DataConfig
) -> tuple[list[_Placement], int, list[str]]:
    """Group near-duplicates, or drop all but the first of each group of copies, as the settings say.

    Returns the images, how many were dropped, and a line that says what was found.
    """
    if not (config.drop_duplicates or reading.group == NEAR_DUPLICATES):
        return images, 0, []
    if any(one.member.file is None for one in images):
        option = "--drop-duplicates" if config.drop_duplicates else f"--group {NEAR_DUPLICATES}"
        raise OptionError(f"{option}: compares the pixels of files; unpack {source}, and name the folder")
    groups = near_duplicate_groups([one.image for one in images])
    in_groups = sum(map(len, groups))
    line = f"{in_groups} images are near-duplicates of others, in {len(groups)} groups"
    if not config.drop_duplicates:
        group_of = {at: f"near-duplicates {number}" for number, group in enumerate(groups) for at in group}
        return [replace(one, group=group_of.get(at, one.group)) for at, one in enumerate(images)], 0, [line]
    copies = {at for group in groups for at in group[1:]}
    first: dict[str, int] = {}
    copies |= {at for at, one in enumerate(images) if first.setdefault(one.image.digest, at) != at}
    return [one for at, one in enumerate(images) if at not in copies], len(copies), [line]


def _splits_there(data: Path) -> dict[str, tuple[str, Path]]:
    """Return the split and path of each image that is in `data` already, by digest."""
    found = {}
    for split in SPLITS:
        for path in files_below(data / split) if (data / split).is_dir() else []:
            found[_digest(path)] = (split, path)
    return found


def _splits(
    images: Sequence[_Placement],
    there: dict[str, tuple[str, Path]],
    given: set[str],
    seed: int,
    config: PrepareConfig,
) -> tuple[list[str], list[str]]:
    """Return the split of each image, and a line that says how they were split."""
    items = []
    labels = {name: number for number, name in enumerate(sorted({one.label for one in images}))}
    for one in images:
        held = there[one.image.digest][0] if one.image.digest in there else ""
        from_train = one.split == "train" and held == "val"  # val was taken out of train
        if one.split and held and one.split != held and not from_train:
            raise DataError(
                f"{one.member.path}: is in {one.split} of the source, and in {held} of the data folder "
                f"({there[one.image.digest][1]}); name a new folder"
            )
        items.append(Item(one.image.digest, labels[one.label], one.group, held or one.split))
    return complete(items, given, seed, {"val": config.val, "test": config.test})


def _move_within(data: Path, there: dict[str, tuple[str, Path]], splits: dict[str, str]) -> int:
    """Move the images of `data` that are in another split now. Return how many they are."""
    moved = [(digest, split, path) for digest, (split, path) in there.items() if splits.get(digest, split) != split]
    for digest, split, path in moved:
        target = data / splits[digest] / path.relative_to(data / split)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(_free_name(target, digest, {}))
    return len(moved)


def _targets(images: Sequence[_Placement], splits: Sequence[str], data: Path) -> Iterator[tuple[_Placement, Path]]:
    """Yield each image with the path in `data` that it gets."""
    taken: dict[Path, str] = {}
    for one, split in zip(images, splits, strict=True):
        place = data / split / one.label / _short_name(PurePosixPath(one.member.name), one.image.digest)
        yield one, _free_name(place, one.image.digest, taken)


def _short_name(path: PurePosixPath, digest: str) -> str:
    """Return the name of the file `path`. If the name is too long, it is cut and the digest is added."""
    if len(os.fsencode(path.name)) <= _MAX_NAME_BYTES:
        return path.name
    return f"{path.name[: _MAX_NAME_BYTES // 8]}-{digest[:12]}{path.suffix[:8]}"


def _free_name(target: Path, digest: str, taken: dict[Path, str]) -> Path:
    """Return `target`, or add the digest to its name if another image has this name, in this call or on disk."""
    if target not in taken and target.is_file():
        taken[target] = _digest(target)
    if taken.setdefault(target, digest) == digest:
        return target
    return _free_name(target.with_stem(f"{target.stem}-{digest[:12]}"), digest, taken)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_full_splits(
    source: Path, read: Reading, images: Sequence[_Placement], splits: Sequence[str], config: PrepareConfig
) -> None:
    """Raise a DataError that names every class without images in a split that was asked for or given."""
    asked = {"train", *(split for split in read.splits if split)}
    if not any(read.splits):
        asked |= {split for split in ("val", "test") if getattr(config, split)}
    elif "test" in asked and config.val:
        asked.add("val")
    present = {(one.label, split) for one, split in zip(images, splits, strict=True)}
    sizes = Counter(one.label for one in images)
    lacking = [
        f"{label!r} ({sizes[label]} images) has none in {', '.join(absent)}"
        for label in read.class_names
        if (absent := [split for split in SPLITS if split in asked and (label, split) not in present])
    ]
    if lacking:
        more = f" and {len(lacking) - 5} more classes" if len(lacking) > 5 else ""
        raise DataError(
            f"{source}: {'; '.join(lacking[:5])}{more}: add images, leave these classes out by --classes, or give "
            "--val 0 or --test 0"
        )


def _place(member: Member, target: Path, placer: Placer) -> None:
    """Put one image at its target, unless the target exists."""
    if target.exists():
        return
    if member.file:
        placer.place(member.file, target)
        return
    content = member.read()
    if isinstance(content, Fault):
        raise DataError(f"{member.path}: changed while it was read ({content.detail})")
    write_atomically(target, content)
