"""Image files as arrays: the sequence `Images` makes an `ImageFile` of a row only when this row is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import overload

import numpy as np
from headstart.features.digests import hex_digests, raw_digests
from headstart.features.images.columns.paths import Paths
from headstart.features.images.opening import KNOWN_FORMATS
from headstart.features.images.scan import ImageFile, page_path

_AT_A_TIME = 4096
# Dtypes that hold almost all files. A column that has a larger number is int64.
NUMBERS: dict[str, type[np.signedinteger]] = {
    "bytes": np.int32,
    "mtime_ns": np.int64,
    "orientation": np.int8,
    "width": np.int32,
    "height": np.int32,
    "format": np.int8,  # a position in `KNOWN_FORMATS`
    "tile_pixels": np.int32,
    "scans": np.int16,
    "bits": np.int8,
    "pages": np.int16,
    "page": np.int16,
}
_FORMAT_CODES = {name: code for code, name in enumerate(KNOWN_FORMATS)}


class Images(Sequence[ImageFile]):
    """A sequence of image files in columns. An image takes 77 bytes, plus the bytes of its file name.

    Slices, and selections by an array of positions or a mask, are `Images`, too.

    Args:
        files: the paths of the files, without page numbers.
        digests: the digests, `DIGEST` [N].
        numbers: columns, int [N], by name. The names are the keys of `NUMBERS`, which are also fields of `ImageFile`.
            The column `format` holds positions in `KNOWN_FORMATS`.
    """

    def __init__(self, files: Paths, digests: np.ndarray, numbers: Mapping[str, np.ndarray]) -> None:
        self.files, self.digests, self._numbers = files, digests, dict(numbers)

    @classmethod
    def of(cls, images: Iterable[ImageFile]) -> Images:
        """Make columns of `images`, in their order. `Images` are returned unchanged."""
        if isinstance(images, Images):
            return images
        rows = list(images)
        numbers = {
            name: narrow(
                name, np.array([getattr(one, name) for one in rows] if name != "format" else _codes(rows), np.int64)
            )
            for name in NUMBERS
        }
        return cls(Paths.of(one.file for one in rows), raw_digests([one.digest for one in rows]), numbers)

    @classmethod
    def concatenated(cls, parts: Sequence[Images]) -> Images:
        """Return the images of all `parts`, one part after the other."""
        return cls.merged([part.at(part.files) for part in parts])

    @classmethod
    def merged(cls, parts: list[Images]) -> Images:
        """Return the same as `concatenated`, with less memory. `parts` must not be used afterwards."""
        parts = [part for part in parts if len(part)] or [cls.of([])]
        if len(parts) == 1:
            return parts[0]
        digests, numbers = np.concatenate([part.digests for part in parts]), {}
        for part in parts:
            part.digests = digests[:0]
        for name in NUMBERS:
            numbers[name] = np.concatenate([part.numbers(name) for part in parts])
            for part in parts:
                del part._numbers[name]
        return cls(Paths.concatenated([part.files for part in parts]), digests, numbers)

    def at(self, files: Paths) -> Images:
        """Return the same images with other paths: `files` holds the path of each image's file."""
        return Images(files, self.digests, self._numbers)

    def numbers(self, field: str) -> np.ndarray:
        """Return the column of the field `field`, int [N]. `field` is a key of `NUMBERS`."""
        return self._numbers[field]

    def formats(self) -> list[str]:
        """Return the format of each image."""
        return [KNOWN_FORMATS[code] for code in self._numbers["format"].tolist()]

    def paths(self) -> Iterator[str]:
        """Yield `ImageFile.path` of each image."""
        for first in range(0, len(self), _AT_A_TIME):
            rows = slice(first, first + _AT_A_TIME)
            yield from map(page_path, self.files[rows], self._numbers["page"][rows].tolist())

    def __len__(self) -> int:
        return len(self.digests)

    @overload
    def __getitem__(self, at: int) -> ImageFile: ...
    @overload
    def __getitem__(self, at: slice | np.ndarray) -> Images: ...
    def __getitem__(self, at: int | slice | np.ndarray) -> ImageFile | Images:
        if isinstance(at, (slice, np.ndarray)):
            numbers = {name: column[at] for name, column in self._numbers.items()}
            return Images(self.files[at], self.digests[at], numbers)
        page = int(self._numbers["page"][at])
        row = [int(column[at]) for column in self._numbers.values()]
        return _image(page_path(self.files[at], page), hex_digests(self.digests[[at]])[0], row)

    def __iter__(self) -> Iterator[ImageFile]:
        for first in range(0, len(self), _AT_A_TIME):
            part = self[first : first + _AT_A_TIME]
            rows = zip(*(column.tolist() for column in part._numbers.values()), strict=True)
            yield from map(_image, part.paths(), hex_digests(part.digests), rows)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Images):
            columns = [(self.digests, other.digests), *((self.numbers(n), other.numbers(n)) for n in NUMBERS)]
            return all(np.array_equal(one, two) for one, two in columns) and self.files == other.files
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))  # noqa: B905

    __hash__ = None  # type: ignore[assignment] # not hashable, like a list

    def __reduce__(self) -> tuple[Callable[..., Images], tuple[Paths, np.ndarray, Mapping[str, np.ndarray]]]:
        return Images, (self.files, self.digests, self._numbers)


def _image(path: str, digest: str, numbers: Sequence[int]) -> ImageFile:
    """Return the image with this `path`, `digest` and `numbers`. The numbers are in the order of `NUMBERS`."""
    size, mtime_ns, orientation, width, height, format, *others = numbers
    return ImageFile(path, digest, size, mtime_ns, orientation, width, height, KNOWN_FORMATS[format], *others)


def _codes(images: Sequence[ImageFile]) -> list[int]:
    return [_FORMAT_CODES[one.format] for one in images]


def narrow(field: str, column: np.ndarray) -> np.ndarray:
    """Return `column`, int [N], in the dtype of the field `field`, which is a key of `NUMBERS`.

    If a number does not fit into this dtype, return `column` as int64.
    """
    bounds = np.iinfo(NUMBERS[field])
    fits = not len(column) or (bounds.min <= column.min() and column.max() <= bounds.max)
    return column.astype(NUMBERS[field] if fits else np.int64, copy=False)
