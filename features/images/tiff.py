"""Read the structure of TIFF files: find their pages, and find out whether a file is camera raw.

Many formats of camera raw are TIFFs, or begin like a TIFF. A TIFF is a chain of directories. A directory describes one
image by numbered tags, and may point at sub-directories. See the specifications of TIFF 6.0, BigTIFF and DNG.
"""

import io
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

MOST_PAGES = 10_000
_KIND, _OLD_KIND, _WIDTH, _PHOTOMETRIC, _OWN, _DNG_VERSION = 254, 255, 256, 262, 330, 50706
_REDUCED, _MASK = 1, 4  # bits of the tag NewSubfileType
_TAGS = frozenset({_KIND, _OLD_KIND, _WIDTH, _PHOTOMETRIC, _OWN, _DNG_VERSION})  # the tags that are read
_SENSOR = (32803, 34892)  # values of the tag PhotometricInterpretation: colour filter array, linear raw
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MOST_BYTES = 1 << 24  # of all directories; 10,000 pages take a tenth of this
_MOST_OWN = 16  # the largest number of sub-directories of a directory that are read
_CANON = b"\x10\0\0\0CR\2\0"  # the bytes of a CR2 after the first four


@dataclass(frozen=True)
class _Layout:
    """The byte order and the integer types of a TIFF, each as a format character of the module `struct`.

    BigTIFF has longer integers than TIFF.
    """

    order: str  # byte order, `<` or `>`
    count: str  # type of the number of entries in a directory
    offset: str  # type of an offset in the file

    def read(self, kind: str, data: bytes, place: int) -> int:
        """Return the integer of struct format `kind` at byte `place`. Raises struct.error if `data` ends too early."""
        if place + struct.calcsize("=" + kind) > len(data):
            raise struct.error  # at a huge offset, unpack_from raises OverflowError instead
        (value,) = struct.unpack_from(self.order + kind, data, place)
        return int(value)


@dataclass(frozen=True)
class _Directory:
    offset: int
    tags: dict[int, int]  # tag to its first value
    own: Sequence[int]  # offsets of its sub-directories

    @property
    def is_reduced(self) -> bool:
        """Whether this directory of a TIFF describes a smaller copy of another image, or a mask."""
        return bool(self.tags.get(_KIND, 0) & (_REDUCED | _MASK)) or self.tags.get(_OLD_KIND) == 2

    @property
    def is_sensor(self) -> bool:
        """Whether this directory of a TIFF describes the data of a camera's sensor."""
        return self.tags.get(_PHOTOMETRIC) in _SENSOR


@dataclass(frozen=True)
class Page:
    """A full-size image in a TIFF's chain of directories."""

    offset: int  # of its directory
    is_raw: bool  # camera raw, see `is_camera_raw`


class PageStream(io.BytesIO):
    """A stream of `data`, the bytes of a file, which are not copied.

    If `data` is a TIFF, `first` can be given: the offset of one of its directories. With `first`, the header that
    `read` returns points at this directory. `getvalue` always returns `data` unchanged.
    """

    # Pillow gives libtiff the result of `getvalue` and the offset of the directory, so libtiff needs no changed header.

    def __init__(self, data: bytes, first: int | None = None) -> None:
        super().__init__(data)
        self._head = b"" if first is None else _head(data, first)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes, like `io.BytesIO`. If `size` is None or negative, read all bytes that are left."""
        place = self.tell()
        data = super().read(size)
        head = self._head[place : place + len(data)]
        return head + data[len(head) :] if head else data


def count_pages(data: bytes) -> int:
    """Return the number of pages of a TIFF: the full-size images in its chain of directories.

    The result is at least 1. Counting ends at `MOST_PAGES` + 1.
    """
    return max(1, sum(1 for _ in _full_size(data)))


def at_page(data: bytes, page: int) -> bytes:
    """Return the image file `data`, changed so that the page with the number `page` comes first.

    Pages count from 1. For page 1, `data` may have any format, and is returned unchanged. For any other page, `data`
    must be a TIFF. Raises ValueError if the page does not exist.
    """
    if page == 1:
        return data
    for count, (_, one) in enumerate(_full_size(data), 1):
        if count == page:
            head = _head(data, one.offset)
            return head + data[len(head) :]
    raise ValueError(f"page {page} is gone")


def list_pages(data: bytes) -> list[Page]:
    """List the pages of a TIFF, at most `MOST_PAGES` + 1. The chain of directories is walked once."""
    sensors: list[int] = []  # places in the chain
    pages = list(_full_size(data, sensors))
    own = _Own(data)
    found = []
    for number, one in pages:
        near = bisect_left(sensors, number)
        in_chain = near < len(sensors) and sensors[near] < number + _MOST_OWN
        is_raw = in_chain or _DNG_VERSION in one.tags or own.has_sensor(one)
        found.append(Page(one.offset, is_raw))
    return found


def is_camera_raw(data: bytes) -> bool:
    """Return whether a TIFF is camera raw.

    A TIFF is camera raw if its first image is a reduced copy, if it has the marks of CR2 or DNG, or if a directory
    describes the data of a camera's sensor. Only the first 16 directories and the sub-directories of the first
    directory are searched.
    """
    chain = list(_directories(data, most=_MOST_OWN))
    if not chain:
        return False
    first = chain[0]
    if data[4:12] == _CANON or first.is_reduced or _DNG_VERSION in first.tags:
        return True
    return any(one.is_sensor for one in chain) or _Own(data).has_sensor(first)


@dataclass
class _Own:
    """The sub-directories of a TIFF. `data` holds the bytes of the TIFF.

    Each sub-directory is read once. In total, at most `_MOST_BYTES` bytes are read.
    """

    data: bytes
    _known: dict[int, bool] = field(default_factory=dict)  # offset of a directory: does it describe a sensor's data?
    _left: int = _MOST_BYTES

    def has_sensor(self, directory: _Directory) -> bool:
        """Return whether a sub-directory of `directory` describes the data of a camera's sensor."""
        return any(self._is_sensor(offset) for offset in directory.own)

    def _is_sensor(self, offset: int) -> bool:
        if offset not in self._known:
            read = next(_sized(self.data, offset, self._left), None)
            self._left -= read[0] if read else 0
            self._known[offset] = read is not None and read[1].is_sensor
        return self._known[offset]


def _full_size(data: bytes, sensors: list[int] | None = None) -> Iterator[tuple[int, _Directory]]:
    """Yield the index and the directory of each page. Indices count the directories in the chain of the TIFF, from 0.

    The indices of directories that describe sensor data are added to `sensors`.
    """
    count = 0
    for number, one in enumerate(_directories(data)):
        if sensors is not None and one.is_sensor:
            sensors.append(number)
        if number == 0 or (_WIDTH in one.tags and not one.is_reduced):
            count += 1
            yield number, one
        if count > MOST_PAGES:
            return


def _layout(data: bytes) -> _Layout:
    order = "<" if data[:2] == b"II" else ">"
    return _Layout(order, "Q", "Q") if data[2:3] == b"\x2b" else _Layout(order, "H", "I")


def _head(data: bytes, first: int) -> bytes:
    """Return the header of the TIFF `data`, with `first` as the offset of the first directory."""
    layout = _layout(data)
    return data[: struct.calcsize("=" + layout.offset)] + struct.pack(layout.order + layout.offset, first)


def _directories(data: bytes, most: int | None = None) -> Iterator[_Directory]:
    """Yield the directories in the chain of a TIFF. A damaged directory ends the chain.

    The argument `most` limits the number of directories. None means no limit.
    """
    layout = _layout(data)
    try:
        offset = layout.read(layout.offset, data, struct.calcsize("=" + layout.offset))
    except struct.error:  # the file ends
        return
    for number, (_, one) in enumerate(_sized(data, offset, _MOST_BYTES), 1):
        yield one
        if number == most:
            return


def _sized(data: bytes, offset: int, left: int) -> Iterator[tuple[int, _Directory]]:
    """Yield (size in bytes, directory) for each directory of a chain that begins at `offset`.

    Stop before the sum of the sizes exceeds the argument `left`.
    """
    layout, seen, left = _layout(data), set[int](), min(len(data), left)
    width = struct.calcsize("=" + layout.offset)
    try:
        while offset and offset not in seen:
            seen.add(offset)
            count = layout.read(layout.count, data, offset)
            start = offset + struct.calcsize("=" + layout.count)
            size = 2 * width + count * (4 + 2 * width)
            left -= size
            if left < 0:
                return
            tags, own = _entries(data, layout, start, count)
            yield size, _Directory(offset, tags, own)
            offset = layout.read(layout.offset, data, start + count * (4 + 2 * width))
    except struct.error:  # the file ends
        return


def _entries(data: bytes, layout: _Layout, start: int, count: int) -> tuple[dict[int, int], list[int]]:
    """Return the tags of a directory with their first values, and the offsets of its sub-directories."""
    width = struct.calcsize("=" + layout.offset)
    size = 4 + 2 * width
    if start + count * size > len(data):
        raise struct.error
    tags: dict[int, int] = {}
    own: list[int] = []
    entries = struct.iter_unpack(f"{layout.order}HH{layout.offset}{width}x", data[start : start + count * size])
    for number, (tag, kind_number, values) in enumerate(entries):
        if tag not in _TAGS:
            continue
        kind, at = _INTEGERS.get(kind_number), start + number * size + 4 + width
        if kind is None:
            tags.setdefault(tag, 0)
            continue
        each = struct.calcsize("=" + kind)
        if values * each > width:
            at = layout.read(layout.offset, data, at)
        if tag == _OWN:
            own = [layout.read(kind, data, at + place * each) for place in range(min(values, _MOST_OWN))]
        elif values and at + each <= len(data):
            tags.setdefault(tag, layout.read(kind, data, at))
    return tags, own
