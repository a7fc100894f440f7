"""Assign images to splits by a hash, class by class, so that groups of images stay together."""

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

SPLITS = ("train", "val", "test")
VAL_FRACTION = TEST_FRACTION = 0.1
FRACTIONS = {"val": VAL_FRACTION, "test": TEST_FRACTION}
_DRAWN = ("test", "val")  # in this order, each takes the lowest hashes that are left


class Item(NamedTuple):
    """An image to be split."""

    digest: str
    label: int
    group: str | None = None  # images of one group get the same split; None for no group
    split: str = ""  # the split that the image already has; "" for none


def assign(items: Sequence[Item], seed: int, fractions: Mapping[str, float]) -> list[str]:
    """Return the split of each item.

    The images of each class are ordered by a hash of `seed` and digest. The first images make test, the next val, and
    the rest train. The size of a split is its fraction of the class, rounded to whole images. A class of three or more
    images has at least one in each split whose fraction is above 0. A class of two has one in train and one in val.

    Equal images, and images of one group, get the same split, so sizes are only as exact as whole groups allow. If some
    images of a group already have a split, the group gets the split of most of these images. In a tie, test goes before
    val, and val before train.

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
    sizes: Counter[int] = Counter()
    for content in contents:
        sizes.update(content)
    wanted = _wanted(sizes, Counter(label for content in contents for label in content), fractions)
    splits = [_held(items, group) for group in groups]
    for content, split in zip(contents, splits, strict=True):
        for label, count in content.items():
            wanted[label, split] -= count
    for number, (content, held) in enumerate(zip(contents, splits, strict=True)):
        if not held:
            splits[number] = _next_split(content, wanted)
    found = [""] * len(items)
    for group, split in zip(groups, splits, strict=True):
        for at in group:
            found[at] = split
    return found


def takes_val_from_train(given: Collection[str], fractions: Mapping[str, float]) -> bool:
    """Whether val must be drawn from train.

    This is so if the splits `given` by a data set include train and test but not val, and val has a fraction above 0.
    """
    return {"train", "test"} <= set(given) and "val" not in given and fractions.get("val", 0) > 0


def complete(
    items: Sequence[Item], given: Collection[str], seed: int, fractions: Mapping[str, float]
) -> tuple[list[str], list[str]]:
    """Return the split of each item, and a line that describes how splits were drawn, if any were.

    `given` are the splits that the data set itself has. If val is drawn from train (see `takes_val_from_train`), items
    without a split go to train or val only.
    """
    if all(item.split for item in items):
        return [item.split for item in items], []
    from_train = takes_val_from_train(given, fractions)
    shares = {name: share for name, share in fractions.items() if share and not (from_train and name == "test")}
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) or "train alone"
    line = f"split by a hash of each image, class by class: {told}{' of train; test is as it was given' * from_train}"
    return assign(items, seed, shares), [line]


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


def _wanted(sizes: Counter[int], groups: Counter[int], fractions: Mapping[str, float]) -> Counter[tuple[int, str]]:
    """Return the number of different images of each class that val and test should have, by (label, split).

    `sizes` has the number of different images of each class, and `groups` the number of its groups.
    """
    wanted: Counter[tuple[int, str]] = Counter()
    for label, size in sizes.items():
        left = groups[label] - 1  # train gets at least one group
        for split in ("val", "test"):
            if fractions.get(split) and left > 0:
                wanted[label, split] = min(max(1, int(fractions[split] * size + 0.5)), size - 1)
                left -= 1
    return wanted


def _groups(items: Sequence[Item]) -> list[list[int]]:
    """Return the positions of the items of each group. Items with equal digests or equal groups are in one group."""
    first: dict[tuple[str, str], int] = {}
    parents = list(range(len(items)))

    def root(at: int) -> int:
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = parents[at]
        return at

    for at, item in enumerate(items):
        for kind, value in (("digest", item.digest), ("group", item.group)):
            if value is not None and (other := first.setdefault((kind, value), at)) != at:
                parents[root(at)] = root(other)
    found: dict[int, list[int]] = defaultdict(list)
    for at in range(len(items)):
        found[root(at)].append(at)
    return list(found.values())


def _hash(digest: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()


def split_of(digest: str, seed: int, val: float = VAL_FRACTION, test: float = TEST_FRACTION) -> str:
    """Return the split that versions before 0.2 drew for an image, whatever its class."""
    draw = int(_hash(digest, seed)[:13], 16) / 16**13  # in [0, 1)
    if draw < test:
        return "test"
    return "val" if draw < test + val else "train"
