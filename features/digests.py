"""Conversion of the SHA-256 digests of images from hexadecimal text to arrays of raw bytes, and back."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

DIGEST_BYTES = 32
_AT_A_TIME = 4096
DIGEST = np.dtype(f"S{DIGEST_BYTES}")  # NumPy sorts and compares digests by their bytes


def raw_digests(digests: Sequence[str] | np.ndarray) -> np.ndarray:
    """Convert hexadecimal digests to an array [N] of dtype `DIGEST`. An array of this dtype is returned unchanged."""
    return digests if isinstance(digests, np.ndarray) else np.frombuffer(bytes.fromhex("".join(digests)), DIGEST)


def hex_digests(raw: np.ndarray) -> list[str]:
    """Convert an array [N] of dtype `DIGEST` to hexadecimal digests."""
    text, width = raw.tobytes().hex(), 2 * DIGEST_BYTES
    return [text[start : start + width] for start in range(0, len(text), width)]


class HexDigests(Sequence[str]):
    """The hexadecimal digests of an array [N] of dtype `DIGEST`. A digest becomes text only when it is read."""

    def __init__(self, raw: np.ndarray) -> None:
        self.raw = raw

    def __len__(self) -> int:
        return len(self.raw)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> "HexDigests": ...
    def __getitem__(self, at: int | slice) -> "str | HexDigests":
        return HexDigests(self.raw[at]) if isinstance(at, slice) else hex_digests(self.raw[[at]])[0]

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self.raw), _AT_A_TIME):
            yield from hex_digests(self.raw[first : first + _AT_A_TIME])


def numbered(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each of the n different digests in `raw` a number from 0 to n - 1. Return two arrays.

    `raw` is an array [N] of dtype `DIGEST`. The first array, int64 [n], holds the position at which each different
    digest first occurs in `raw`. The second array, int64 [N], holds the number of each digest in `raw`.
    """
    _, first, number = np.unique(_beginnings(raw), return_index=True, return_inverse=True)
    for start in range(0, len(raw), _AT_A_TIME):
        part = slice(start, start + _AT_A_TIME)
        if not np.array_equal(raw[first[number[part]]], raw[part]):  # two begin alike and are different
            _, first, number = np.unique(raw, return_index=True, return_inverse=True)
            break
    return first, number


def first_positions(raw: np.ndarray) -> np.ndarray:
    """Return the ascending positions, int64 [n], at which a digest occurs for the first time in `raw` [N]."""
    return np.sort(numbered(raw)[0])


def sorting(raw: np.ndarray) -> np.ndarray:
    """Return the positions, int64 [N], that sort the digests `raw` [N]. Equal digests keep their order."""
    beginnings = _beginnings(raw)
    order = np.argsort(beginnings, kind="stable")
    same = np.flatnonzero(beginnings[order[1:]] == beginnings[order[:-1]])
    if np.array_equal(raw[order[same]], raw[order[same + 1]]):
        return order
    parts = np.ascontiguousarray(raw).view(">u8").reshape(len(raw), -1)  # [N, 4]
    return np.lexsort(parts.T[::-1])


def _beginnings(raw: np.ndarray) -> np.ndarray:
    """Return the first eight bytes of each digest as a number, uint64 [N]."""
    return np.ascontiguousarray(raw).view(">u8").reshape(-1, DIGEST_BYTES // 8)[:, 0].astype(np.uint64)
