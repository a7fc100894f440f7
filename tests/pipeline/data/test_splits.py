"""Splits by a hash, class by class: full, exact, stable, and never through a group."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from headstart.pipeline.data.columns.items import Item
from headstart.pipeline.data.splits import SPLITS, assign, complete
from hypothesis import given
from hypothesis import strategies as st

TENTHS = {"val": 0.1, "test": 0.1}


def items(*sizes: int, groups: int = 0) -> list[Item]:
    return [
        Item(f"{label}-{number}", label, f"group {(number * 7 + label) % groups}" if groups else None)
        for label, size in enumerate(sizes)
        for number in range(size)
    ]


def shares(images: list[Item], splits: list[str]) -> dict[int, Counter[str]]:
    found: dict[int, Counter[str]] = {}
    for item, split in zip(images, splits, strict=True):
        found.setdefault(item.label, Counter())[split] += 1
    return found


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 9), st.sampled_from([0.1, 0.2, 0.33]))
def test_each_class_of_three_is_in_every_split_and_shares_are_exact_to_one(
    sizes: list[int], seed: int, fraction: float
) -> None:
    images = items(*sizes)
    for label, counts in shares(images, assign(images, seed, {"val": fraction, "test": fraction})).items():
        size = sizes[label]
        if size >= 3:
            assert all(counts[split] for split in SPLITS)
            assert all(abs(counts[split] - fraction * size) <= 1 for split in ("val", "test"))
        else:
            assert counts == ({"train": 1, "val": 1} if size == 2 else {"train": 1})


def as_in_0_2(images: Sequence[Item], seed: int, fractions: Mapping[str, float]) -> list[str]:
    """The rule by which data sets without groups were split so far. It must not change: they would be split anew."""
    found = ["train"] * len(images)
    for label in {item.label for item in images}:
        order = sorted(
            (at for at, item in enumerate(images) if item.label == label),
            key=lambda at: hashlib.sha256(f"{seed}:{images[at].digest}".encode()).hexdigest(),
        )
        size = len(order)
        for split in ("test", "val"):
            share = min(max(1, int(fractions[split] * size + 0.5)), size - 1) if fractions[split] else 0
            for at in order[:share]:
                found[at] = split
            del order[:share]
    return found


@given(
    st.lists(st.integers(5, 60), min_size=1, max_size=4),
    st.integers(0, 9),
    st.tuples(st.integers(0, 50), st.integers(0, 50)).filter(lambda pair: sum(pair) <= 50),
)
def test_data_sets_are_split_as_before(sizes: list[int], seed: int, percent: tuple[int, int]) -> None:
    fractions = {"val": percent[0] / 100, "test": percent[1] / 100}
    images = items(*sizes)
    assert assign(images, seed, fractions) == as_in_0_2(images, seed, fractions)


@given(
    st.integers(3, 40),
    st.integers(0, 9),
    st.tuples(st.integers(1, 98), st.integers(1, 98)).filter(lambda p: sum(p) < 100),
)
def test_each_split_is_filled_whatever_the_fractions(size: int, seed: int, percent: tuple[int, int]) -> None:
    val, test = percent[0] / 100, percent[1] / 100
    counts = Counter(assign(items(size), seed, {"val": val, "test": test}))
    assert set(counts) == set(SPLITS)
    shares = {"train": (1 - val - test) * size, "val": val * size, "test": test * size}
    if min(shares.values()) >= 1:
        assert all(abs(counts[split] - share) < 1.001 for split, share in shares.items())


@given(
    st.lists(st.lists(st.integers(1, 50), min_size=3, max_size=8), min_size=1, max_size=3),
    st.integers(0, 9),
    st.sampled_from([(0.1, 0.1), (0.4, 0.4), (0.4, 0.5)]),
)
def test_a_class_of_three_groups_is_in_every_split(
    classes: list[list[int]], seed: int, fractions: tuple[float, float]
) -> None:
    images = [
        Item(f"{label} {name} {number}", label, f"{label} {name}")
        for label, sizes in enumerate(classes)
        for name, size in enumerate(sizes)
        for number in range(size)
    ]
    splits = assign(images, seed, {"val": fractions[0], "test": fractions[1]})
    assert all(set(counts) == set(SPLITS) for counts in shares(images, splits).values())
    assert len({(item.group, split) for item, split in zip(images, splits, strict=True)}) == sum(map(len, classes))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([20] * 4, {"train": 40, "val": 20, "test": 20}),
        ([10] * 3, {"train": 10, "val": 10, "test": 10}),
        ([50, 1, 1, 1], {"train": 50, "val": 1, "test": 2}),
    ],
)
def test_shares_of_large_groups_are_as_near_as_they_can_be(sizes: list[int], expected: dict[str, int]) -> None:
    images = [Item(f"{name} {n}", 0, str(name)) for name, size in enumerate(sizes) for n in range(size)]
    assert Counter(assign(images, 0, TENTHS)) == expected


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_several_classes_are_exchanged_until_each_class_is_everywhere(seed: int) -> None:
    contents = [(0, 1), (0, 1), (0, 1), (1, 2), (1, 2), (2,)]
    images = [
        Item(f"{g} {label} {n}", label, str(g)) for g, of in enumerate(contents) for label in of for n in range(9)
    ]
    assert all(set(counts) == set(SPLITS) for counts in shares(images, assign(images, seed, TENTHS)).values())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 12), st.integers(0, 9))
def test_groups_and_copies_never_straddle(sizes: list[int], groups: int, seed: int) -> None:
    images = [*items(*sizes, groups=groups), Item("0-0", len(sizes))]  # the last is a copy in another class
    splits = assign(images, seed, TENTHS)
    for name in {item.group for item in images} - {None}:
        assert len({split for item, split in zip(images, splits, strict=True) if item.group == name}) == 1
    assert splits[-1] == splits[0]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 9))
def test_the_fast_way_gives_what_groups_of_one_image_give(sizes: list[int], seed: int) -> None:
    images = items(*sizes)
    alone = [item._replace(group=item.digest) for item in images]
    assert assign(images, seed, TENTHS) == assign(alone, seed, TENTHS)


@given(st.integers(3, 50), st.integers(0, 30), st.integers(0, 9))
def test_what_is_split_already_stays(size: int, more: int, seed: int) -> None:
    first = items(size, size)
    before = dict(zip([item.digest for item in first], assign(first, seed, TENTHS), strict=True))
    grown = [item._replace(split=before.get(item.digest, "")) for item in items(size + more, size)]
    after = assign(grown, seed, TENTHS)
    assert all(before.get(item.digest, split) == split for item, split in zip(grown, after, strict=True))


@given(st.integers(3, 200), st.integers(0, 9))
def test_adding_one_image_moves_few(size: int, seed: int) -> None:
    before, after = (assign(items(count), seed, TENTHS) for count in (size, size + 1))
    assert sum(one != other for one, other in zip(before, after, strict=False)) <= 3


def test_groups_that_grow_together_go_where_most_of_their_images_are() -> None:
    together = [Item(str(number), 0, "one", split) for number, split in enumerate(["train", "train", "test", ""])]
    assert set(assign(together, 0, TENTHS)) == {"train"}
    assert set(assign(together[1:3], 0, TENTHS)) == {"test"}


def test_val_is_taken_from_train_where_train_and_test_are_given() -> None:
    images = [*items(40), *(Item(f"t{number}", 0, None, "test") for number in range(7))]
    splits, lines = complete(images, {"train", "test"}, 0, TENTHS)
    assert Counter(splits) == {"train": 36, "val": 4, "test": 7}
    assert "test is as it was given" in lines[0]


def test_groups_across_given_splits_are_told_and_stay() -> None:
    images = [Item(str(number), 0, "one", split) for number, split in enumerate(["train", "train", "val", "test"])]
    images += [Item("a", 0, "two", "train"), Item("a", 1, None, "test", path="x.jpg"), Item("b", 0, "three", "val")]
    splits, lines = complete(images, SPLITS, 0, TENTHS)
    assert splits == [item.split for item in images]
    assert lines == [
        "1 groups are in several splits, as these are given: one in train and one in val, the first",
        "1 images with copies are in several splits, as these are given: a in train and x.jpg in test, the first",
    ]


@pytest.mark.parametrize("marked", [False, True])
def test_where_val_is_drawn_given_splits_stay_whatever_groups_say(marked: bool) -> None:
    images = [
        *(item._replace(of_train=marked) for item in items(40)),
        *(Item(f"g{number}", 0, "one", of_train=marked) for number in range(5)),
        *(Item(f"t{number}", 0, None, "test") for number in range(7)),
        Item("mate", 0, "one", "test"),
        Item("0-3", 0, None, "test"),
    ]
    if marked:  # an image that no split was given to follows its group
        images.append(Item("new", 0, "one"))
    splits, lines = complete(images, {"train", "test"}, 0, TENTHS)
    assert "test" not in splits[:45]
    assert set(splits[45:]) == {"test"}
    assert len(set(splits[40:45])) == 1
    assert [line.split(", as")[0] for line in lines[1:]] == [
        "1 groups are in several splits", "1 images with copies are in several splits",
    ]  # fmt: skip


def test_only_images_without_a_given_split_follow_their_group() -> None:
    images = [Item(str(number), 0, "one", split) for number, split in enumerate(["train", "train", "test", ""])]
    images.append(Item("drawn", 0, "one", "val", drawn=True))
    splits, lines = complete(images, {"train", "test", "val"}, 0, TENTHS)
    assert splits == ["train", "train", "test", "train", "train"]
    assert "1 groups" in lines[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_decides(seed: int) -> None:
    assert assign(items(50), seed, TENTHS) == assign(items(50), seed, TENTHS)
    assert assign(items(50), seed, TENTHS) != assign(items(50), seed + 1, TENTHS)
