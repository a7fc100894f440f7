"""Assign images to splits by a hash, class by class, so that groups of images stay together."""

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from headstart.pipeline.data.split_filling import fill

SPLITS = ("train", "val", "test")
VAL_FRACTION = TEST_FRACTION = 0.1
FRACTIONS = {"val": VAL_FRACTION, "test": TEST_FRACTION}
COPIES = "images with copies"  # in a line about equal images in several splits
_DRAWN = ("test", "val")  # in this order, each takes the lowest hashes that are left


class Item(NamedTuple):
    """An image to be split."""

    digest: str
    label: int
    group: str | None = None  # images of one group get the same split; None for no group
    split: str = ""  # the split that the image already has; "" for none
    drawn: bool = False  # whether `split` was drawn earlier, not given: then the image may follow its group elsewhere
    of_train: bool = False  # whether the image is given to train, and may be taken for val
    path: str = ""  # the path in messages; "" if messages name the image by its digest


def assign(items: Sequence[Item], seed: int, fractions: Mapping[str, float]) -> list[str]:
    """Return the split of each item.

    The images of each class are ordered by a hash of `seed` and digest. The first images make test, the next val, and
    the rest train. The size of a split is its fraction of the class, rounded to whole images. A class of three or more
    images has at least one in each split whose fraction is above 0. A class of two has one in train and one in val.

    Equal images, and images of one group, get the same split, so sizes are only as exact as whole groups allow. A class
    of three or more groups has one in each split, if the groups allow it. If some images of a group already have a
    split, the group gets the split of most of these images. In a tie, test goes before val, and val before train. A
    group may have images that were given to test, and others that were given to train (`Item.of_train`). The latter
    then count as a group of their own.

    Args:
        fractions: the fractions of `val` and `test`. A split that is missing or has 0 gets no further images.
    """
    hashes = [_hash(item.digest, seed) for item in items]
    if len({item.digest for item in items}) == len(items) and not any(
        item.group is not None or item.split for item in items
    ):
        return _assign_each(items, hashes, fractions)
    groups = sorted(_groups(items), key=lambda group: min(hashes[at] for at in group))
    contents = [_content(items, group) for group in groups]
    held = [_held(items, group) for group in groups]
    # Where val is taken from train, the images of a given test set must not make val larger.
    counted = [content for content, split in zip(contents, held, strict=True) if split in ("", *_asked(fractions))]
    sizes: Counter[int] = Counter()
    for content in counted:
        sizes.update(content)
    counts = Counter(label for content in counted for label in content)
    wanted = _wanted(sizes, counts, fractions)
    lacking = wanted.copy()
    for content, split in zip(contents, held, strict=True):
        for label, count in content.items():
            lacking[label, split] -= count
    splits = [split or _next_split(content, lacking) for content, split in zip(contents, held, strict=True)]
    for label, size in sizes.items():
        wanted[label, "train"] = size - wanted[label, "val"] - wanted[label, "test"]
    fill(splits, contents, [not split for split in held], _due(counts, fractions), wanted)
    found = [""] * len(items)
    for group, split in zip(groups, splits, strict=True):
        for at in group:
            found[at] = split
    return found


def takes_val_from_train(given: Collection[str], fractions: Mapping[str, float]) -> bool:
    """Whether val must be drawn from train.

    This is so if `given`, the splits of a data set, include train and test but not val, and if the fraction of val is
    above 0.
    """
    return {"train", "test"} <= set(given) and "val" not in given and fractions.get("val", 0) > 0


def complete(
    items: Sequence[Item], given: Collection[str], seed: int, fractions: Mapping[str, float]
) -> tuple[list[str], list[str]]:
    """Return the split of each item, and lines that say how the items without a split got theirs.

    `given` are the splits that a data set comes with. An item keeps the split that it was given, even if others of its
    group are elsewhere; a line counts such groups. If `takes_val_from_train` is true, the items with `of_train` are
    divided between train and val. If no item has `of_train`, all items without a split are divided between the two.
    """
    if all(item.split for item in items):
        splits = [item.split for item in items]
        return splits, _told_straddling(items, splits, given)
    from_train = takes_val_from_train(given, fractions)
    shares = {name: share for name, share in fractions.items() if share and not (from_train and name == "test")}
    if from_train and not any(item.of_train for item in items):
        items = [item if item.split else item._replace(of_train=True) for item in items]
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) or "train alone"
    line = f"split by a hash of each image, class by class: {told}{' of train; test is as it was given' * from_train}"
    splits = [
        item.split if item.split and not item.drawn else split
        for item, split in zip(items, assign(items, seed, shares), strict=True)
    ]
    return splits, [line, *_told_straddling(items, splits, given)]


def _told_straddling(items: Sequence[Item], splits: Sequence[str], given: Collection[str]) -> list[str]:
    """Return a line that counts the groups in several splits, and a line that counts the images with copies in several.

    A line is left out if it would count none. If `given` is empty, the result is [].
    """
    if not given:
        return []
    lines = []
    for what, key in (("groups", "group"), (COPIES, "digest")):
        first_of: dict[str, int] = {}
        straddling: dict[str, tuple[int, int]] = {}  # positions of the first two that are apart
        for at, item in enumerate(items):
            value = getattr(item, key)
            if value is not None and splits[first := first_of.setdefault(value, at)] != splits[at]:
                straddling.setdefault(value, (first, at))
        for value, ends in itertools.islice(straddling.items(), 1):
            names = [value if key == "group" else items[at].path or value[:12] for at in ends]
            first_two = " and ".join(f"{name} in {splits[at]}" for name, at in zip(names, ends, strict=True))
            lines.append(f"{len(straddling)} {what} are in several splits, as these are given: {first_two}, the first")
    return lines


def _assign_each(items: Sequence[Item], hashes: Sequence[str], fractions: Mapping[str, float]) -> list[str]:
    """Assign splits as `assign` does, but much faster, to images that all differ and have neither group nor split."""
    classes: dict[int, list[int]] = defaultdict(list)
    for at, item in enumerate(items):
        classes[item.label].append(at)
    sizes = Counter({label: len(images) for label, images in classes.items()})
    wanted = _wanted(sizes, sizes, fractions)
    splits = ["train"] * len(items)
    for label, images in classes.items():
        rest = iter(sorted(images, key=hashes.__getitem__))
        for split in _DRAWN:
            for at in itertools.islice(rest, wanted[label, split]):
                splits[at] = split
    return splits


def _content(items: Sequence[Item], group: Sequence[int]) -> dict[int, int]:
    """Count the different images of each label in a group. `group` holds positions in `items`."""
    if len(group) == 1:
        return {items[group[0]].label: 1}
    return Counter(label for _, label in {(items[at].digest, items[at].label) for at in group})


def _held(items: Sequence[Item], group: Sequence[int]) -> str:
    """Return the split that most images of a group already have; "" if no image has a split."""
    held = Counter(items[at].split for at in group if items[at].split)
    return max(reversed(SPLITS), key=lambda split: held[split]) if held else ""


def _next_split(content: Mapping[int, int], wanted: Counter[tuple[int, str]]) -> str:
    """Return the split for a group with `content`, and subtract the group's images from `wanted`.

    The split is the first of test and val that still wants at least half of the group's images, otherwise train.
    """
    for split in _DRAWN:
        lacking = sum(min(count, max(0, wanted[label, split])) for label, count in content.items())
        if 2 * lacking >= sum(content.values()):
            for label, count in content.items():
                wanted[label, split] -= count
            return split
    return "train"


def _asked(fractions: Mapping[str, float]) -> list[str]:
    """Return the splits that get images, the most needed first."""
    return [split for split in SPLITS if split == "train" or fractions.get(split)]


def _due(groups: Counter[int], fractions: Mapping[str, float]) -> set[tuple[int, str]]:
    """Return each (class, split) that needs a group. `groups` has the number of groups of each class.

    If a class has too few groups for all splits, train needs one first, then val.
    """
    return {(label, split) for label, count in groups.items() for split in _asked(fractions)[:count]}


def _wanted(sizes: Counter[int], groups: Counter[int], fractions: Mapping[str, float]) -> Counter[tuple[int, str]]:
    """Return the number of different images of each class that val and test should have, by (label, split).

    Train keeps at least one image of each class. `sizes` has the number of different images of each class, and `groups`
    the number of its groups.
    """
    wanted: Counter[tuple[int, str]] = Counter()
    for label, size in sizes.items():
        drawn = _asked(fractions)[1 : groups[label]]  # train gets one group at least
        for split in drawn:
            wanted[label, split] = min(max(1, int(fractions[split] * size + 0.5)), size - 1)
        while sum(wanted[label, split] for split in drawn) >= size:
            several = [split for split in drawn if wanted[label, split] > 1]
            wanted[label, max(several, key=lambda split: wanted[label, split] - fractions[split] * size)] -= 1
    return wanted


def _groups(items: Sequence[Item]) -> list[list[int]]:
    """Return the positions of the items of each group. Items with equal digests or equal groups are in one group.

    A group with items in test and items that were given to train (`Item.of_train`) is split into these two parts.
    """
    groups = united([("digest", item.digest), *([("group", item.group)] * (item.group is not None))] for item in items)
    if not any(item.of_train for item in items):
        return groups
    parted = []
    for group in groups:
        sides = ([at for at in group if items[at].of_train is side] for side in (False, True))
        tested = any(items[at].split == "test" for at in group)
        parted += [side for side in sides if side] if tested else [group]
    return parted


def united(keys: Iterable[Iterable[Hashable]]) -> list[list[int]]:
    """Group positions that share a key. `keys` has the keys of each position.

    Two positions without a common key are in one group, too, if a chain of other positions links them.
    """
    first: dict[Hashable, int] = {}
    parents: list[int] = []

    def root(at: int) -> int:
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = parents[at]
        return at

    for at, mine in enumerate(keys):
        parents.append(at)
        for key in mine:
            if (other := first.setdefault(key, at)) != at:
                parents[root(at)] = root(other)
    found: dict[int, list[int]] = defaultdict(list)
    for at in range(len(parents)):
        found[root(at)].append(at)
    return list(found.values())


def _hash(digest: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()


def split_of(digest: str, seed: int, val: float = VAL_FRACTION, test: float = TEST_FRACTION) -> str:
    """Return the split that versions before 0.2 drew for an image. They did not draw class by class."""
    draw = int(_hash(digest, seed)[:13], 16) / 16**13  # in [0, 1)
    if draw < test:
        return "test"
    return "val" if draw < test + val else "train"
