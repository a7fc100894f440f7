"""Compare the images of a source and of the data folder, to group near-duplicates or to drop copies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from headstart.features.errors import OptionError
from headstart.features.images.columns.inspected import inspect_images
from headstart.features.images.scan import ImageFile
from headstart.pipeline.data.config import NEAR_DUPLICATES, DataConfig
from headstart.pipeline.data.copies import united
from headstart.pipeline.data.similar import near_duplicate_groups
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.planning import Placement, There
from headstart.pipeline.prepare.sources import SourceFile, read_file


@dataclass(frozen=True)
class Compared:
    """The images that remain after the comparison, and lines that say what was found."""

    images: list[Placement]
    others: list[Placement]  # images of the data folder alone that are in a group with some of `images`
    dropped: int  # number of images that were left out
    lines: list[str]


def compare(
    source: Path, images: list[Placement], there: There, config: PrepareConfig, reading: DataConfig
) -> Compared:
    """Group near-duplicates (`--group near-duplicates`), or drop copies and near-duplicates (`--drop-duplicates`).

    If neither option is given, all of `images` are kept as they are.

    With `--drop-duplicates`, only the first image of each set of copies and near-duplicates is kept. If the data folder
    already holds images of the set, only these images are kept.

    The argument `there` holds the files of the data folder. Raises OptionError if one of the options is given, but an
    image is not a file on a disk, for example because it lies in an archive.
    """
    if not (config.drop_duplicates or reading.group == NEAR_DUPLICATES):
        return Compared(images, [], 0, [])
    if any(one.member.file is None for one in images):
        option = "--drop-duplicates" if config.drop_duplicates else f"--group {NEAR_DUPLICATES}"
        raise OptionError(f"{option}: compares pixels of files on a disk; unpack or copy {source}, and name the folder")
    others = _others(images, there, config.max_pixels)
    every = [*images, *others]
    groups = near_duplicate_groups([one.image for one in every])
    groups = [group for group in groups if group[0] < len(images)]
    lines = [f"{sum(map(len, groups))} images are near-duplicates of others, in {len(groups)} groups"]
    if not config.drop_duplicates:
        grouped = _grouped(every, groups)
        near = {at for group in groups for at in group}
        mates = [one for at, one in enumerate(grouped) if at >= len(images) and at in near]
        return Compared(grouped[: len(images)], mates, 0, lines)
    kept = _kept(every, len(images), groups, there)
    lines += _told_conflicts([(every[at], every[of]) for at, of in sorted(kept.items())])
    return Compared([one for at, one in enumerate(images) if at not in kept], [], len(kept), lines)


def _others(images: Sequence[Placement], there: There, max_pixels: int) -> list[Placement]:
    """Return the images of the data folder that are not among the source's `images`.

    The argument `there` holds the files of the data folder.
    """
    known = {one.image.digest for one in images}
    paths = [path for digest, files in there.items() if digest not in known for _, path in files[-1:]]
    found = []
    for path, seen in zip(paths, inspect_images(paths, max_pixels), strict=True):
        member = SourceFile(path.name, str(path), partial(read_file, path), path)
        found += [Placement(member, one, path.parent.name, "", None) for one in seen if isinstance(one, ImageFile)]
    return found


def _grouped(images: Sequence[Placement], groups: Sequence[Sequence[int]]) -> list[Placement]:
    """Return `images` with new groups, so that near-duplicates are in one group.

    Two groups are joined if an image of one is a near-duplicate of an image of the other.
    """
    keys = [[one.group] if one.group is not None else [] for one in images]
    near: list[list[int]] = [[] for _ in images]
    for number, group in enumerate(groups):
        for at in group:
            near[at].append(number)
    whole = list(images)
    for together in united([[*one, *others] for one, others in zip(keys, near, strict=True)]):
        numbers = [number for at in together for number in near[at]]
        if numbers:
            named = [name for at in together for name in keys[at]]
            name = named[0] if named else f"near-duplicates {numbers[0]}"
            for at in together:
                whole[at] = replace(images[at], group=name)
    return whole


def _kept(images: Sequence[Placement], count: int, groups: Sequence[Sequence[int]], there: There) -> dict[int, int]:
    """Choose the duplicates to drop among the first `count` images. Return {position dropped: position kept}."""
    kept: dict[int, int] = {}
    for group in groups:
        held = [at for at in group if images[at].image.digest in there]
        first = (held or group)[0]
        kept.update({at: first for at in group if at < count and at != first and at not in held})
    first_of: dict[str, int] = {}
    for at, one in enumerate(images[:count]):
        if at not in kept and (first := first_of.setdefault(one.image.digest, at)) != at:
            kept[at] = first
    return kept


def _told_conflicts(pairs: Sequence[tuple[Placement, Placement]]) -> list[str]:
    """Return a list with a warning if the two images of some pair have different labels. If not, return [].

    Each of `pairs` holds a dropped image, and the copy or near-duplicate that is kept in its place.
    """
    differing = [pair for pair in pairs if pair[0].label != pair[1].label]
    if not differing:
        return []
    first = ", ".join(f"{one.member.path} as {one.label}" for one in differing[0])
    return [
        f"warning: {len(differing)} images are in several classes, and the label of the dropped copy is lost: {first}"
        + ("; ..." if len(differing) > 1 else "")
    ]
