"""Assign images to splits by a hash."""

import hashlib

SPLITS = ("train", "val", "test")
VAL_FRACTION = TEST_FRACTION = 0.1


def split_of(digest: str, seed: int, val: float = VAL_FRACTION, test: float = TEST_FRACTION) -> str:
    """Return the split of an image, drawn by a hash of `seed` and `digest`. `val` and `test` are fractions."""
    draw = int(hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()[:13], 16) / 16**13  # in [0, 1)
    if draw < test:
        return "test"
    return "val" if draw < test + val else "train"
