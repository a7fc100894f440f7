"""Compare images with ImageNet's images, by features and class probabilities of EfficientNet-Lite0."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from headstart.features.backbones.shipped.reading import NETWORK_DIGEST, imagenet_top, shipped_weights
from headstart.features.store.store import FeatureStore
from headstart.pipeline.scoring.metrics import probabilities

_NAMED = 5  # ImageNet classes that are named
_CUT = "top_act"
_NEAR, _FAR, _LIKE = 1.25, 1.7, 0.25  # thresholds of `verdict`: two for the distance, one for the likeness
_CEILING = 6.0  # of the activation, ReLU6


@dataclass(frozen=True)
class ImageNetClass:
    """A class of ImageNet, and the share of the images for which this class is the most probable one."""

    index: int  # from 0 to 999
    name: str
    share: float


@dataclass(frozen=True)
class Similarity:
    """How similar images are to ImageNet's, measured by EfficientNet-Lite0."""

    images: int
    distance: float  # between the mean features of the images and of ImageNet's; see `_distance`
    likeness: float  # mean probability of the most probable of 1,000 classes
    entropy: float  # mean entropy in nats of an image's 1,000 probabilities; at most 6.9
    classes: list[ImageNetClass]  # the most frequent ones

    @property
    def verdict(self) -> str:
        """Return how far the images are from ImageNet's: `near`, `between` or `far`."""
        if self.distance < _NEAR and self.likeness >= _LIKE:
            return "near"
        return "far" if self.distance >= _FAR else "between"

    def fields(self) -> dict[str, Any]:
        """Return the JSON object of the similarity."""
        return {**asdict(self), "verdict": self.verdict}

    def line(self) -> str:
        """Return the similarity as a sentence."""
        listed = ", ".join(f"{one.name} {one.share:.0%}" for one in self.classes)
        words = {"near": "near ImageNet's", "between": "some way from ImageNet's", "far": "far from ImageNet's"}
        return (
            f"the images are {words[self.verdict]}: distance {self.distance:.2f} (photographs 0.7, drawings 1.6); "
            f"the most probable ImageNet class has {self.likeness:.2f} on average, entropy {self.entropy:.1f} of 6.9 "
            f"nats; most often {listed}"
        )


def can_compare(store: FeatureStore) -> bool:
    """Return whether `store` holds features of EfficientNet-Lite0, with ImageNet weights, at its last cut."""
    return store.fingerprint.weights == NETWORK_DIGEST and store.fingerprint.cut == _CUT


def compare_with_imagenet(features: np.ndarray) -> Similarity:
    """Compare images with ImageNet's.

    `features` are float32 [N, 1280]. They must come from a store for which `can_compare` returns True.
    """
    top = imagenet_top()
    chances = probabilities(top.logits(features))
    entropy = -(chances * np.log(np.maximum(chances, np.finfo(np.float64).tiny))).sum(axis=1)
    found, counts = np.unique(chances.argmax(axis=1), return_counts=True)
    most: Sequence[int] = np.argsort(-counts, kind="stable")[:_NAMED].tolist()
    classes = [
        ImageNetClass(int(found[row]), top.class_names[found[row]], float(counts[row] / len(features))) for row in most
    ]
    return Similarity(
        len(features), _distance(features), float(chances.max(axis=1).mean()), float(entropy.mean()), classes
    )


def _distance(features: np.ndarray) -> float:
    """Return the distance of the mean of `features` from ImageNet's mean, divided by the norm of ImageNet's mean."""
    # On ImageNet, the last batch normalisation's output has the mean `beta` and the standard deviation `gamma`. It is
    # taken to be normally distributed, so its mean after ReLU6 has a closed form.
    from scipy.stats import norm

    weights = shipped_weights()
    mean, deviation = weights["top_bn/beta"].astype(float), np.abs(weights["top_bn/gamma"]).astype(float)

    def above(threshold: float) -> np.ndarray:
        over = (mean - threshold) / deviation
        return np.asarray(deviation * (over * norm.cdf(over) + norm.pdf(over)))

    expected = above(0.0) - above(_CEILING)
    return float(np.linalg.norm(features.mean(axis=0) - expected) / np.linalg.norm(expected))
