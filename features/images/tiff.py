"""The structure of TIFF files: their pages, and whether a file is camera raw, which often begins as a TIFF does.

A TIFF is a chain of directories. A directory describes one image by numbered tags, and may point at sub-directories.
See the specifications of TIFF 6.0, BigTIFF and DNG.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MOST_PAGES = 10_000
_KIND, _OLD_KIND, _WIDTH, _PHOTOMETRIC, _OWN, _DNG_VERSION = 254, 255, 256, 262, 330, 50706
_REDUCED, _MASK = 1, 4  # bits of the tag NewSubfileType
_SENSOR = (32803, 34892)  # values of the tag PhotometricInterpretation: colour filter array, linear raw
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MOST_BYTES = 1 << 24  # of all directories; 10,000 pages take a tenth of this
_MOST_OWN = 16  # the largest number of sub-directories of a directory that are read
_CANON = b"\x10\0\0\0CR\2\0"  # the bytes of a CR2 after the first four


@dataclass(frozen=True)
class _Layout:
    """The byte order of a TIFF, and its integer types: those of TIFF 6.0 or of BigTIFF, as characters of `struct`."""

    order: str  # byte order, `<` or `>`
    count: str  # type of the number of entries in a directory
    offset: str  # type of an offset in the file

    def read(self, kind: str, data: bytes, place: int) -> int:
        """Read one integer of type `kind` at the offset `place`. If `data` ends too early, raise a struct.error."""
        if place + struct.calcsize("=" + kind) > len(data):
            raise struct.error
        (value,) = struct.unpack_from(self.order + kind, data, place)
        return int(value)


@dataclass(frozen=True)
class _Directory:
    offset: int
    tags: dict[int, int]  # tag to its first value
    own: Sequence[int]  # offsets of its sub-directories

    @property
    def is_reduced(self) -> bool:
        """Whether this directory describes a smaller copy of another image, or a mask."""
        return bool(self.tags.get(_KIND, 0) & (_REDUCED | _MASK)) or self.tags.get(_OLD_KIND) == 2


def count_pages(data: bytes) -> int:
    """Return the number of full-size images in a TIFF's chain of directories, from 1 to `MOST_PAGES` + 1."""
    return max(1, len(_page_offsets(data)))


def at_page(data: bytes, page: int) -> bytes:
    """Return a copy of the TIFF `data` whose first page is page number `page` of `data`, counted from 1.

    For page 1, return `data` itself, of any format. A page that does not exist raises a ValueError.
    """
    if page == 1:
        return data
    offsets = _page_offsets(data)
    if page > len(offsets):
        raise ValueError(f"page {page} is gone")
    layout = _layout(data)
    place = struct.calcsize("=" + layout.offset)
    first = struct.pack(layout.order + layout.offset, offsets[page - 1])
    return data[:place] + first + data[2 * place :]


def is_camera_raw(data: bytes) -> bool:
    """Return whether a TIFF is camera raw.

    A TIFF is camera raw if its first image is a reduced copy, which other readers would take for the photograph. It is
    also camera raw if it has the marks of CR2 or DNG, or if an image of its first directories is sensor data.
    """
    chain = list(_directories(data, most=_MOST_OWN))
    if not chain:
        return False
    first = chain[0]
    if data[4:12] == _CANON or first.is_reduced or _DNG_VERSION in first.tags:
        return True
    own = [one for offset in first.own for one in _directories(data, offset, most=1)]
    return any(one.tags.get(_PHOTOMETRIC) in _SENSOR for one in [*chain, *own])


def _page_offsets(data: bytes) -> list[int]:
    offsets = []
    for number, one in enumerate(_directories(data)):
        if number == 0 or (_WIDTH in one.tags and not one.is_reduced):
            offsets.append(one.offset)
        if len(offsets) > MOST_PAGES:
            break
    return offsets


def _layout(data: bytes) -> _Layout:
    order = "<" if data[:2] == b"II" else ">"
    return _Layout(order, "Q", "Q") if data[2:3] == b"\x2b" else _Layout(order, "H", "I")


def _directories(data: bytes, offset: int | None = None, most: int | None = None) -> Iterator[_Directory]:
    """Yield the directories of a chain, at most `most`. The chain begins at `offset`, or at the first directory.

    The chain ends before a damaged directory, and before a directory that was already yielded. It also ends if its
    directories take more bytes than the file has, or more than `_MOST_BYTES`.
    """
    layout, seen, left = _layout(data), set[int](), min(len(data), _MOST_BYTES)
    width = struct.calcsize("=" + layout.offset)
    try:
        offset = layout.read(layout.offset, data, width) if offset is None else offset
        while offset and offset not in seen and (most is None or len(seen) < most):
            seen.add(offset)
            count = layout.read(layout.count, data, offset)
            start = offset + struct.calcsize("=" + layout.count)
            left -= 2 * width + count * (4 + 2 * width)
            if left < 0:
                return
            tags, own = _entries(data, layout, start, count)
            yield _Directory(offset, tags, own)
            offset = layout.read(layout.offset, data, start + count * (4 + 2 * width))
    except struct.error:  # the file ends
        return


def _entries(data: bytes, layout: _Layout, start: int, count: int) -> tuple[dict[int, int], list[int]]:
    """Read the `count` entries of a directory, the first at offset `start`. Return its tags and sub-directories.

    The tags map to the first integer of their value; 0 if the value has no integers. The second result is the offsets
    of the sub-directories.
    """
    width = struct.calcsize("=" + layout.offset)
    tags: dict[int, int] = {}
    own: list[int] = []
    for place in range(start, start + count * (4 + 2 * width), 4 + 2 * width):
        tag, kind = layout.read("H", data, place), _INTEGERS.get(layout.read("H", data, place + 2))
        if kind is None:
            tags.setdefault(tag, 0)
            continue
        values, at = layout.read(layout.offset, data, place + 4), place + 4 + width
        if values * struct.calcsize("=" + kind) > width:
            at = layout.read(layout.offset, data, at)
        if tag == _OWN:
            size = struct.calcsize("=" + kind)
            own = [layout.read(kind, data, at + number * size) for number in range(min(values, _MOST_OWN))]
        elif values and at + struct.calcsize("=" + kind) <= len(data):
            tags.setdefault(tag, layout.read(kind, data, at))
    return tags, own
