"""Columns give back the objects that they were made of."""

import pickle

import numpy as np
import pytest
from headstart.features.digests import DIGEST, HexDigests, first_positions, hex_digests, numbered, raw_digests, sorting
from headstart.features.images.columns.images import Images
from headstart.features.images.columns.paths import Paths
from headstart.features.images.opening import KNOWN_FORMATS
from headstart.features.images.scan import ImageFile, page_path
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.text(st.sampled_from("ab-. é/\udc80\n"), min_size=1, max_size=9)
NUMBER = st.integers(0, 1 << 40)


@st.composite
def images(draw: st.DrawFn) -> ImageFile:
    page = draw(st.integers(1, 3))
    numbers = {
        name: draw(NUMBER) for name in ("orientation", "width", "height", "tile_pixels", "scans", "bits", "pages")
    }
    return ImageFile(
        page_path(draw(NAMES), page),
        draw(st.binary(min_size=32, max_size=32)).hex(),
        bytes=draw(NUMBER),
        mtime_ns=draw(st.integers(-(1 << 62), 1 << 62)),
        format=draw(st.sampled_from(KNOWN_FORMATS)),
        page=page,
        **numbers,
    )


@given(st.lists(NAMES), st.lists(st.integers(0, 1000), max_size=5), st.sampled_from(["", "/data/", "x/"]))
def test_paths_are_given_back(names: list[str], chosen: list[int], root: str) -> None:
    paths = Paths.of(names)
    assert list(paths) == names
    assert paths == names
    rows = np.array([at % len(names) for at in chosen] if names else [], np.int64)
    some = paths[rows]
    assert list(some) == [names[row] for row in rows]
    assert pickle.loads(pickle.dumps(some)) == some
    assert list(paths.below(root)) == [root + name for name in names]
    assert list(Paths.concatenated([some, paths[1:], Paths.of(["y"]), some])) == [*some, *names[1:], "y", *some]
    assert [name for at in paths.by_folder().values() for name in paths[at]] == sorted(
        names,
        key=lambda name: list(dict.fromkeys(one[: one.rfind("/") + 1] for one in names)).index(
            name[: name.rfind("/") + 1]
        ),
    )


@given(st.sets(NAMES, max_size=30))
def test_paths_are_sorted_like_texts(names: set[str]) -> None:
    paths = Paths.of(names)
    assert list(paths[paths.in_order()]) == sorted(names)


@given(st.lists(images(), max_size=8), st.lists(st.integers(0, 100), max_size=5))
def test_images_are_given_back(rows: list[ImageFile], chosen: list[int]) -> None:
    columns = Images.of(rows)
    assert list(columns) == rows
    assert columns == rows
    assert [columns[at] for at in range(len(rows))] == rows
    assert list(columns.paths()) == [one.path for one in rows]
    taken = np.array([at % len(rows) for at in chosen] if rows else [], np.int64)
    some = columns[taken]
    assert list(some) == [rows[at] for at in taken]
    assert pickle.loads(pickle.dumps(some)) == some
    assert list(Images.concatenated([some, columns, columns[1:]])) == [*some, *rows, *rows[1:]]


def test_pickled_images_take_no_more_than_they_need() -> None:
    one = ImageFile("x", "00" * 32, 1, 1, 1, 1, 1, "JPEG")
    many = Images.of([one] * 10_000).at(Paths.of(f"folder-{at}/image-{at}.jpg" for at in range(10_000)))
    assert len(pickle.dumps(many[:10])) < 5_000


def test_an_image_takes_a_hundred_bytes() -> None:
    one = ImageFile("x", "00" * 32, 1 << 20, 1 << 60, 8, 4000, 3000, "JPEG", scans=10)
    many = Images.of([one] * 1000)
    assert sum(len(pickle.dumps(many.numbers(name))) for name in ("bytes", "width", "scans", "page")) < 14_000


@given(st.lists(st.sampled_from([b"", b"\1", b"\1\0\2", b"\0" * 20 + b"\1", b"\1" * 32, b"\2" * 9]), max_size=20))
def test_digests_are_numbered_and_sorted(values: list[bytes]) -> None:
    texts = [value.ljust(32, b"\0").hex() for value in values]
    raw = raw_digests(texts)
    assert raw.dtype == DIGEST
    assert list(HexDigests(raw)) == hex_digests(raw) == texts
    assert [HexDigests(raw)[at] for at in range(len(texts))] == texts
    first, number = numbered(raw)
    assert [texts[first[code]] for code in number] == texts
    assert [texts[at] for at in first_positions(raw)] == list(dict.fromkeys(texts))
    assert len(first) == len(set(texts))
    assert sorting(raw).tolist() == sorted(range(len(texts)), key=texts.__getitem__)


@pytest.mark.parametrize("field", ["digest", "format"])
def test_images_of_no_known_form_are_a_bug(field: str) -> None:
    values = {"digest": "00" * 32, "format": "JPEG"} | {field: "?"}
    with pytest.raises((ValueError, KeyError)):
        Images.of([ImageFile("x", values["digest"], 1, 1, 1, 1, 1, values["format"])])
