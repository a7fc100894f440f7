"""Choose the images that `prepare` takes, and the split of each. Nothing is written."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headstart.features.errors import DataError, OptionError
from headstart.features.images.faults import Fault
from headstart.features.images.formats import inspect_bytes
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.terminal import progress
from headstart.pipeline.data.config import NEAR_DUPLICATES, DataConfig
from headstart.pipeline.data.layouts import Reading
from headstart.pipeline.data.listing import files_below
from headstart.pipeline.data.similar import near_duplicate_groups
from headstart.pipeline.data.splits import SPLITS, Item, complete, takes_val_from_train
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.sources import Member


@dataclass(frozen=True)
class Placement:
    """An image of the source, its label, the split that the source gives it ("" for none), and its group."""

    member: Member
    image: ImageFile
    label: str
    split: str
    group: str | None


def read_images(members: Sequence[Member], read: Reading, max_pixels: int) -> tuple[list[Placement], list[Reject]]:
    """Read every member with a label once, and return the images and the rejects.

    `read` has the label, split and group of each of `members`. A member that leads out of its archive is a reject.
    """
    images, rejects = [], []
    groups = read.groups or [None] * len(members)
    with progress("reading", len(members)) as advance:
        for member, label, split, group in zip(members, read.labels, read.splits, groups, strict=True):
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
                images.append(Placement(member, image, label, split, group))
    return images, rejects


def without_copies(
    source: Path, images: list[Placement], config: PrepareConfig, reading: DataConfig
) -> tuple[list[Placement], int, list[str]]:
    """Drop copies and near-duplicates (`--drop-duplicates`), or group near-duplicates (`--group near-duplicates`).

    Of each group, the first image is kept. Returns the images, the number of dropped images, and a line that counts
    near-duplicates. Without either option, `images` are returned unchanged. Raises OptionError if images are in
    archives.
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


def splits_there(data: Path) -> dict[str, tuple[str, Path]]:
    """Map the digest of each file in the split folders of `data` to its split and path."""
    found = {}
    for split in SPLITS:
        for path in files_below(data / split) if (data / split).is_dir() else []:
            found[digest_of(path)] = (split, path)
    return found


def choose_splits(
    images: Sequence[Placement],
    there: dict[str, tuple[str, Path]],
    given: set[str],
    seed: int,
    config: PrepareConfig,
) -> tuple[list[str], list[str]]:
    """Return the split of each image, and lines that describe how the splits were chosen.

    `there` is the result of `splits_there`. `given` has the splits that the source gives. Raises DataError if the
    source and the data folder give an image different splits.
    """
    items = []
    fractions = {"val": config.val, "test": config.test}
    from_train = takes_val_from_train(given, fractions)
    labels = {name: number for number, name in enumerate(sorted({one.label for one in images}))}
    for one in images:
        held = there[one.image.digest][0] if one.image.digest in there else ""
        split = "" if from_train and one.split == "train" else one.split
        if split and held and split != held:
            raise DataError(
                f"{one.member.path}: is in {one.split} of the source, and in {held} of the data folder "
                f"({there[one.image.digest][1]}); name a new folder"
            )
        items.append(Item(one.image.digest, labels[one.label], one.group, held or split))
    kept = [f"the source is split already ({', '.join(sorted(given))}), and stays so; --resplit dissolves it"] * bool(
        given
    )
    splits, lines = complete(items, given, seed, fractions)
    return splits, [*kept, *lines]


def require_full_splits(
    source: Path, read: Reading, images: Sequence[Placement], splits: Sequence[str], config: PrepareConfig
) -> None:
    """Raise a DataError if a class has no images in a split that `config` asks for, or that the source gives."""
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


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
