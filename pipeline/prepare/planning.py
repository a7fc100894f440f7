"""Choose the images that `prepare` takes, and the split of each. Nothing is written."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from headstart.features.errors import DataError
from headstart.features.files import sha256_of
from headstart.features.images.faults import NO_IMAGE, Fault
from headstart.features.images.formats import inspect_bytes
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.terminal import progress
from headstart.pipeline.data.columns.items import Item
from headstart.pipeline.data.layouts import Reading
from headstart.pipeline.data.listing import files_below
from headstart.pipeline.data.names import listed
from headstart.pipeline.data.splits import SPLITS, complete, takes_val_from_train
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.sources import SourceFile

There = dict[str, list[tuple[str, Path]]]  # the split and path of each file in a data folder, by digest


@dataclass(frozen=True)
class Placement:
    """An image of the source or of the data folder, with its label, split and group.

    `split` is the split that the source gives to the image, or "" if the source gives none.
    """

    member: SourceFile
    image: ImageFile
    label: str
    split: str
    group: str | None


def read_images(
    members: Sequence[SourceFile], read: Reading, max_pixels: int, listed: bool = False
) -> tuple[list[Placement], list[Reject], int]:
    """Read each of `members` that has a label. Return the images, the rejects, and the number of other files.

    The argument `read` holds the label, split and group of each member. The argument `listed` is true if the members
    are rows of a manifest. A file that is no image is a reject if `listed` is true. Otherwise, such a file counts as
    one of the other files. A member whose name leads out of its archive is always a reject, even without a label.
    """
    images, rejects, others = [], [], 0
    groups = read.groups or [None] * len(members)
    with progress("reading", len(members)) as advance:
        for member, label, split, group in zip(members, read.labels, read.splits, groups, strict=True):
            advance(1)
            if label is None and not member.escapes:
                continue
            content = member.read()
            header = content if isinstance(content, Fault) else inspect_bytes(content, member.name, max_pixels)
            if header is None and listed:
                header = NO_IMAGE
            if isinstance(header, Fault):
                rejects.append(Reject(member.path, header.reason, header.detail))
            elif header is None:
                others += 1
            else:
                assert isinstance(content, bytes)
                assert label is not None
                digest = hashlib.sha256(content).hexdigest()
                image = ImageFile(str(member.file or member.path), digest, len(content), 0, **vars(header))
                images.append(Placement(member, image, label, split, group))
    return images, rejects, others


def splits_there(data: Path) -> There:
    """Return the files in `data`: a dict from digest to a list of pairs (split, path)."""
    found: There = {}
    for split in SPLITS:
        for path in files_below(data / split) if (data / split).is_dir() else []:
            found.setdefault(sha256_of(path), []).append((split, path))
    return found


class Chosen(NamedTuple):
    """The split of each image of a source, and lines that say how the splits were chosen.

    Images in the data folder may change their split. For each change, `moves` maps a pair (digest, old split) to the
    new split.
    """

    splits: list[str]
    lines: list[str]
    moves: dict[tuple[str, str], str]


def choose_splits(
    images: Sequence[Placement], others: Sequence[Placement], there: There, seed: int, config: PrepareConfig
) -> Chosen:
    """Choose the split of each image that is added from a source to a data folder.

    Args:
        images: the images of the source.
        others: images that are only in the data folder, and share a group with an image of the source.
        there: the files of the data folder; see `splits_there`.

    Raises:
        DataError: an image is in the source and in the data folder, with splits that don't fit; see `_split_held`.
    """
    given = {one.split for one in images if one.split}
    fractions = {"val": config.val, "test": config.test}
    from_train = takes_val_from_train(given, fractions)
    every = [*images, *others]
    labels = {name: number for number, name in enumerate(sorted({one.label for one in every}))}
    allowed: dict[str, set[str]] = {}  # the splits in which the source has an image, by digest
    for one in images:
        allowed.setdefault(one.image.digest, set()).update(_splits_allowed(one, from_train))
    items = []
    for one in every:
        digest = one.image.digest
        held = _split_held(one, there.get(digest, []), allowed.get(digest, set()), from_train)
        of_train = from_train and one.split == "train"
        drawn = of_train or not one.split
        split = held if drawn else one.split
        items.append(Item(digest, labels[one.label], one.group, split, drawn, of_train, one.member.path))
    splits, lines = complete(items, given, seed, fractions)
    if given:
        names = ", ".join(split for split in SPLITS if split in given)
        lines.insert(0, f"the source is split already ({names}), and stays so; --resplit dissolves it")
    moves = {
        (item.digest, item.split): split
        for item, split in zip(items, splits, strict=True)
        if item.split and item.split != split
    }
    return Chosen(splits[: len(images)], lines, moves)


def _splits_allowed(one: Placement, from_train: bool) -> set[str]:
    """Return the splits that the source allows for the image `one`. An empty set means that all splits are allowed."""
    return {"train", "val"} if from_train and one.split == "train" else {one.split} - {""}


def _split_held(one: Placement, there: Sequence[tuple[str, Path]], allowed: set[str], from_train: bool) -> str:
    """Return the last split in the list `there` that the source allows for the image `one`; see `_splits_allowed`.

    If there is no such split, the set `allowed` decides. If the set holds every split in the list, the result is "". If
    the set lacks a split in the list, a DataError is raised.
    """
    mine = _splits_allowed(one, from_train)
    held = [split for split, _ in there if not mine or split in mine]
    if not held and any(split not in allowed for split, _ in there):
        split, path = there[-1]
        raise DataError(
            f"{one.member.path}: is in {one.split} of the source, and in {split} of the data folder ({path}); name a "
            "new folder"
        )
    return held[-1] if held else ""


def require_full_splits(
    source: Path, read: Reading, images: Sequence[Placement], splits: Sequence[str], config: PrepareConfig
) -> list[str]:
    """Raise a DataError if a split that must have all classes lacks images of a class.

    Train must have all classes. The source decides whether val and test must have them:

    - If the source gives no splits: val must have all classes if `config.val` is over 0. Test must have all classes if
      `config.test` is over 0.
    - If the source gives splits: test may lack classes. Val must have all classes in two cases: the source gives val,
      or the source gives test and `config.val` is over 0.

    Returns a list of at most one line. If the source gives test, the line names the classes without images in test.
    """
    given = {split for split in read.splits if split}
    asked = {split for split in ("val", "test") if getattr(config, split)} if not given else given - {"test"}
    if "test" in given and config.val:
        asked.add("val")
    asked.add("train")
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
    untested = [label for label in read.class_names if "test" in given and (label, "test") not in present]
    return [f"{len(untested)} classes have no images in test: {listed(untested)}"] if untested else []
