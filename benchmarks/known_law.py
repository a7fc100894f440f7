"""Images whose learning curve is known: features of types, some frequent and most rare.

A head is right on an image if it has seen an image of its type; on the others it guesses. The frequencies of types
follow Zipf's law, so the error falls with a power of the number of images (Hutter 2021, arXiv:2102.04074). A tenth of
the images has no type and a random label: half of these are the errors that no number of images removes.
"""

import numpy as np
from headstart.pipeline.labelled import LabelledFeatures

TYPES, EXPONENT, UNTYPED = 300, 1.8, 0.1
# Types come in pairs, equally frequent and of opposite classes, so that a guess is right for half of them.
_SHARES = np.repeat(np.arange(1, TYPES // 2 + 1) ** -EXPONENT, 2)
SHARES = _SHARES / _SHARES.sum()


def draw_images(count: int, draw: np.random.Generator) -> LabelledFeatures:
    """Draw so many images, with features [count, TYPES] and two classes."""
    types = draw.choice(TYPES, count, p=SHARES)
    features = np.zeros((count, TYPES), np.float32)
    features[np.arange(count), types] = 1
    untyped = draw.random(count) < UNTYPED
    features[untyped] = 0
    labels = np.where(untyped, draw.integers(0, 2, count), types % 2)
    return LabelledFeatures(features, labels.astype(np.int64), 2, {})


def true_accuracy(images: int) -> float:
    """The expected accuracy of a head that was trained on so many images."""
    unseen = float((SHARES * (1 - SHARES * (1 - UNTYPED)) ** images).sum())
    return 1 - UNTYPED / 2 - (1 - UNTYPED) / 2 * unseen
