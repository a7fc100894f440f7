"""Augmentation: random changes of an image, decided by a seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

AUGMENT_VERSION = 1  # part of the fingerprint of a view: raise it when a seed gives other pixels than before

Augment = Literal["none", "flip", "standard"]


@dataclass(frozen=True)
class View:
    """One augmented version of every image. The features of each view have their own stores."""

    augment: Augment
    seed: int
    number: int  # from 1

    def image_seed(self, digest: str) -> np.ndarray:
        """Return the augmentation seed of the image with this `digest`, int32 [2]."""
        text = f"{self.seed} {self.number} {digest}".encode()
        return np.frombuffer(hashlib.sha256(text).digest()[:8], np.int32)


def augment_image(pixels: tf.Tensor, augment: Augment, seed: tf.Tensor) -> tf.Tensor:
    """Augment one square image, uint8 [H, H, 3], and keep its shape. `seed`, int32 [2], decides the result.

    The values of `augment` are:
        none: nothing changes.
        flip: the image is mirrored left to right with probability 1/2.
        standard: the image is mirrored as by `flip`. Then a random square with a side of 0.7 H to H is cropped, and is
            resized to [H, H, 3]. Then brightness and contrast change by up to 20 %.
    """
    if augment == "none":
        return pixels
    from headstart.features.tensorflow import tf

    seeds = tf.random.split(seed, 4)
    pixels = tf.image.stateless_random_flip_left_right(pixels, seeds[0])
    if augment == "flip":
        return pixels
    size = tf.shape(pixels)[0]
    side = tf.cast(tf.random.stateless_uniform((), seeds[1], 0.7, 1.0) * tf.cast(size, tf.float32), tf.int32)
    crop = tf.image.stateless_random_crop(pixels, tf.stack([side, side, 3]), seeds[2])
    x = tf.ensure_shape(tf.image.resize(crop, (size, size)), pixels.shape)
    x = tf.image.stateless_random_brightness(x, 0.2 * 255, seeds[3])
    x = tf.image.stateless_random_contrast(x, 0.8, 1.2, seeds[0])
    return tf.cast(tf.clip_by_value(tf.round(x), 0, 255), tf.uint8)
