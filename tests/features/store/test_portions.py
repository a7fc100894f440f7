import hashlib

from headstart.features.store.portions import LARGEST_PORTION, cut_into_portions, portion_size
from hypothesis import given
from hypothesis import strategies as st


def digests(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def named(every: list[str], missing: set[str]) -> dict[str, str]:
    """The name of the portion of each missing digest."""
    portions = cut_into_portions(every, missing)
    return {
        portions.digests[position]: name
        for portion, name in enumerate(portions.names)
        for position in portions.positions(portion)
        if portions.portion_of(position) == portion
    }


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_portions_hold_what_is_missing_and_do_not_depend_on_it(drawn: tuple[int, set[int]]) -> None:
    count, picked = drawn
    every = digests(count)
    missing = {every[number] for number in picked}
    portions = cut_into_portions(every, missing)
    assert list(portions.digests) == [digest for digest in every if digest in missing]
    assert len(set(portions.names)) == len(portions.names)
    whole = named(every, set(every))
    assert named(every, missing) == {digest: whole[digest] for digest in missing}
    assert set(whole) == set(every)


def test_a_few_more_images_leave_most_portions_as_they_are() -> None:
    every = digests(20_000)
    before = named(every, set(every))
    added = [*every[:50], *digests(20_010)[-10:], *every[50:]]
    after = named(added, set(added))
    assert sum(after[digest] == name for digest, name in before.items()) > 0.99 * len(every)


def test_portions_are_neither_large_nor_few() -> None:
    for count, largest in ((40, 40), (2000, 250), (200_000, 10 * LARGEST_PORTION)):
        every = digests(count)
        portions = cut_into_portions(every, set(every))
        assert max(len(portions.positions(portion)) for portion in range(len(portions.names))) <= largest
        assert len(portions.names) > min(count / 16, 32)


def test_large_sets_have_large_portions() -> None:
    sizes = [portion_size(images) for images in (1, 2000, 10**6, 16 * 10**6, 10**8, 10**9, 10**11)]
    assert sizes == [4, 16, 1024, 1024, 4096, 32768, 65536]
