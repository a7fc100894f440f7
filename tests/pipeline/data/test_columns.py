"""Columns of examples give back the examples, and answer as a list of them would."""

from collections import Counter

import numpy as np
from headstart.features.images.scan import ImageFile
from headstart.pipeline.data.columns.coded import Coded
from headstart.pipeline.data.copies import same_image
from headstart.pipeline.data.examples import Example, Examples
from headstart.pipeline.data.splits import SPLITS
from hypothesis import given
from hypothesis import strategies as st

EXAMPLES = st.lists(
    st.builds(
        Example,
        st.builds(
            lambda name, digest: ImageFile(name, f"{digest:064x}", 1, 1, 1, 1, 1, "PNG"),
            st.text("ab/", min_size=1, max_size=4),
            st.integers(0, 5),
        ),
        st.integers(-1, 3),
        st.sampled_from(SPLITS),
        st.sampled_from([None, "one", "two"]),
    ),
    max_size=12,
)


@given(EXAMPLES, st.lists(st.integers(0, 100), max_size=5))
def test_examples_are_given_back(rows: list[Example], chosen: list[int]) -> None:
    columns = Examples.of(rows)
    assert list(columns) == rows
    assert columns == rows
    assert [columns[at] for at in range(len(rows))] == rows
    taken = np.array([at % len(rows) for at in chosen] if rows else [], np.int64)
    assert list(columns[taken]) == [rows[at] for at in taken]
    assert list(columns[1:]) == rows[1:]
    assert Examples.of(columns) is columns


@given(EXAMPLES)
def test_examples_answer_as_a_list_would(rows: list[Example]) -> None:
    columns = Examples.of(rows)
    for split in SPLITS:
        assert list(columns.of_split(split)) == [one for one in rows if one.split == split]
    assert columns.of_split("all") is columns
    assert columns.counts() == Counter((one.label, one.split) for one in rows)
    assert columns.different == len({one.image.digest for one in rows})
    by_digest = {
        digest: [one for one in rows if one.image.digest == digest]
        for digest in dict.fromkeys(one.image.digest for one in rows)
    }
    assert same_image(rows) == [group for group in by_digest.values() if len(group) > 1]


@given(st.lists(st.sampled_from([None, "", "a", "b"])))
def test_coded_values_are_given_back(values: list[str | None]) -> None:
    coded = Coded[str | None].of(values)
    assert list(coded) == values
    assert coded == values
    assert [coded[at] for at in range(len(values))] == values
    assert set(coded.used()) == set(values)
    assert {value: at.tolist() for value, at in coded.positions().items()} == {
        value: [at for at, one in enumerate(values) if one == value] for value in set(values)
    }
    assert list(coded.with_values([value or "a" for value in coded.values])) == [value or "a" for value in values]
    assert coded.is_("a").tolist() == [value == "a" for value in values]
