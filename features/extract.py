"""The loop that fills stores: missing digests, pixels, frozen backbone, shards. It knows nothing of labels."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.frozen import FrozenBackbone
from headstart.features.digests import DIGEST_BYTES
from headstart.features.files import require_space
from headstart.features.images.augment import View
from headstart.features.images.batches import any_decodes, decoded_batches, why_undecodable
from headstart.features.images.decode import ImageConfig
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console, progress

SHARD_IMAGES, SHARD_SECONDS = 1024, 30.0
SHARD_BYTES = 256 << 20  # maps are large
_SHARD_OVERHEAD = 1 << 16


@dataclass(frozen=True)
class Extracted:
    """The outcome of one call: digests that were given features, images that could not be used, seconds of work."""

    digests: frozenset[str] = frozenset()
    rejects: Sequence[Reject] = ()
    seconds: float = 0.0

    @property
    def extracted(self) -> int:
        """The number of digests that were given features."""
        return len(self.digests)

    @property
    def images_per_second(self) -> float:
        """Speed of this call; 0 where nothing was extracted."""
        return self.extracted / self.seconds if self.seconds else 0.0

    def __add__(self, other: "Extracted") -> "Extracted":
        return Extracted(self.digests | other.digests, [*self.rejects, *other.rejects], self.seconds + other.seconds)


def missing_images(images: Sequence[ImageFile], stores: Sequence[FeatureStore]) -> list[ImageFile]:
    """One image for each digest that some store has no features of, in the order of `images`."""
    by_digest = {image.digest: image for image in reversed(images)}
    missing = {digest for store in stores for digest in store.missing(by_digest)}
    return [image for image in dict.fromkeys(by_digest[image.digest] for image in images) if image.digest in missing]


def extract_features(
    images: Sequence[ImageFile],
    freeze: Callable[[], FrozenBackbone],
    stores: Mapping[Cut, FeatureStore],
    config: ImageConfig,
    view: View | None = None,
) -> Extracted:
    """Give every image, or its augmented `view`, the features it lacks. One forward pass serves all cuts.

    Files whose features are there are not read. Several processes may fill one store: they share its folders alone.
    Features that are not finite, or a store that went away, raise a StoreError, and a disk without room for the
    features to come an OSError. Finished shards stay.

    Args:
        freeze: builds the fast form of the backbone, cut at each of `stores`; called only if there is work.
    """
    missing = missing_images(images, list(stores.values()))
    if any_decodes(missing, config):
        which = "" if view is None else f"view {view.number} of "
        console.print(f"extracting features of {which}{len(missing)} images that have none yet")
        done = _extract(missing, freeze, stores, config, view)
    else:
        done = Extracted(rejects=[why_undecodable(image) for image in missing])
    for store in stores.values():
        store.update_merged()
    return done


def _extract(
    missing: Sequence[ImageFile],
    freeze: Callable[[], FrozenBackbone],
    stores: Mapping[Cut, FeatureStore],
    config: ImageConfig,
    view: View | None,
) -> Extracted:
    writers = _writers(stores, [image.digest for image in missing])
    backbone = freeze()
    decoded = np.zeros(len(missing), bool)
    changed: list[ImageFile] = []
    extracted: set[str] = set()
    start = time.perf_counter()  # from the first file read to the last shard's rename, warm-up aside
    with (
        _flushed(writers.values()),
        progress("extracting features" if view is None else f"view {view.number}", len(missing)) as advance,
    ):
        batches = decoded_batches(missing, config, backbone.images_per_pass, view)
        for positions, features in backbone.stream(batches):
            decoded[positions] = True
            unchanged = np.array([missing[position].is_unchanged() for position in positions])
            digests = [missing[position].digest for position in positions[unchanged]]
            for cut, writer in writers.items():
                writer.add(digests, features[cut][unchanged])
            extracted.update(digests)
            changed += [missing[position] for position in positions[~unchanged]]
            advance(len(positions))
    seconds = time.perf_counter() - start
    left_out = [missing[position] for position in np.flatnonzero(~decoded).tolist()]
    return Extracted(frozenset(extracted), [why_undecodable(image) for image in [*changed, *left_out]], seconds)


def _writers(stores: Mapping[Cut, FeatureStore], digests: Sequence[str]) -> dict[Cut, "_ShardWriter"]:
    """A writer per cut; raises an OSError if the disk has too little room."""
    writers = {cut: _ShardWriter(store, frozenset(store.missing(digests))) for cut, store in stores.items()}
    require_space(next(iter(stores.values())).folder, sum(writer.bytes_to_come() for writer in writers.values()))
    return writers


@contextmanager
def _flushed(writers: Iterable["_ShardWriter"]) -> Iterator[None]:
    """Flush all writers at the end, also after Ctrl-C or if one fails: finished features are kept."""
    with ExitStack() as at_the_end:
        for writer in writers:
            at_the_end.callback(writer.flush)
        yield


@dataclass
class _ShardWriter:
    """Gathers features until they make a shard: by count, bytes or time, so that a kill costs little."""

    store: FeatureStore
    lacking: frozenset[str]
    digests: list[str] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def bytes_to_come(self) -> int:
        """An upper bound of the bytes that the shards will take on disk."""
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
