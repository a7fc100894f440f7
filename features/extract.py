"""The loop that fills stores: find missing digests, decode pixels, run the frozen backbone, write shards.

This module uses no labels. It imports TensorFlow only if an image lacks features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from headstart.features.backbones.cuts import Cut
from headstart.features.digests import DIGEST_BYTES
from headstart.features.files import require_space
from headstart.features.images.augment import View
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console, progress

if TYPE_CHECKING:
    from headstart.features.frozen.frozen import FrozenBackbone

SHARD_IMAGES, SHARD_SECONDS = 1024, 30.0
SHARD_BYTES = 256 << 20  # large maps reach this before SHARD_IMAGES
_SHARD_OVERHEAD = 1 << 16


@dataclass(frozen=True)
class Extracted:
    """The result of `extract_features`: digests with new features, rejected images, and seconds of extraction."""

    digests: frozenset[str] = frozenset()
    rejects: Sequence[Reject] = ()
    seconds: float = 0.0

    @property
    def extracted(self) -> int:
        """The number of digests for which features were extracted."""
        return len(self.digests)

    @property
    def images_per_second(self) -> float:
        """The images extracted per second; 0 if nothing was extracted."""
        return self.extracted / self.seconds if self.seconds else 0.0

    def __add__(self, other: Extracted) -> Extracted:
        return Extracted(self.digests | other.digests, [*self.rejects, *other.rejects], self.seconds + other.seconds)


def extract_features(
    images: Sequence[ImageFile],
    freeze: Callable[[], FrozenBackbone],
    stores: Mapping[Cut, FeatureStore],
    config: ImageConfig,
    view: View | None = None,
) -> Extracted:
    """Extract the features of `images` that are missing in `stores`. If `view` is given, augment the images first.

    One forward pass serves all cuts. `freeze` builds the fast form of the backbone with the cuts of `stores`. It is
    called only if features are missing. Images that have all their features are not read. Several processes may fill
    one store at the same time. Features that are not finite, or a store whose folder is gone, raise a StoreError. A
    disk without room for the missing features raises an OSError. Shards written before an error are kept.
    """
    by_digest: dict[str, ImageFile] = {}
    for image in images:
        by_digest.setdefault(image.digest, image)
    writers = {cut: _ShardWriter(store, frozenset(store.missing(by_digest))) for cut, store in stores.items()}
    lacking = {digest for writer in writers.values() for digest in writer.lacking}
    missing = [image for digest, image in by_digest.items() if digest in lacking]
    del by_digest, lacking  # both have an entry per image, and extraction may take days
    done = _extract_missing(missing, freeze, writers, config, view) if missing else Extracted()
    for store in stores.values():
        store.update_merged()
    return done


def _extract_missing(
    missing: Sequence[ImageFile],
    freeze: Callable[[], FrozenBackbone],
    writers: Mapping[Cut, _ShardWriter],
    config: ImageConfig,
    view: View | None,
) -> Extracted:
    from headstart.features.images.batches import decoded_batches, why_undecodable

    if not any(True for _ in decoded_batches(missing, config, batch_size=1)):  # stops at the first decodable one
        return Extracted(rejects=[why_undecodable(image) for image in missing])
    which = "" if view is None else f"view {view.number} of "
    console.print(f"extracting features of {which}{len(missing)} images that have none yet")
    folder = next(iter(writers.values())).store.folder
    require_space(folder, sum(writer.bytes_to_come() for writer in writers.values()))
    return _extract(missing, freeze(), writers, config, view)


def _extract(
    missing: Sequence[ImageFile],
    backbone: FrozenBackbone,
    writers: Mapping[Cut, _ShardWriter],
    config: ImageConfig,
    view: View | None,
) -> Extracted:
    from headstart.features.images.batches import decoded_batches, why_undecodable

    extracted: set[str] = set()
    description = "extracting features" if view is None else f"view {view.number}"
    start = time.perf_counter()  # the time includes writing the last shard, but not building the backbone
    with ExitStack() as at_the_end, progress(description, len(missing)) as advance:
        for writer in writers.values():
            at_the_end.callback(writer.flush)  # also after Ctrl-C or an error: finished features are kept
        batches = decoded_batches(missing, config, backbone.images_per_pass, view)
        for positions, features in backbone.stream(batches):
            unchanged = np.array([missing[position].is_unchanged() for position in positions])
            digests = [missing[position].digest for position in positions[unchanged]]
            for cut, writer in writers.items():
                writer.add(digests, features[cut][unchanged])
            extracted.update(digests)
            advance(len(positions))
    seconds = time.perf_counter() - start
    rejects = [why_undecodable(image) for image in missing if image.digest not in extracted]
    return Extracted(frozenset(extracted), rejects, seconds)


@dataclass
class _ShardWriter:
    """Collects the features of one store, and writes them as shards.

    A shard is written when the number, bytes or age of the collected features reaches a limit. So if the process is
    killed, few features are lost.
    """

    store: FeatureStore
    lacking: frozenset[str]
    digests: list[str] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def bytes_to_come(self) -> int:
        """Return an upper bound, in bytes, of the total size of all shards still to be written."""
        return len(self.lacking) * (self.store.form.image_bytes + DIGEST_BYTES) + _SHARD_OVERHEAD

    def add(self, digests: Sequence[str], features: np.ndarray) -> None:
        rows = [row for row, digest in enumerate(digests) if digest in self.lacking]
        self.digests += [digests[row] for row in rows]
        self.features.append(features[rows])
        full = len(self.digests) >= SHARD_IMAGES or sum(part.nbytes for part in self.features) >= SHARD_BYTES
        if full or time.monotonic() - self.since > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.digests:
            self.store.write_shard(self.digests, np.concatenate(self.features))
        self.digests, self.features, self.since = [], [], time.monotonic()
