"""Find near-duplicates: re-encoded or rescaled copies of a picture. Features find candidates, and pixels decide."""

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
_CLIP = 3  # clip features at this many standard deviations, so that no feature outweighs all others
_THUMBNAIL = 32


@dataclass(frozen=True)
class Likeness:
    """An image of val or test, and its near-duplicate in an earlier split."""

    image: Example
    like: Example
    cosine: float  # of their whitened features
    correlation: float  # of their pixels


def near_duplicates(examples: Sequence[Example], store: FeatureStore, similarity: float) -> list[Likeness]:
    """Find the images of val and test that have a near-duplicate in an earlier split, the highest cosine first.

    The splits are ordered train, val, test. The candidates for an image are its nearest neighbours, if the cosine of
    the whitened features is at least `similarity` (Jegou and Chum 2012, "Negative evidences and co-occurrences in image
    retrieval"). Without whitening, the features of any two photographs have a high cosine. The pixels of image and
    candidate must have a correlation of at least `CORRELATION`. Images without features and pairs of equal files are
    left out. Raises StoreError if a shard is damaged.
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
    """Fit the whitening: it maps features [N, D] to unit vectors [N, K] with uncorrelated components.

    K grows with N, but stays far below N. With as many components as images, every image would be unlike all others.
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
    """Return (image, neighbour, cosine) for the nearest `others` of each image, if the cosine is >= `similarity`."""
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
    """Keep, for each image, the pair whose pixels correlate most, if the correlation is at least `CORRELATION`."""
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
