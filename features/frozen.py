"""The fast form of a frozen backbone: one graph with the weights as constants, one batch shape."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from features.backbones import Backbone, Precision


class FrozenBackbone:
    """A backbone whose weights can't change: uint8 [b, H, W, 3] to float32 [b, *shape] a cut.

    Folding the variables into constants lets TensorFlow fuse batch normalisation and relu into the convolutions.

    An image's features do not depend on how many others came with it, nor on its place among them: a batch is filled
    up to `batch_size` with zeros, and only slots that compute alike are used.
    """

    def __init__(self, backbone: Backbone, cuts: Sequence[str], batch_size: int = 48) -> None:
        self.backbone = backbone
        self.cuts = tuple(cuts)
        self.batch_size = batch_size

    @cached_property
    def _graph(self) -> Callable[[tf.Tensor], list[tf.Tensor]]:
        size = self.backbone.image_size
        pixels = keras.Input((size, size, 3), dtype="uint8")
        model = keras.Model(pixels, self.backbone.features(pixels, self.cuts))
        signature = tf.TensorSpec((self.batch_size, size, size, 3), tf.uint8)
        traced = tf.function(lambda batch: model(batch, training=False)).get_concrete_function(signature)
        frozen: Callable[[tf.Tensor], list[tf.Tensor]] = convert_variables_to_constants_v2(traced)
        return frozen

    @cached_property
    def slots(self) -> np.ndarray:
        """The places in a batch that yield the same bits for the same image, int64 [at most batch_size].

        Matrix products treat the rows left over at the end of a block in another way, whose sums differ in the last
        bit. With batches that are a multiple of 48 none were left over on the processors tried, with 32 the last slot
        was. Where fewer than half of the slots agree, all are used: equal but for rounding is then the best there is.
        """
        size = self.backbone.image_size
        image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        outputs = self._graph(tf.constant(np.broadcast_to(image, (self.batch_size, *image.shape))))
        rows = np.concatenate([output.numpy().reshape(self.batch_size, -1) for output in outputs], axis=1)
        seen = [hashlib.sha256(row.tobytes()).digest() for row in rows]
        commonest, count = Counter(seen).most_common(1)[0]
        if 2 * count < self.batch_size:
            return np.arange(self.batch_size)
        return np.flatnonzero([digest == commonest for digest in seen])

    @property
    def images_per_pass(self) -> int:
        """How many images one forward pass takes."""
        return len(self.slots)

    def warm_up(self) -> None:
        """Build the graph and run it once, so that what follows can be timed."""
        _ = self.slots

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Run the frozen network on uint8 [b, H, W, 3], b at most `images_per_pass`; float32 [b, *shape] a cut."""
        used = self.slots[: len(pixels)]
        batch = pixels
        if len(used) < self.batch_size:
            batch = np.zeros((self.batch_size, *pixels.shape[1:]), np.uint8)
            batch[used] = pixels
        outputs = self._graph(tf.constant(batch))
        return {cut: output.numpy()[used] for cut, output in zip(self.cuts, outputs, strict=True)}


def resolve_precision(precision: Literal["auto", "float32", "bfloat16"]) -> Precision:
    """What `auto` means on this machine: bfloat16 where a product of two matrices gains by it, else float32.

    A small product is timed rather than a processor flag read: some machines have the instructions and lose by them.
    """
    if precision != "auto":
        return precision
    full, reduced = _product_seconds(tf.float32, tf.bfloat16)
    return "bfloat16" if reduced < 0.7 * full else "float32"


def _product_seconds(*dtypes: tf.DType, side: int = 1024, tries: int = 12) -> list[float]:
    """The least time of a matrix product in each of `dtypes`.

    They take turns, so that another process slows all alike: a verdict that changed from one command to the next
    would mean another fingerprint, and all features anew.
    """
    uniform = tf.random.stateless_uniform((side, side), seed=(0, 0))
    matrices = [tf.cast(uniform, dtype) for dtype in dtypes]
    seconds: list[list[float]] = [[] for _ in dtypes]
    for _ in range(tries):
        for matrix, times in zip(matrices, seconds, strict=True):
            start = time.perf_counter()
            tf.matmul(matrix, matrix).numpy()
            times.append(time.perf_counter() - start)
    return [min(times) for times in seconds]


def use_device() -> str:
    """Let the GPU's memory grow with need, and name the device in use."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"CPU, {os.cpu_count()} cores"
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # already in use by this process, and so already set
            break
    return f"GPU, {tf.config.experimental.get_device_details(gpus[0]).get('device_name', gpus[0].name)}"


def make_deterministic(layers: Sequence[keras.Layer] = ()) -> None:
    """Make operations on a GPU give the same result each time, if all that trains `layers` can.

    Depthwise convolutions have no deterministic gradient on a GPU (TensorFlow 2.21) and would fail instead.
    """
    depthwise = (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    if tf.config.list_physical_devices("GPU") and not any(isinstance(layer, depthwise) for layer in layers):
        tf.config.experimental.enable_op_determinism()
