import hashlib

from headstart.features.store.blocks import LARGEST_BLOCK, cut_into_blocks
from hypothesis import given
from hypothesis import strategies as st


def digests(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def named(every: list[str], missing: set[str]) -> dict[str, str]:
    """The name of the block of each missing digest."""
    blocks = cut_into_blocks(every, missing)
    return {
        blocks.digests[position]: name
        for block, name in enumerate(blocks.names)
        for position in blocks.positions(block)
        if blocks.block_of(position) == block
    }


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_blocks_hold_what_is_missing_and_do_not_depend_on_it(drawn: tuple[int, set[int]]) -> None:
    count, picked = drawn
    every = digests(count)
    missing = {every[number] for number in picked}
    blocks = cut_into_blocks(every, missing)
    assert list(blocks.digests) == [digest for digest in every if digest in missing]
    assert len(set(blocks.names)) == len(blocks.names)
    whole = named(every, set(every))
    assert named(every, missing) == {digest: whole[digest] for digest in missing}
    assert set(whole) == set(every)


def test_a_few_more_images_leave_most_blocks_as_they_are() -> None:
    every = digests(20_000)
    before = named(every, set(every))
    added = [*every[:50], *digests(20_010)[-10:], *every[50:]]
    after = named(added, set(added))
    assert sum(after[digest] == name for digest, name in before.items()) > 0.99 * len(every)


def test_blocks_are_neither_large_nor_few() -> None:
    for count, largest in ((40, 40), (2000, 250), (200_000, 10 * LARGEST_BLOCK)):
        every = digests(count)
        blocks = cut_into_blocks(every, set(every))
        assert max(len(blocks.positions(block)) for block in range(len(blocks.names))) <= largest
        assert len(blocks.names) > min(count / 16, 32)
