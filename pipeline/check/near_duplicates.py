"""Near-duplicates: copies of a picture that were encoded or scaled anew, found by features and then by pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from headstart.features.images.pixels import ImageConfig
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import progress
from headstart.pipeline.data.examples import Example
from headstart.pipeline.data.splits import SPLITS

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

CORRELATION = 0.85  # least correlation between the pixels of two thumbnails
SAMPLE = 10_000  # images that the whitening is fitted on
MOST_AXES, IMAGES_PER_AXIS = 256, 8
CANDIDATES = 8  # nearest neighbours whose pixels are compared
BLOCK = 4096  # images compared at a time
_CLIP = 3  # standard deviations at which features are clipped: no single one can outweigh all others
_THUMBNAIL = 32


@dataclass(frozen=True)
class Likeness:
    """An image, and the image of an earlier split that is most like it."""

    image: Example
    like: Example
    cosine: float  # of their whitened features
    correlation: float  # of their pixels


def near_duplicates(examples: Sequence[Example], store: FeatureStore, similarity: float) -> list[Likeness]:
    """Find the images of val and test that are copies of an image in an earlier split. The most similar come first.

    Candidates are the nearest neighbours whose whitened features have a cosine of at least `similarity` (Jegou and Chum
    2012, "Negative evidences and co-occurrences in image retrieval"). Without whitening, features of any two
    photographs point into much the same direction. The pixels of a candidate must agree too. Images without features
    are left out, and so are pairs of equal files. Raises StoreError where a shard is damaged.
    """
    lacking = set(store.missing([example.image.digest for example in examples]))
    seen = [example for example in examples if example.image.digest not in lacking]
    by_split = {split: list({one.image.digest: one for one in seen if one.split == split}.values()) for split in SPLITS}
    pairs = [(by_split["val"], by_split["train"]), (by_split["test"], by_split["train"] + by_split["val"])]
    pairs = [(images, others) for images, others in pairs if images and others]
    digests = list(dict.fromkeys(example.image.digest for example in seen))
    if not pairs or len(digests) < 2:
        return []
    whitening = _fit_whitening(store.read(digests[:: max(1, len(digests) // SAMPLE)]))
    found: list[Likeness] = []
    with progress("comparing", sum(len(images) for images, _ in pairs)) as advance:
        for images, others in pairs:
            for start in range(0, len(images), BLOCK):
                block = images[start : start + BLOCK]
                found += _agreeing(_nearest(block, others, store, whitening, similarity))
                advance(len(block))
    return sorted(found, key=lambda pair: -pair.cosine)


def _fit_whitening(features: np.ndarray) -> Pipeline:
    """Fit a map from features [N, D] to unit vectors [N, K] whose components are uncorrelated over `features`.

    K grows with N, but stays far below N: with as many directions as images, every image would be unlike all others.
    """
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

    count = max(1, min(MOST_AXES, len(features) // IMAGES_PER_AXIS, features.shape[1]))
    whitening = make_pipeline(
        StandardScaler(),
        FunctionTransformer(np.clip, kw_args={"a_min": -_CLIP, "a_max": _CLIP}),
        PCA(count, whiten=True, svd_solver="covariance_eigh"),
        Normalizer(),
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # equal features have no variance
        return whitening.fit(features.astype(np.float32))


def _nearest(
    images: Sequence[Example], others: Sequence[Example], store: FeatureStore, whitening: Pipeline, similarity: float
) -> list[tuple[Example, Example, float]]:
    """Triples (image, near neighbour among `others`, cosine) with a cosine of at least `similarity`."""
    directions = whitening.transform(store.read([example.image.digest for example in images]).astype(np.float32))
    best = np.full((len(images), CANDIDATES), -np.inf, np.float32)
    like = np.zeros((len(images), CANDIDATES), np.int64)
    for positions, features in store.stream([example.image.digest for example in others]):
        fresh = directions @ whitening.transform(features.astype(np.float32)).T
        cosines = np.hstack([best, fresh])  # [images, CANDIDATES + n]
        numbers = np.hstack([like, np.broadcast_to(positions, (len(images), len(positions)))])
        highest = np.argpartition(-cosines, CANDIDATES - 1, axis=1)[:, :CANDIDATES]
        best, like = np.take_along_axis(cosines, highest, axis=1), np.take_along_axis(numbers, highest, axis=1)
    return [
        (images[index], others[like[index, rank]], min(1.0, float(best[index, rank])))
        for index, rank in np.argwhere(best >= similarity).tolist()
        if images[index].image.digest != others[like[index, rank]].image.digest
    ]


def _agreeing(pairs: Sequence[tuple[Example, Example, float]]) -> list[Likeness]:
    """For each image, the pair with the best correlation of thumbnails, if this is at least `CORRELATION`."""
    if not pairs:
        return []
    from headstart.features.images.batches import decoded_batches
    from sklearn.preprocessing import normalize

    images = list(dict.fromkeys(example.image for pair in pairs for example in pair[:2]))
    pixels = np.zeros((len(images), _THUMBNAIL * _THUMBNAIL * 3), np.float32)
    for positions, decoded in decoded_batches(images, ImageConfig(_THUMBNAIL), BLOCK // 32):
        pixels[positions] = decoded.reshape(len(positions), -1)
    pixels = normalize(pixels - pixels.mean(axis=1, keepdims=True))
    place = {image: position for position, image in enumerate(images)}
    found: dict[str, Likeness] = {}
    for image, like, cosine in pairs:
        correlation = min(1.0, float(pixels[place[image.image]] @ pixels[place[like.image]]))
        known = found.get(image.image.path)
        if correlation >= CORRELATION and (known is None or correlation > known.correlation):
            found[image.image.path] = Likeness(image=image, like=like, cosine=cosine, correlation=correlation)
    return list(found.values())
