"""The result of `store verify`: all damage of a store."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.features.errors import HeadstartError, StoreError
from headstart.features.store.maintain import Damage, Verification


@dataclass(frozen=True)
class Recomputation:
    """Features of some images compared with fresh ones: the largest relative error, in norm, and the bad shards."""

    images: int = 0
    largest_error: float = 0.0
    bad: tuple[Damage, ...] = ()


@dataclass(frozen=True)
class VerifyResult:
    """All damage of a store.

    Args:
        repaired: whether bad shards were dropped.
        read: the result of reading every byte.
        folders: the folders of fingerprints and 8-bit networks that can't be used.
    """

    root: Path
    repaired: bool
    read: Verification
    folders: list[Damage]
    fresh: Recomputation = Recomputation()

    @property
    def damage(self) -> list[Damage]:
        """All bad shards, merged files and folders."""
        return [*self.read.bad, *self.fresh.bad, *self.read.merged, *self.folders]

    def fields(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "shards": self.read.shards,
            "images": self.read.images,
            "bad": len(self.damage),
            "bad_shards": [asdict(one) for one in self.damage],
            "recomputed": self.fresh.images,
            "largest_error": self.fresh.largest_error if self.fresh.images else None,
        }

    def lines(self) -> list[str]:
        """The summary for people."""
        lines = [one.reason if one.reason.startswith(one.path) else f"{one.path}: {one.reason}" for one in self.damage]
        lines.append(f"{self.read.shards} shards, {self.read.images} images, {len(self.damage)} bad")
        if self.fresh.images:
            fresh = self.fresh
            lines.append(f"{fresh.images} images recomputed; largest relative error {fresh.largest_error:.2g}")
        if self.damage and self.repaired:
            lines.append("bad shards are dropped: `headstart features` does their images again")
        return lines

    def failure(self) -> HeadstartError | None:
        """The error to end with: there is damage that was not repaired."""
        if self.folders:
            return StoreError(self.folders[0].reason)
        if self.damage and not self.repaired:
            return StoreError(f"{self.root}: {len(self.damage)} bad among {self.read.shards} shards; --repair mends it")
        return None
