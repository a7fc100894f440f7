"""Paths of many files as arrays. A path takes 12 bytes and the bytes of its file name."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

_ANY_TEXT = "surrogatepass"  # a name that is no valid UTF-8 has lone surrogates
_AT_A_TIME = 4096


class Paths(Sequence[str]):
    """A sequence of paths. A path is stored as the position of its folder, and the place of its file name in a buffer.

    Slices, and selections by an array of positions or a mask, are `Paths` with the same buffer.

    Args:
        folders: the folders, each with a slash at its end. Paths without a folder have the folder "".
        names: the buffer. It holds the file names in UTF-8, one after the other.
        starts: where each name begins in `names`, uint32 [N]. For a large buffer, the dtype is int64.
        lengths: the number of bytes of each name, int32 [N].
        folder_of: the position of each path's folder in `folders`, int32 [N].
    """

    def __init__(
        self, folders: Sequence[str], names: bytes, starts: np.ndarray, lengths: np.ndarray, folder_of: np.ndarray
    ) -> None:
        self.folders, self.folder_of = folders, folder_of
        self._names, self._starts, self._lengths = names, starts, lengths

    @classmethod
    def of(cls, paths: Iterable[str | os.PathLike[str]]) -> Paths:
        """Make a sequence of `paths`, in their order. `Paths` are returned unchanged."""
        if isinstance(paths, Paths):
            return paths
        code_of: dict[str, int] = {}
        names, lengths, folder_of = bytearray(), array("i"), array("i")
        for path in paths:
            text = os.fspath(path)
            at = text.rfind("/") + 1
            name = text[at:].encode(errors=_ANY_TEXT)
            names += name
            lengths.append(len(name))
            folder_of.append(code_of.setdefault(text[:at], len(code_of)))
        sizes = np.frombuffer(lengths, np.int32) if lengths else np.zeros(0, np.int32)
        folders = np.frombuffer(folder_of, np.int32) if folder_of else np.zeros(0, np.int32)
        return cls(list(code_of), bytes(names), _starts(sizes, len(names)), sizes, folders)

    @classmethod
    def concatenated(cls, parts: Sequence[Paths]) -> Paths:
        """Return the paths of all `parts`, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        code_of: dict[str, int] = {}
        codes = []
        for part in parts:
            folders = np.array([code_of.setdefault(one, len(code_of)) for one in part.folders], np.int32)
            codes.append(folders[part.folder_of] if len(part) else np.zeros(0, np.int32))
        shared = {id(part._names): part._names for part in parts}
        names = b"".join(shared.values()) if len(shared) > 1 else next(iter(shared.values()), b"")
        before = dict(zip(shared, np.cumsum([0, *map(len, shared.values())]).tolist(), strict=False))
        width = _width(len(names))
        return cls(
            list(code_of),
            names,
            np.concatenate([part._starts.astype(width) + width(before[id(part._names)]) for part in parts])
            if parts
            else np.zeros(0, width),
            np.concatenate([part._lengths for part in parts] or [np.zeros(0, np.int32)]),
            np.concatenate(codes or [np.zeros(0, np.int32)]),
        )

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice | np.ndarray) -> Paths: ...
    def __getitem__(self, at: int | slice | np.ndarray) -> str | Paths:
        if isinstance(at, (slice, np.ndarray)):
            return Paths(self.folders, self._names, self._starts[at], self._lengths[at], self.folder_of[at])
        return self.folders[int(self.folder_of[at])] + self.name(at)

    def name(self, at: int) -> str:
        """Return the file name of the path at position `at`."""
        start = int(self._starts[at])
        return self._names[start : start + int(self._lengths[at])].decode(errors=_ANY_TEXT)

    def __iter__(self) -> Iterator[str]:
        folders, names = self.folders, self._names
        for first in range(0, len(self), _AT_A_TIME):
            rows = slice(first, first + _AT_A_TIME)
            columns = (self._starts[rows].tolist(), self._lengths[rows].tolist(), self.folder_of[rows].tolist())
            for start, length, folder in zip(*columns, strict=True):
                yield folders[folder] + names[start : start + length].decode(errors=_ANY_TEXT)

    def names(self) -> Iterator[str]:
        """Yield the file name of each path."""
        yield from Paths([""], self._names, self._starts, self._lengths, np.zeros(len(self), np.int32))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment] # not hashable, like a list

    def __reduce__(self) -> tuple[Callable[..., Paths], tuple[Any, ...]]:
        """Pickle only those names and folders that the paths use."""
        return Paths.of, (list(self),)

    def with_folders(self, folders: Sequence[str]) -> Paths:
        """Return the same file names in other folders. `folders` replace `self.folders`."""
        return Paths(folders, self._names, self._starts, self._lengths, self.folder_of)

    def below(self, root: str) -> Paths:
        """Return the same paths, each with `root` before it. `root` must end with a slash."""
        return self.with_folders([root + one for one in self.folders])

    def by_folder(self) -> dict[str, np.ndarray]:
        """Return a mapping from folders to the positions of their paths, int64 [n], ascending.

        Folders without paths are left out.
        """
        order = np.argsort(self.folder_of, kind="stable")
        used, starts = np.unique(self.folder_of[order], return_index=True)
        parts = np.split(order, starts[1:]) if len(order) else []
        return {self.folders[code]: part for code, part in zip(used.tolist(), parts, strict=True)}

    def in_order(self) -> np.ndarray:
        """Return the positions that sort the paths, int64 [N]. The function `sorted` would give the same order.

        To save memory, only the names of one folder at a time are made into text.
        """
        files, below = self.by_folder(), defaultdict[str, set[str]](set)
        for folder in files:
            above, inner = "", folder
            while inner:
                cut = inner.find("/") + 1 or len(inner)
                below[above].add(inner[:cut])
                above, inner = above + inner[:cut], inner[cut:]
        pending, found = list[str | np.ndarray]([""]), list[np.ndarray]()
        while pending:
            if isinstance(one := pending.pop(), np.ndarray):
                found.append(one)
                continue
            positions = files.get(one, np.zeros(0, np.int64))
            names = list(self[positions].names())
            order = sorted(range(len(names)), key=names.__getitem__)
            positions, names = positions[order], [names[at] for at in order]
            parts, start = list[str | np.ndarray](), 0
            for inner in sorted(below.get(one, ())):  # a file sorts before or after all files of a folder beside it
                stop = bisect_left(names, inner)
                parts += [positions[start:stop], one + inner]
                start = stop
            pending += [*parts, positions[start:]][::-1]
        return np.concatenate(found)


def _width(size: int) -> type[np.integer[Any]]:
    """Return the dtype of offsets in a buffer of `size` bytes."""
    return np.uint32 if size < 1 << 32 else np.int64


def _starts(lengths: np.ndarray, size: int) -> np.ndarray:
    """Return the byte at which each name begins in a buffer. `lengths` are the names' lengths; `size` is their sum."""
    starts = np.zeros(len(lengths), _width(size))
    np.cumsum(lengths[:-1], out=starts[1:], dtype=starts.dtype)
    return starts
