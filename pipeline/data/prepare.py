"""`headstart prepare`: put labelled images of any usual layout into `DATA/{train,val,test}/<class>/`."""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from headstart.features.errors import DataError, OptionError
from headstart.features.images.faults import Fault
from headstart.features.images.formats import inspect_bytes
from headstart.features.images.scan import Reject
from headstart.features.terminal import console, progress
from headstart.pipeline.data.config import PrepareConfig
from headstart.pipeline.data.examples import write_rejects
from headstart.pipeline.data.layouts import classes_of
from headstart.pipeline.data.listing import files_below
from headstart.pipeline.data.placing import Placer
from headstart.pipeline.data.sources import Member, opened_source
from headstart.pipeline.data.splits import SPLITS, split_of

_MAX_NAME_BYTES = 240  # of 255; the rest is for a digest, which keeps equal names apart


@dataclass(frozen=True)
class PrepareResult:
    """The number of images of the source in each split of `data`, and the number of rejected images."""

    data: Path
    train: int
    val: int
    test: int
    rejected: int

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {"train": self.train, "val": self.val, "test": self.test, "rejected": self.rejected}

    def lines(self) -> list[Any]:
        """Return the summary that is printed without `--json`."""
        lines = [f"{self.data}: {self.train} train, {self.val} val, {self.test} test, {self.rejected} rejected"]
        if self.rejected:
            lines.append(f"{self.data}/rejects.csv says why, by their headers; `headstart features` decodes the rest")
        return lines


@dataclass(frozen=True)
class _Placement:
    member: Member
    digest: str
    target: Path
    split: str
    label: str


def prepare(source: Path, data: Path, config: PrepareConfig = PrepareConfig(), seed: int = 0) -> PrepareResult:
    """Link (see `Placer`), copy or move the images of `source` into `data/{train,val,test}/<class>/`.

    An image's digest, `seed` and the fractions in `config` decide its split. So an image keeps its split when others
    are added, and equal images get the same split. Files already in `data` stay. All images are read before the first
    is written. With `config.move`, files are removed from `source` only after all are in `data`, so an interrupted move
    can be repeated.

    Raises OptionError if `config.move` is set and `source` is an archive. Raises DataError if there are fewer than two
    classes, if a class lacks images in a split, or if `data` already has one of the images in another split.

    Args:
        source: class folders, or an archive of them, such as Microsoft's `PetImages`; or Kaggle's `train.zip` with
            names such as `cat.0.jpg`, the competition's zip that contains `train.zip`, or an unpacked folder of either.
    """
    _require_places(source, data, config.move)
    placer = Placer(config.copy, config.move)
    with opened_source(source, data, config.zip_encoding) as members:
        _require_movable(source, members, config.move)
        labelled = _labelled(source, members)
        escaping = [(member, "") for member in members if member.escapes]
        placements, rejects = _plan([*labelled, *escaping], data, config, seed)
        _require_full_splits(source, sorted({label for _, label in labelled}), placements, config)
        _require_same_splits(placements, data)
        with progress("preparing", len(placements)) as advance:
            for placement in placements:
                _place(placement, placer)
                advance(1)
    for line in placer.lines(source, data):
        console.print(line)
    write_rejects(data, rejects, keep_other_than={member.path for member in members})
    if config.move:
        for placement in placements:
            assert placement.member.file is not None
            placement.member.file.unlink()
    counts = Counter(placement.split for placement in placements)
    return PrepareResult(data, counts["train"], counts["val"], counts["test"], rejected=len(rejects))


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


def _labelled(source: Path, members: Sequence[Member]) -> list[tuple[Member, str]]:
    """Pair each member that has a class with its class. Print how many members have none."""
    inside = [member for member in members if not member.escapes]
    classes = classes_of([PurePosixPath(member.name) for member in inside])
    labelled = [(member, label) for member, label in zip(inside, classes, strict=True) if label]
    names = sorted({label for _, label in labelled})
    if len(names) < 2:
        raise DataError(
            f"{source}: {'one class only, ' + repr(names[0]) if names else 'no classes'}; expected "
            "<class>/*.jpg, or names like cat.0.jpg"
        )
    if len(labelled) < len(inside):
        console.print(f"{len(inside) - len(labelled)} files of {source} belong to no class and are left out")
    return labelled


def _plan(
    labelled: Sequence[tuple[Member, str]], data: Path, config: PrepareConfig, seed: int
) -> tuple[list[_Placement], list[Reject]]:
    """Read every member once, and decide its target in `data`, or why it is rejected."""
    placements, rejects = [], []
    taken: dict[Path, str] = {}
    with progress("reading", len(labelled)) as advance:
        for member, label in labelled:
            advance(1)
            content = member.read()
            header = content if isinstance(content, Fault) else inspect_bytes(content, member.name)
            if isinstance(header, Fault):
                rejects.append(Reject(member.path, header.reason, header.detail))
            elif header is not None:
                assert isinstance(content, bytes)
                digest = hashlib.sha256(content).hexdigest()
                split = split_of(digest, seed, config.val, config.test)
                place = data / split / label / _short_name(PurePosixPath(member.name), digest)
                placements.append(_Placement(member, digest, _free_name(place, digest, taken), split, label))
    return placements, rejects


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
    source: Path, labels: Sequence[str], placements: Sequence[_Placement], config: PrepareConfig
) -> None:
    present = {(placement.label, placement.split) for placement in placements}
    splits = [split for split in SPLITS if split == "train" or getattr(config, split)]
    for label, split in itertools.product(labels, splits):
        if (label, split) not in present:
            raise DataError(
                f"{source}: no usable image of class {label!r} falls into {split}: add some, raise --{split}, or "
                "try another --seed"
            )


def _require_same_splits(placements: Sequence[_Placement], data: Path) -> None:
    """Raise a DataError if `data` has an image in another split already, from another seed or other fractions."""
    splits = {placement.digest: placement.split for placement in placements}
    for split in SPLITS:
        for path in files_below(data / split) if (data / split).is_dir() else []:
            digest = _digest(path)
            if splits.get(digest, split) != split:
                raise DataError(
                    f"{path}: would be in {splits[digest]} too; {data} was made with another --seed, --val or --test: "
                    "repeat those, or name a new folder"
                )


def _place(placement: _Placement, placer: Placer) -> None:
    """Put one image at its target, unless the target exists."""
    if placement.target.exists():
        return
    if placement.member.file:
        placer.place(placement.member.file, placement.target)
        return
    content = placement.member.read()
    if isinstance(content, Fault):
        raise DataError(f"{placement.member.path}: changed while it was read ({content.detail})")
    placer.write(content, placement.target)
