"""The same image several times: byte for byte, or by the likeness of its features."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console, progress
from headstart.pipeline.data.examples import Example
from headstart.pipeline.data.splits import SPLITS

CORRELATION = 0.85  # of the pixels of 32 x 32 images; copies of 2,000 photographs had 0.92 and more, others up to 0.71
SAMPLE = 10_000  # images that say how features are distributed
MOST_AXES, IMAGES_AN_AXIS = 256, 8
CANDIDATES = 8  # nearest neighbours whose pixels are compared
BLOCK = 4096  # images compared at a time


@dataclass(frozen=True)
class Likeness:
    """An image, and the one of another split that is most like it.

    Args:
        cosine: of their whitened features, at most 1; `correlation`, of their pixels, too.
    """

    image: Example
    like: Example
    cosine: float
    correlation: float


def same_image(examples: Iterable[Example]) -> list[list[Example]]:
    """The examples whose files are equal, byte for byte, together; images that are there once are left out."""
    by_digest: dict[str, list[Example]] = {}
    for example in examples:
        by_digest.setdefault(example.image.digest, []).append(example)
    return [group for group in by_digest.values() if len(group) > 1]


def conflicting(groups: Iterable[list[Example]]) -> list[list[Example]]:
    """Those of `same_image` that are in several classes."""
    return [group for group in groups if len({example.label for example in group}) > 1]


def tell_conflicts(examples: Sequence[Example], class_names: Sequence[str]) -> None:
    """Say which label each image gets that is in several classes: that of each of its files' folders."""
    groups = conflicting(same_image(examples))
    if not groups:
        return
    first = "; ".join(
        ", ".join(f"{example.image.path} as {class_names[example.label]}" for example in group) for group in groups[:3]
    )
    console.print(
        f"warning: {len(groups)} images are in several classes, and each of their files is taken with the label of its "
        f"folder: {first}" + ("; ... the run's examples.csv has all" if len(groups) > 3 else ""),
        style="yellow",
        markup=False,
    )


def near_duplicates(examples: Sequence[Example], store: FeatureStore, similarity: float) -> list[Likeness]:
    """The images of val and test that are one of an earlier split, encoded or scaled anew; the likest first.

    The nearest neighbour is found by the cosine of whitened features (Jegou and Chum 2012, "Negative evidences and
    co-occurrences in image retrieval"): as the backbone yields them, those of any two photographs point into much the
    same direction. Then the pixels must agree too. Images without features, and equal ones, are left out.

    Args:
        similarity: the least cosine.

    Raises:
        StoreError: a shard is damaged.
    """
    lacking = set(store.missing([example.image.digest for example in examples]))
    seen = [example for example in examples if example.image.digest not in lacking]
    by_split = {split: list({one.image.digest: one for one in seen if one.split == split}.values()) for split in SPLITS}
    pairs = [(by_split["val"], by_split["train"]), (by_split["test"], by_split["train"] + by_split["val"])]
    pairs = [(images, others) for images, others in pairs if images and others]
    found: list[Likeness] = []
    if not pairs:
        return found
    digests = list(dict.fromkeys(example.image.digest for example in seen))
    whitening = _Whitening.of(store.read(digests[:: max(1, len(digests) // SAMPLE)]))
    with progress("comparing", sum(len(images) for images, _ in pairs)) as advance:
        for images, others in pairs:
            for start in range(0, len(images), BLOCK):
                block = images[start : start + BLOCK]
                found += _agreeing(_nearest(block, others, store, whitening, similarity))
                advance(len(block))
    return sorted(found, key=lambda pair: -pair.cosine)


@dataclass(frozen=True)
class _Whitening:
    """Makes features uncorrelated and of variance 1, along the directions in which they vary most.

    Args:
        mean: float32 [D]; `scale`, the standard deviation, too.
        axes: float32 [D, K].
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "_Whitening":
        """Fitted on features [N, D]; K grows with N, for with as many directions as images all look unlike."""
        features = features.astype(np.float32)
        mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
        standardised = np.clip((features - mean) / scale, -3, 3)
        variances, axes = np.linalg.eigh(standardised.T @ standardised / len(features))  # the least first
        count = max(1, min(MOST_AXES, len(features) // IMAGES_AN_AXIS, len(mean)))
        return cls(mean, scale, axes[:, -count:] / np.sqrt(np.maximum(variances[-count:], 1e-6)))

    def directions(self, features: np.ndarray) -> np.ndarray:
        """Features [n, D] as vectors of length 1, float32 [n, K]."""
        standardised = np.clip((features.astype(np.float32) - self.mean) / self.scale, -3, 3)
        return _unit(standardised @ self.axes)


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.maximum(lengths, 1e-6)
    return unit


def _nearest(
    images: Sequence[Example],
    others: Sequence[Example],
    store: FeatureStore,
    whitening: _Whitening,
    similarity: float,
) -> list[tuple[Example, Example, float]]:
    """Each of `images` with the nearest of `others` and their cosines, where those are at least `similarity`."""
    directions = whitening.directions(store.read([example.image.digest for example in images]))
    best = np.full((len(images), CANDIDATES), -np.inf, np.float32)
    like = np.zeros((len(images), CANDIDATES), np.int64)
    for positions, features in store.stream([example.image.digest for example in others]):
        cosines = np.hstack([best, directions @ whitening.directions(features).T])  # [images, CANDIDATES + n]
        numbers = np.hstack([like, np.broadcast_to(positions, (len(images), len(positions)))])
        highest = np.argpartition(-cosines, CANDIDATES - 1, axis=1)[:, :CANDIDATES]
        best, like = np.take_along_axis(cosines, highest, axis=1), np.take_along_axis(numbers, highest, axis=1)
    return [
        (images[index], others[like[index, rank]], min(1.0, float(best[index, rank])))
        for index, rank in np.argwhere(best >= similarity).tolist()
        if images[index].image.digest != others[like[index, rank]].image.digest
    ]


def _agreeing(pairs: Sequence[tuple[Example, Example, float]]) -> list[Likeness]:
    """Of each image the pair whose pixels, made small, correlate best, if by at least `CORRELATION`."""
    from headstart.features.images.batches import decoded_batches
    from headstart.features.images.decode import ImageConfig

    images = list(dict.fromkeys(example.image for pair in pairs for example in pair[:2]))
    size = 32
    pixels = np.zeros((len(images), size * size * 3), np.float32)
    for positions, decoded in decoded_batches(images, ImageConfig(size), BLOCK // 32):
        pixels[positions] = decoded.reshape(len(positions), -1)
    pixels = _unit(pixels - pixels.mean(axis=1, keepdims=True))
    place = {image: position for position, image in enumerate(images)}
    found: dict[str, Likeness] = {}
    for image, like, cosine in pairs:
        correlation = min(1.0, float(pixels[place[image.image]] @ pixels[place[like.image]]))
        known = found.get(image.image.path)
        if correlation >= CORRELATION and (known is None or correlation > known.correlation):
            found[image.image.path] = Likeness(image, like, cosine, correlation)
    return list(found.values())
