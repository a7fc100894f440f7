"""The loop that fills stores: missing digests, pixels, frozen backbone, shards."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from headstart.features.backbones.frozen import FrozenBackbone
from headstart.features.digests import DIGEST_BYTES
from headstart.features.files import require_space
from headstart.features.images.augment import View
from headstart.features.images.batches import any_decodes, decoded_batches, why_undecodable
from headstart.features.images.decode import ImageConfig
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console, progress

SHARD_IMAGES = 1024
SHARD_SECONDS = 30.0
SHARD_BYTES = 256 << 20  # maps are large
_SHARD_OVERHEAD = 1 << 16


@dataclass(frozen=True)
class Extraction:
    """What one call did: digests given features, images that could not be, and the time without the warm-up."""

    digests: frozenset[str]
    rejects: list[Reject]
    seconds: float

    @property
    def extracted(self) -> int:
        """How many digests were given features."""
        return len(self.digests)

    @property
    def images_per_second(self) -> float:
        """Speed of this call; 0 where nothing was extracted."""
        return self.extracted / self.seconds if self.seconds else 0.0


def missing_images(images: Sequence[ImageFile], stores: Sequence[FeatureStore]) -> list[ImageFile]:
    """One image for each digest that some store has no features of, in the order of `images`."""
    by_digest = {image.digest: image for image in reversed(images)}
    missing = {digest for store in stores for digest in store.missing(by_digest)}
    return [image for image in dict.fromkeys(by_digest[image.digest] for image in images) if image.digest in missing]


def extract_features(
    images: Sequence[ImageFile],
    backbone: FrozenBackbone,
    stores: Sequence[FeatureStore],
    config: ImageConfig,
    view: View | None = None,
) -> Extraction:
    """Give every image the features it lacks; one forward pass serves all stores.

    Nothing is shared with other processes but the stores' folders, so several may fill one store.

    Args:
        images: any images; those whose features are there are not read.
        backbone: yields the cut of each store.
        stores: one for each of `backbone.cuts`, in that order.
        view: how images are augmented; None leaves them as they are.

    Raises:
        StoreError: features that are not finite, or a store that went away.
        OSError: a full disk, or one without room for what is to come. Finished shards stay.
    """
    missing = missing_images(images, stores)
    if not any_decodes(missing, config):  # a network takes seconds to build
        for store in stores:
            store.update_merged()
        return Extraction(frozenset(), [why_undecodable(image) for image in missing], 0.0)
    digests = [image.digest for image in missing]
    writers = [
        _ShardWriter(store, cut, frozenset(store.missing(digests)))
        for store, cut in zip(stores, backbone.cuts, strict=True)
    ]
    require_space(stores[0].folder, sum(writer.bytes_to_come() for writer in writers))
    decoded = np.zeros(len(missing), bool)
    rejects: list[Reject] = []
    extracted: set[str] = set()
    which = "" if view is None else f"view {view.number} of "
    console.print(f"extracting features of {which}{len(missing)} images that have none yet")
    backbone.warm_up()
    start = time.perf_counter()
    with ExitStack() as at_the_end:
        for writer in writers:  # also on Ctrl-C, or if another can't: what came this far is kept
            at_the_end.callback(writer.flush)
        with progress("extracting features" if view is None else f"view {view.number}", len(missing)) as advance:
            batches = decoded_batches(missing, config, backbone.images_per_pass, view)
            for positions, vectors in backbone.stream(batches):
                decoded[positions] = True
                unchanged = np.array([missing[position].is_unchanged() for position in positions])
                kept = [missing[position].digest for position in positions[unchanged]]
                for writer in writers:
                    writer.add(kept, vectors[writer.cut][unchanged])
                extracted.update(kept)
                rejects += [why_undecodable(missing[position]) for position in positions[~unchanged]]
                advance(len(positions))
    seconds = time.perf_counter() - start
    rejects += [why_undecodable(missing[position]) for position in np.flatnonzero(~decoded)]
    for store in stores:
        store.update_merged()
    return Extraction(frozenset(extracted), rejects, seconds)


@dataclass
class _ShardWriter:
    """Gathers vectors until they make a shard: by count, bytes or time, so that a kill costs little."""

    store: FeatureStore
    cut: str
    lacking: frozenset[str]
    digests: list[str] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def bytes_to_come(self) -> int:
        """What the shards will take on disk, or a little more."""
        return len(self.lacking) * (self.store.form.image_bytes + DIGEST_BYTES) + _SHARD_OVERHEAD

    def add(self, digests: Sequence[str], vectors: np.ndarray) -> None:
        rows = [row for row, digest in enumerate(digests) if digest in self.lacking]
        self.digests += [digests[row] for row in rows]
        self.vectors.append(vectors[rows])
        full = len(self.digests) >= SHARD_IMAGES or sum(part.nbytes for part in self.vectors) >= SHARD_BYTES
        if full or time.monotonic() - self.since > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.digests:
            self.store.write_shard(self.digests, np.concatenate(self.vectors))
        self.digests, self.vectors, self.since = [], [], time.monotonic()
