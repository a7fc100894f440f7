"""Assign images to splits by a hash, class by class, so that groups of images stay together."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from headstart.features.digests import DIGEST, sorting
from headstart.pipeline.data.columns.coded import Coded
from headstart.pipeline.data.columns.items import Item, Items
from headstart.pipeline.data.config import TEST_FRACTION, VAL_FRACTION
from headstart.pipeline.data.split_filling import fill

SPLITS = ("train", "val", "test")
FRACTIONS = {"val": VAL_FRACTION, "test": TEST_FRACTION}
COPIES = "images with copies"  # in a line about equal images in several splits
_DRAWN = ("test", "val")  # in this order, each takes the lowest hashes that are left


def assign(items: Items | Sequence[Item], seed: int, fractions: Mapping[str, float]) -> list[str]:
    """Return the split of each item: `train`, `val` or `test`. All images of a group get the same split.

    Args:
        fractions: the fractions of `val` and `test`. A split that is missing or has 0 gets no further images.

    Equal images are in the same group. An image without a group is a group of its own. If a group already has images in
    test, its images with a true `Item.of_train` are a separate group.

    These rules decide the split of a group. An earlier rule takes precedence over a later one.

    - If images of a group already have a split, the group gets the most frequent of their splits. In a tie, test goes
      before val, and val before train.
    - If possible, each class has a group in train, and in each split whose fraction is above 0. A class with too few
      groups has a group in train first, then in val.
    - Val and test get their fractions of the images of each class, rounded to whole images. With large groups,
      the sizes are less exact.
    - In each class, groups are ordered by a hash of `seed` and digest. The first groups get test, the next groups get
      val, and all other groups get train.
    """
    items = Items.of(items)
    rank = _rank(items, seed)
    if items.same.max(initial=-1) + 1 == len(items) and items.without_split.all() and items.groups.is_(None).all():
        return _assign_each(items, rank, fractions)
    groups = _Groups.of(items, rank)
    contents, held = groups.contents(items), groups.held(items)
    # Where val is taken from train, the images of a given test set must not make val larger.
    counted = [content for content, split in zip(contents, held, strict=True) if split in ("", *_asked(fractions))]
    sizes, counts = Counter[int](), Counter[int]()
    for content in counted:
        for label, count in content.items():
            sizes[label] += count
            counts[label] += 1
    wanted = _wanted(sizes, counts, fractions)
    lacking = wanted.copy()
    for content, split in zip(contents, held, strict=True):
        for label, count in content.items():
            lacking[label, split] -= count
    splits = [split or _next_split(content, lacking) for content, split in zip(contents, held, strict=True)]
    for label, size in sizes.items():
        wanted[label, "train"] = size - wanted[label, "val"] - wanted[label, "test"]
    fill(splits, contents, [not split for split in held], _due(counts, fractions), wanted)
    return groups.of_items(splits)


def takes_val_from_train(given: Collection[str], fractions: Mapping[str, float]) -> bool:
    """Whether val must be drawn from train: `given` has train and test but no val, and val's fraction is above 0."""
    return {"train", "test"} <= set(given) and "val" not in given and fractions.get("val", 0) > 0


def complete(
    items: Items | Sequence[Item], given: Collection[str], seed: int, fractions: Mapping[str, float]
) -> tuple[list[str], list[str]]:
    """Draw a split for each item that has no split. Return the splits of all items, and lines of text for the user.

    `given` holds the names of the splits that the data set gives. If `takes_val_from_train(given, fractions)` is true,
    items without a split get train or val. Otherwise, these items get train, val or test.

    A split that was given never changes. If at least one item has no split, splits that were drawn earlier (see
    `Item.drawn`) may change. The lines say how splits were drawn. They also warn of groups and of copies that lie in
    more than one split.
    """
    items = Items.of(items)
    if not (without := items.without_split).any():
        splits = list(items.splits)
        return splits, _told_straddling(items, splits, given)
    from_train = takes_val_from_train(given, fractions)
    shares = {name: share for name, share in fractions.items() if share and not (from_train and name == "test")}
    if from_train and not items.of_train.any():
        items = replace(items, of_train=without)
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) or "train alone"
    line = f"split by a hash of each image, class by class: {told}{' of train; test is as it was given' * from_train}"
    kept = (~without & ~items.drawn).tolist()
    drawn = zip(kept, items.splits, assign(items, seed, shares), strict=True)
    splits = [split if is_kept else assigned for is_kept, split, assigned in drawn]
    return splits, [line, *_told_straddling(items, splits, given)]


def _told_straddling(items: Items, splits: Sequence[str], given: Collection[str]) -> list[str]:
    """Return at most two warnings: one about groups in several splits, and one about copies in several splits."""
    if not given:
        return []
    lines, codes = [], Coded.of(splits).codes
    for what, keys, some in (
        ("groups", items.groups.codes, ~items.groups.is_(None)),
        (COPIES, items.same, np.ones(len(items), bool)),
    ):
        _, first, number = np.unique(keys, return_index=True, return_inverse=True)
        apart = np.flatnonzero(some & (codes[first[number]] != codes))
        if len(apart):
            ends = [int(first[number[apart[0]]]), int(apart[0])]
            names = [items.groups[at] if what == "groups" else items.paths[at] or items.digests[at][:12] for at in ends]
            first_two = " and ".join(f"{name} in {splits[at]}" for name, at in zip(names, ends, strict=True))
            count = len(np.unique(keys[apart]))
            lines.append(f"{count} {what} are in several splits, as these are given: {first_two}, the first")
    return lines


def _rank(items: Items, seed: int) -> np.ndarray:
    """Return the rank of each item by the hash of seed and digest, int64 [N]. Equal images have the same rank."""
    hashes = bytearray()
    for digest in items.digests:
        hashes += hashlib.sha256(f"{seed}:{digest}".encode()).digest()
    order = sorting(np.frombuffer(hashes, DIGEST))
    place = np.empty(len(items), np.int64)
    place[order] = np.arange(len(items))
    lowest = np.full(items.same.max(initial=-1) + 1, len(items), np.int64)
    np.minimum.at(lowest, items.same, place)
    ranks: np.ndarray = lowest[items.same]
    return ranks


def _assign_each(items: Items, rank: np.ndarray, fractions: Mapping[str, float]) -> list[str]:
    """Assign splits as `assign` does, but much faster. No item may have a copy, a group or a split."""
    order = np.lexsort((rank, items.labels))
    labels, starts, counts = np.unique(items.labels[order], return_index=True, return_counts=True)
    sizes = Counter(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
    wanted = _wanted(sizes, sizes, fractions)
    codes = np.zeros(len(items), np.int32)
    for label, start in zip(labels.tolist(), starts.tolist(), strict=True):
        for code, split in enumerate(_DRAWN, 1):
            stop = start + wanted[label, split]
            codes[order[start:stop]] = code
            start = stop  # noqa: PLW2901
    return list(Coded(codes, ["train", *_DRAWN]))


@dataclass(frozen=True)
class _Groups:
    """Groups of items. Groups are ordered by the lowest rank of their items; see `_rank` and `assign`."""

    order: np.ndarray  # int64 [N]: positions of items, group by group
    starts: np.ndarray  # int64 [groups]: where each group begins in `order`
    sizes: np.ndarray  # int64 [groups]

    @classmethod
    def of(cls, items: Items, rank: np.ndarray) -> "_Groups":
        """Put items with equal digests, or with equal group names, in one group.

        If a group has items in test, the group is divided: its items whose `of_train` is true form a separate group.
        """
        grouped = ~items.groups.is_(None)
        roots = _roots([(items.same, np.ones(len(items), bool)), (items.groups.codes, grouped)], len(items))
        tested = np.zeros(len(items), bool)
        tested[roots[items.splits.is_("test")]] = True
        parts = 2 * roots + (items.of_train & tested[roots])
        order = np.argsort(parts, kind="stable")
        _, starts, sizes = np.unique(parts[order], return_index=True, return_counts=True)
        lowest = np.minimum.reduceat(rank[order], starts) if len(order) else rank
        by_rank = np.argsort(lowest, kind="stable")
        starts, sizes = starts[by_rank], sizes[by_rank]
        ends = np.cumsum(sizes)
        order = order[np.arange(len(order)) + np.repeat(starts - (ends - sizes), sizes)]
        return cls(order, ends - sizes, sizes)

    def contents(self, items: Items) -> list[Mapping[int, int]]:
        """Return, for each group, the number of different images of each label."""
        alone = {label: {label: 1} for label in np.unique(items.labels).tolist()}
        found: list[Mapping[int, int]] = list(map(alone.__getitem__, items.labels[self.order[self.starts]].tolist()))
        for group in np.flatnonzero(self.sizes > 1).tolist():
            members = self.order[self.starts[group] : self.starts[group] + self.sizes[group]]
            pairs = set(zip(items.same[members].tolist(), items.labels[members].tolist(), strict=True))
            found[group] = Counter(label for _, label in pairs)
        return found

    def held(self, items: Items) -> list[str]:
        """Return, for each group, the split that most of its items have already. A group without splits gets ""."""
        first = SPLITS[::-1]  # in a tie
        counts = np.stack(
            [np.add.reduceat(items.splits.is_(split)[self.order].astype(np.int64), self.starts) for split in first]
        )
        most = np.where(counts.any(axis=0), counts.argmax(axis=0), len(first))
        return list(Coded(most, [*first, ""]))

    def of_items(self, splits: Sequence[str]) -> list[str]:
        """Return the split of each item. `splits` holds the split of each group."""
        of_groups = Coded.of(splits)
        codes = np.empty(len(self.order), np.int32)
        codes[self.order] = of_groups.codes.repeat(self.sizes)
        return list(Coded(codes, of_groups.values))


def _roots(keys: Sequence[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """Put positions with an equal key in one group. Return, for each position, the first position of the group.

    The result is int64 [count].
    """
    roots = np.arange(count)
    while True:
        before = roots.copy()
        for key, mask in keys:  # `mask`: which positions have a key of this kind
            lowest = np.full(key.max(initial=-1) + 1, count)
            np.minimum.at(lowest, key[mask], roots[mask])
            roots[mask] = np.minimum(roots[mask], lowest[key[mask]])
        roots = roots[roots]
        if np.array_equal(roots, before):
            return roots


def _next_split(content: Mapping[int, int], wanted: Counter[tuple[int, str]]) -> str:
    """Choose the split for a group. If the split is test or val, subtract the group's images from `wanted`."""
    for split in _DRAWN:
        lacking = sum(min(count, max(0, wanted[label, split])) for label, count in content.items())
        if 2 * lacking >= sum(content.values()):
            for label, count in content.items():
                wanted[label, split] -= count
            return split
    return "train"


def _asked(fractions: Mapping[str, float]) -> list[str]:
    """Return the splits that get images: train, and then each of val and test whose fraction is above 0."""
    return [split for split in SPLITS if split == "train" or fractions.get(split)]


def _due(groups: Counter[int], fractions: Mapping[str, float]) -> set[tuple[int, str]]:
    """Return the pairs (class, split) for which the split must get a group of the class."""
    return {(label, split) for label, count in groups.items() for split in _asked(fractions)[:count]}


def _wanted(sizes: Counter[int], groups: Counter[int], fractions: Mapping[str, float]) -> Counter[tuple[int, str]]:
    """Return a counter that maps (class, split) to a number of images. The split is val or test.

    The number says how many different images of the class the split should get.
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


def _hash(digest: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()


def split_of(digest: str, seed: int, val: float = VAL_FRACTION, test: float = TEST_FRACTION) -> str:
    """Return the split that versions before 0.2 drew for an image. `val` and `test` are fractions of all images."""
    draw = int(_hash(digest, seed)[:13], 16) / 16**13  # in [0, 1)
    if draw < test:
        return "test"
    return "val" if draw < test + val else "train"
