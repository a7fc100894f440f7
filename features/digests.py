"""Conversion of the SHA-256 digests of images from hexadecimal text to arrays of raw bytes, and back."""

from collections.abc import Sequence

import numpy as np

DIGEST_BYTES = 32
DIGEST = np.dtype(f"S{DIGEST_BYTES}")  # NumPy sorts and compares digests by their bytes


def raw_digests(digests: Sequence[str]) -> np.ndarray:
    """Convert hexadecimal digests to an array [N] of dtype `DIGEST`."""
    return np.frombuffer(bytes.fromhex("".join(digests)), DIGEST)


def hex_digests(raw: np.ndarray) -> list[str]:
    """Convert an array [N] of dtype `DIGEST` to hexadecimal digests."""
    text, width = raw.tobytes().hex(), 2 * DIGEST_BYTES
    return [text[start : start + width] for start in range(0, len(text), width)]
