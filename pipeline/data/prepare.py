"""Putting labelled images of any of the usual layouts into `DATA/{train,val,test}/<class>/`."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from headstart.features.errors import DataError, OptionError
from headstart.features.files import write_atomically
from headstart.features.images.faults import Fault
from headstart.features.images.formats import IMAGE_SUFFIXES, inspect_bytes
from headstart.features.images.scan import Reject
from headstart.features.terminal import console, progress
from headstart.pipeline.data.config import PrepareConfig
from headstart.pipeline.data.examples import files_below, write_rejects
from headstart.pipeline.data.sources import Member, opened_source
from headstart.pipeline.data.splits import SPLITS, split_of

_NUMBERED = re.compile(r"(?P<label>[^.]+)\.\d+\.\w+$")  # Kaggle's names: cat.0.jpg
_COMPETITION_FOLDERS = frozenset({"train", "test", "test1"})
_MAX_NAME_BYTES = 240  # 255 with what keeps equal names apart
_SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "test"})


@dataclass(frozen=True)
class PrepareResult:
    """How many images of the source are in each split, and how many could not be used."""

    train: int
    val: int
    test: int
    rejected: int


@dataclass(frozen=True)
class _Placement:
    """Where one image of the source goes."""

    member: Member
    digest: str
    target: Path
    split: str
    label: str


def prepare(
    source: Path, data: Path, config: PrepareConfig = PrepareConfig(), move: bool = False, seed: int = 0
) -> PrepareResult:
    """Link, copy or move the images of `source` into `data/{train,val,test}/<class>/`.

    The split follows from an image's digest and `seed`, so that images keep theirs when others are added, and equal
    ones are never in two. What is in `data` already stays. All is read before anything is written.

    Args:
        source: Kaggle's `train.zip`, the competition's zip around it, or the folder of either (`cat.0.jpg`);
            Microsoft's `PetImages` zip or folder; class folders, or a zip of them.
        move: remove the files from a source folder once all are in `data`.

    Raises:
        DataError: a layout with no classes or one, a split that comes out empty for a class, or images that are in
            `data` already, but in another split.
    """
    _check_places(source, data, move)
    with opened_source(source, data) as members:
        labelled = _labelled(source, members)
        placements, rejects = _plan(labelled, data, config, seed)
        rejects += _escaping(members)
        labels = sorted({label for _, label in labelled})
        _check_splits(source, labels, placements, config)
        _check_present(placements, data)
        with progress("preparing", len(placements)) as advance:
            for placement in placements:
                _place(placement)
                advance(1)
    write_rejects(data, rejects)
    if move:  # only now: what is cut off earlier can be repeated
        for placement in placements:
            assert placement.member.file is not None
            placement.member.file.unlink()
    counts = Counter(placement.split for placement in placements)
    return PrepareResult(counts["train"], counts["val"], counts["test"], len(rejects))


def _check_places(source: Path, data: Path, move: bool) -> None:
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if data.exists() and not data.is_dir():
        raise DataError(f"{data}: not a folder")
    if move and not source.is_dir():
        raise OptionError(f"--move: {source} is not a folder; only files can be moved")
    inner, outer = data.resolve(), source.resolve()
    if source.is_dir() and (inner.is_relative_to(outer) or outer.is_relative_to(inner)):
        raise DataError(f"{data}: lies in {source}, or {source} in it; name a folder elsewhere")


def _labelled(source: Path, members: Sequence[Member]) -> list[tuple[Member, str]]:
    """Each member that has a class, with it; the rest is told of."""
    parts = [(member, PurePosixPath(member.name).parts) for member in members if not member.escapes]
    root = _common_folders([names for _, names in parts if Path(names[-1]).suffix.lower() in IMAGE_SUFFIXES])
    inside = [(member, names[root:]) for member, names in parts if len(names) > root]
    folders = {names[0] for _, names in inside if len(names) > 1}
    if "train" in folders <= _COMPETITION_FOLDERS and _is_numbered_folder(
        "train", inside
    ):  # the competition's folder: labelled train/, unlabelled test1/
        inside = [(member, names[1:]) for member, names in inside if names[0] == "train"]
    elif folders and {folder.lower() for folder in folders} <= _SPLIT_FOLDERS:  # split already: split again by hash
        inside = [(member, names[1:]) for member, names in inside if len(names) > 1]
    by_folder = any(len(names) > 1 for _, names in inside)
    labels = [(member, _label(names, by_folder)) for member, names in inside]
    found = [(member, label) for member, label in labels if label]
    classes = sorted({label for _, label in found})
    if len(classes) < 2:
        raise DataError(
            f"{source}: {'one class only, ' + repr(classes[0]) if classes else 'no classes'}; expected "
            "<class>/*.jpg, or names like cat.0.jpg"
        )
    unlabelled = len(parts) - len(found)
    if unlabelled:
        console.print(f"{unlabelled} files of {source} belong to no class and are left out")
    return found


def _escaping(members: Sequence[Member]) -> list[Reject]:
    faults = ((member, member.read()) for member in members if member.escapes)
    return [Reject(member.path, fault.reason, fault.detail) for member, fault in faults if isinstance(fault, Fault)]


def _common_folders(names: Sequence[tuple[str, ...]]) -> int:
    """How many leading folders all of `names` share."""
    folders = [parts[:-1] for parts in names]
    levels = list(zip(*folders, strict=False))  # ends with the shortest
    return next((depth for depth, level in enumerate(levels) if len(set(level)) > 1), len(levels))


def _is_numbered_folder(folder: str, files: Iterable[tuple[Member, tuple[str, ...]]]) -> bool:
    inside = [names for _, names in files if names[0] == folder and len(names) > 1]
    return all(len(names) == 2 and _NUMBERED.match(names[1]) for names in inside)


def _label(names: tuple[str, ...], by_folder: bool) -> str | None:
    if by_folder:
        return names[0] if len(names) > 1 else None
    match = _NUMBERED.match(names[0])
    return match["label"] if match else None


def _plan(
    labelled: Sequence[tuple[Member, str]], data: Path, config: PrepareConfig, seed: int
) -> tuple[list[_Placement], list[Reject]]:
    """Read every member once and say where it goes."""
    placements: list[_Placement] = []
    rejects: list[Reject] = []
    taken: dict[Path, str] = {}
    with progress("reading", len(labelled)) as advance:
        for member, label in labelled:
            advance(1)
            content = member.read()
            if isinstance(content, Fault):
                rejects.append(Reject(member.path, content.reason, content.detail))
                continue
            header = inspect_bytes(content, member.name)
            if header is None:
                continue
            if isinstance(header, Fault):
                rejects.append(Reject(member.path, header.reason, header.detail))
                continue
            digest = hashlib.sha256(content).hexdigest()
            split = split_of(digest, seed, config.val, config.test)
            name = _short_name(PurePosixPath(member.name), digest)
            target = _free_name(data / split / label / name, digest, taken)
            placements.append(_Placement(member, digest, target, split, label))
    return placements, rejects


def _short_name(path: PurePosixPath, digest: str) -> str:
    """The file's name, or its beginning and the digest if a file could not be called that."""
    if len(os.fsencode(path.name)) <= _MAX_NAME_BYTES:
        return path.name
    return f"{path.name[: _MAX_NAME_BYTES // 8]}-{digest[:12]}{path.suffix[:8]}"


def _free_name(target: Path, digest: str, taken: dict[Path, str]) -> Path:
    """`target`, or with the digest in its name where another image has that one, here or on disk."""
    if target not in taken and target.is_file():
        taken[target] = _digest(target)
    if taken.setdefault(target, digest) == digest:
        return target
    return _free_name(target.with_stem(f"{target.stem}-{digest[:12]}"), digest, taken)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_splits(source: Path, labels: Sequence[str], placements: Sequence[_Placement], config: PrepareConfig) -> None:
    present = {(placement.split, placement.label) for placement in placements}
    for label in labels:
        for split in config.splits():
            if (split, label) not in present:
                raise DataError(
                    f"{source}: no usable image of class {label!r} falls into {split}: add some, raise --{split}, or "
                    "try another --seed"
                )


def _check_present(placements: Sequence[_Placement], data: Path) -> None:
    """Make sure that no image is in `data` already in another split, as another seed would have put it."""
    splits = {placement.digest: placement.split for placement in placements}
    for split in SPLITS:
        for path in files_below(data / split) if (data / split).is_dir() else []:
            digest = _digest(path)
            if splits.get(digest, split) != split:
                raise DataError(
                    f"{path}: would be in {splits[digest]} too; {data} was made with another --seed, --val or --test: "
                    "repeat those, or name a new folder"
                )


def _place(placement: _Placement) -> None:
    target = placement.target
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    file = placement.member.file
    if file is None:
        content = placement.member.read()
        if isinstance(content, Fault):
            raise DataError(f"{placement.member.path}: changed while it was read ({content.detail})")
        write_atomically(target, content)
    else:
        try:
            os.link(file.resolve(), target)
        except OSError:  # another file system, or one without links
            write_atomically(target, file.read_bytes())
