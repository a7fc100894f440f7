import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from headstart.features.digests import DIGEST
from headstart.features.store.index import Index, Segment, merged, names_in_use
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path("store")
Change = tuple[bool, list[list[int]]]  # whether shards are removed, and the digests of new shards


def digests(numbers: Sequence[int]) -> np.ndarray:
    return np.array([hashlib.sha256(bytes([number])).digest() for number in numbers], DIGEST)


changes = st.lists(
    st.tuples(st.booleans(), st.lists(st.lists(st.integers(0, 99), unique=True, min_size=1), max_size=4))
)


@given(changes, st.integers(1, 5), st.randoms(use_true_random=False))
def test_an_index_finds_what_its_shards_hold_however_it_came_about(drawn: list[Change], rows: int, random) -> None:
    held: dict[str, list[int]] = {}
    index = Index(FOLDER)
    for number, (remove, new) in enumerate(drawn):
        if remove and held:
            gone = random.sample(sorted(held), random.randint(1, len(held)))
            held = {shard: content for shard, content in held.items() if shard not in gone}
            index = index.without_shards(gone)
        added = {f"shard-{random.randint(0, 999)}-{number}-{at}.h5": content for at, content in enumerate(new)}
        held |= added
        index = index.with_shards({shard: digests(content) for shard, content in added.items()})
    some = {number for content in held.values() for number in content}
    assert len(index) == sum(map(len, held.values()))
    assert index.digests().tolist() == sorted(digests([one for content in held.values() for one in content]).tolist())
    assert index.count() == len(some)
    assert index.find(digests(range(100))).tolist() == [number in some for number in range(100)]
    assert sum(segment.size for segment in index.segments) == len(index)
    asked = sorted(some)
    seen = []
    for slab in index.slabs(digests(asked), rows):
        assert slab.rows[-1] - slab.rows[0] < rows
        assert [held[slab.shard.name][row] for row in slab.rows] == [asked[position] for position in slab.positions]
        seen += slab.positions.tolist()
    assert sorted(seen) == list(range(len(asked)))


def test_new_shards_seldom_touch_the_older_ones() -> None:
    index, merged = Index(FOLDER), 0
    for number in range(256):
        before = index.segments
        name = hashlib.sha256(str(number).encode()).digest()
        index = index.with_shards({f"shard-{number}.h5": np.array([name], DIGEST)})
        merged += sum(segment.size for segment in index.segments if segment not in before)
    assert len(index.segments) <= 9
    assert merged < 256 * 10


def test_the_order_of_slabs_does_not_depend_on_how_the_index_came_about() -> None:
    shards = {f"shard-{letter}.h5": digests(range(10 * at, 10 * at + 10)) for at, letter in enumerate("cab")}
    whole = Index(FOLDER).with_shards({shard: shards[shard] for shard in sorted(shards)})
    grown = Index(FOLDER)
    for shard, held in shards.items():
        grown = grown.with_shards({shard: held})
    for seed in (None, 0, 1):
        orders = [
            [(slab.shard, slab.rows.tolist()) for slab in index.slabs(
                digests(range(30)), 3, None if seed is None else np.random.default_rng(seed)
            )]
            for index in (whole, grown)
        ]  # fmt: skip
        assert orders[0] == orders[1]


@given(st.lists(st.lists(st.integers(0, 99), unique=True, min_size=1), min_size=1, max_size=5), st.integers(1, 9))
def test_segments_are_merged_in_order_however_few_are_held_at_once(held: list[list[int]], at_once: int) -> None:
    segments = [
        Segment.of({f"shard-{at}.h5": digests(content), f"shard-{at}-gone.h5": digests([at])})
        for at, content in enumerate(held)
    ]
    names = {f"shard-{at}.h5" for at in range(len(held))}
    segments = [segment.limited_to(names) for segment in segments]
    seen = []
    for entries in merged(segments, at_once):
        assert len(entries.digests) <= max(at_once, len(segments))
        seen += list(zip(*(values.tolist() for values in entries), strict=True))
    shards = names_in_use(segments)[0]
    expected = {
        (digests([number])[0].item(), shards.index(f"shard-{at}.h5"), row)
        for at, content in enumerate(held)
        for row, number in enumerate(content)
    }
    assert len(seen) == len(expected)
    assert set(seen) == expected
    assert [digest for digest, _, _ in seen] == sorted(digest for digest, _, _ in seen)
