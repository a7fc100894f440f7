"""Find near-duplicates across the splits of a data folder, by the features in a store.

`pipeline.data.similar` defines near-duplicates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.features.images.likeness import Pixels
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import progress
from headstart.pipeline.data.config import SIMILARITY
from headstart.pipeline.data.examples import Example
from headstart.pipeline.data.similar import BLOCK, SAMPLE, agreeing, fit_whitening, nearest
from headstart.pipeline.data.splits import SPLITS


@dataclass(frozen=True)
class Likeness:
    """An image of val or test, and its near-duplicate in an earlier split."""

    image: Example
    like: Example
    cosine: float  # of their whitened features
    correlation: float  # of their pixels


def near_duplicates(examples: Sequence[Example], store: FeatureStore, similarity: float = SIMILARITY) -> list[Likeness]:
    """Find the images of val that have a near-duplicate in train, and those of test that have one in train or val.

    Two images are near-duplicates if their whitened features have a cosine of at least `similarity`, and their pixels
    agree; see `agreeing`. Equal files and images without features do not count. Each image found is returned with the
    near-duplicate whose pixels agree most. The highest cosine comes first. Raises StoreError if a shard is damaged.
    """
    lacking = set(store.missing([example.image.digest for example in examples]))
    seen = [example for example in examples if example.image.digest not in lacking]
    by_split = {split: list({one.image.digest: one for one in seen if one.split == split}.values()) for split in SPLITS}
    pairs = [(by_split["val"], by_split["train"]), (by_split["test"], by_split["train"] + by_split["val"])]
    pairs = [(images, others) for images, others in pairs if images and others]
    digests = list(dict.fromkeys(example.image.digest for example in seen))
    if not pairs or len(digests) < 2:
        return []
    whitening = fit_whitening(store.read(digests[:: max(1, len(digests) // SAMPLE)]))
    pixels, found = Pixels(), dict[str, Likeness]()
    with progress("comparing", sum(len(images) for images, _ in pairs)) as advance:
        for images, others in pairs:
            other_files, other_digests = [one.image for one in others], [one.image.digest for one in others]
            for start in range(0, len(images), BLOCK):
                block = images[start : start + BLOCK]
                directions = whitening.transform(store.read([one.image.digest for one in block]))
                stream = ((at, whitening.transform(features)) for at, features in store.stream(other_digests))
                near = nearest(directions, stream)
                for pair in agreeing([one.image for one in block], other_files, near, similarity, pixels, advance):
                    image, like = block[pair.image], others[pair.other]
                    known = found.get(image.image.path)
                    if known is None or pair.correlation > known.correlation:
                        found[image.image.path] = Likeness(image, like, pair.cosine, pair.correlation)
    return sorted(found.values(), key=lambda one: -one.cosine)
