"""Splits by a hash, class by class: full, exact, stable, and never through a group."""

from collections import Counter

import pytest
from headstart.pipeline.data.splits import SPLITS, Item, assign, complete
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
    assert Counter(splits) == {"train": 35, "val": 5, "test": 7}
    assert "test is as it was given" in lines[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_decides(seed: int) -> None:
    assert assign(items(50), seed, TENTHS) == assign(items(50), seed, TENTHS)
    assert assign(items(50), seed, TENTHS) != assign(items(50), seed + 1, TENTHS)
