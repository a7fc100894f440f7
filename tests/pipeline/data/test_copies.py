"""Copies, and examples that belong together."""

from dataclasses import replace

from headstart.features.images.scan import ImageFile
from headstart.pipeline.data.copies import unit_names
from headstart.pipeline.data.examples import Example
from hypothesis import given
from hypothesis import strategies as st

IMAGE = ImageFile("x.jpg", "00" * 32, 1, 0, 1, 9, 9, "JPEG")


def example(digest: int, group: str | None) -> Example:
    return Example(replace(IMAGE, digest=f"{digest:064x}"), 0, "train", group)


@given(st.lists(st.builds(example, st.integers(0, 6), st.sampled_from([None, "a", "b", "c", "d"])), max_size=12))
def test_units_hold_all_copies_and_whole_groups_and_no_more(examples: list[Example]) -> None:
    names = unit_names(examples)
    connected: list[set[str | None]] = []
    for link in ({one.image.digest, one.group} - {None} for one in examples):
        joined = [other for other in connected if other & link]
        connected = [other for other in connected if not other & link] + [link.union(*joined)]
    assert len(set(names)) == len(connected)
    for part in connected:
        assert len({name for one, name in zip(examples, names, strict=True) if one.image.digest in part}) == 1


def test_units_are_named_as_ever_where_copies_have_one_group() -> None:
    examples = [example(1, None), example(2, "g"), example(3, "g")]
    assert unit_names(examples * 2) == [examples[0].image.digest, "g", "g"] * 2
