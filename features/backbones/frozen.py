"""The fast form of a frozen backbone: batch normalisation folded into the weights, one graph, one batch shape."""

import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from headstart.features.backbones.backbone import Backbone, Precision
from headstart.features.backbones.folding import fold_batchnorm

# Of the arithmetic below; part of every fingerprint, so another one means other features.
FORWARD_VERSION = 3
BATCH_SIZE = 12 * min(4, max(1, (os.cpu_count() or 1) // 2))  # few, for memory, but some for each core
_SMALLEST_BATCH, _LARGEST_BATCH = 48, 1536  # on a GPU


class FrozenBackbone:
    """A backbone whose weights can't change: uint8 [b, H, W, 3] to float32 [b, *shape] a cut.

    With batch normalisation folded into the weights, TensorFlow fuses bias and relu into the convolutions. The weights
    stay variables: as constants in the graph they were copied by each pass of TensorFlow's optimizer, which doubled
    the memory and the time of the first run, and the passes after it were no faster.

    An image's features do not depend on how many others came with it, nor on its place among them: a batch is filled
    up to `batch_size` with zeros, and only slots that compute alike are used. On a GPU the graph is compiled by XLA;
    pixels travel there as uint8.

    Args:
        batch_size: 0 for twelve for two cores, at most 48, or on a GPU what is found fastest by trying.
    """

    def __init__(self, backbone: Backbone, cuts: Sequence[str], batch_size: int = 0) -> None:
        self.backbone = backbone
        self.cuts = tuple(cuts)
        self._asked = batch_size

    @cached_property
    def batch_size(self) -> int:
        """Images a forward pass takes: what was asked for, or what suits the processor, or on a GPU what is fast."""
        if self._asked:
            return self._asked
        return _fastest_batch_size(self._seconds) if on_gpu() else BATCH_SIZE

    def _seconds(self, batch_size: int) -> float:
        """The time of a forward pass of so many images, without the first."""
        graph = self.traced(batch_size)
        pixels = tf.zeros((batch_size, self.backbone.image_size, self.backbone.image_size, 3), tf.uint8)
        _ = [output.numpy() for output in graph(pixels)]
        start = time.perf_counter()
        _ = [output.numpy() for output in graph(pixels)]
        return time.perf_counter() - start

    @cached_property
    def _folded(self) -> keras.Model:
        return _folded(self.backbone, self.backbone.model)

    @cached_property
    def _graph(self) -> Callable[[tf.Tensor], list[tf.Tensor]]:
        return self.traced(self.batch_size)

    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        """One forward pass of a whole batch."""
        return [output.numpy() for output in self._graph(tf.constant(batch))]

    def traced(self, batch_size: int | None, compiled: bool | None = None) -> Callable[[tf.Tensor], list[tf.Tensor]]:
        """The network as a TensorFlow function of one signature; None leaves the batch size open.

        Args:
            compiled: by XLA; None for what suits the device.
        """
        size = self.backbone.image_size
        pixels = keras.Input((size, size, 3), dtype="uint8")
        folded = replace(self.backbone, load=lambda: self._folded)
        model = keras.Model(pixels, folded.features(pixels, self.cuts))
        signature = tf.TensorSpec((batch_size, size, size, 3), tf.uint8)
        by_xla = on_gpu() if compiled is None else compiled
        traced: Callable[[tf.Tensor], list[tf.Tensor]] = tf.function(
            lambda batch: keras.tree.flatten(model(batch, training=False)),
            jit_compile=by_xla,
        ).get_concrete_function(signature)
        return traced

    @cached_property
    def slots(self) -> np.ndarray:
        """The places in a batch that yield the same bits for the same image, int64 [at most batch_size].

        Matrix products treat the rows left over at the end of a block in another way, whose sums differ in the last
        bit. With batches of 12, 24, 36 and 48 none were left over on the processors tried, with 32 the last slot was on
        some. Where fewer than half of the slots agree, all are used: equal but for rounding is then the best there is.
        """
        size = self.backbone.image_size
        image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        outputs = self._run(np.repeat(image[np.newaxis], self.batch_size, axis=0))
        rows = np.concatenate([output.reshape(self.batch_size, -1) for output in outputs], axis=1)
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
        return {cut: output[used] for cut, output in zip(self.cuts, self._run(batch), strict=True)}

    def stream(
        self, batches: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Run it on the pixels of each (positions, pixels) of `batches`, in their order: (positions, features).

        On a processor two passes run at a time: one alone leaves its cores without work for 4 % of the time. If
        `batches` fails, or who reads stops, what is still running is lost. To be warmed up first.
        """
        at_once = 1 if on_gpu() else 2
        running: deque[tuple[np.ndarray, Future[dict[str, np.ndarray]]]] = deque()
        with ThreadPoolExecutor(at_once) as pool:
            for positions, pixels in batches:
                running.append((positions, pool.submit(self, pixels)))
                if len(running) == at_once:
                    done, features = running.popleft()
                    yield done, features.result()
            for done, features in running:
                yield done, features.result()


def frozen_part(backbone: Backbone, layers: Sequence[int]) -> keras.Model:
    """The fast form of what lies below some layers: uint8 [B, H, W, 3] to the output of each of `layers`, float32."""
    pixels = keras.Input((backbone.image_size, backbone.image_size, 3), dtype="uint8")
    outputs = [backbone.model.layers[index].output for index in layers]
    below = _folded(backbone, keras.Model(backbone.model.input, outputs))
    tensors = keras.tree.flatten(below(backbone.rescale(pixels), training=False))
    float32 = [keras.layers.Activation("linear", dtype="float32")(tensor) for tensor in tensors]
    frozen = keras.Model(pixels, float32, name="frozen")
    frozen.trainable = False
    return frozen


def _folded(backbone: Backbone, model: keras.Model) -> keras.Model:
    """`model`, the whole of `backbone` or what lies below some layer, without batch normalisation."""
    grey = np.full((1, backbone.image_size, backbone.image_size, 3), 127, np.uint8)
    return fold_batchnorm(model, backbone.rescale(grey))


def _fastest_batch_size(seconds: Callable[[int], float]) -> int:
    """Double 48 for as long as that makes more than 10 % more images/s, and memory holds them."""
    best, speed = _SMALLEST_BATCH, _SMALLEST_BATCH / seconds(_SMALLEST_BATCH)
    while best < _LARGEST_BATCH:
        try:
            faster = 2 * best / seconds(2 * best)
        except tf.errors.ResourceExhaustedError:
            break
        if faster < 1.1 * speed:
            break
        best, speed = 2 * best, faster
    return best


def resolve_precision(precision: Literal["auto", "float32", "bfloat16", "int8"]) -> Precision:
    """What `auto` means on this machine: bfloat16 where a product of two matrices gains by it, else float32.

    A small product is timed rather than a processor flag read: some machines have the instructions and lose by them.
    """
    if precision != "auto":
        return precision
    full, reduced = _product_seconds(tf.float32, tf.bfloat16)
    return "bfloat16" if reduced < 0.7 * full else "float32"


def _product_seconds(*dtypes: tf.DType, tries: int = 8) -> list[float]:
    """The least time of a matrix product in each of `dtypes`, of a size that takes milliseconds.

    They take turns, so that another process slows all alike: a verdict that changed from one command to the next
    would mean another fingerprint, and all features anew.
    """
    side = 6144 if on_gpu() else 768
    uniform = tf.random.stateless_uniform((side, side), seed=(0, 0))
    matrices = [tf.cast(uniform, dtype) for dtype in dtypes]
    seconds: list[list[float]] = [[] for _ in dtypes]
    for _ in range(tries):
        for matrix, times in zip(matrices, seconds, strict=True):
            start = time.perf_counter()
            tf.matmul(matrix, matrix)[0, 0].numpy()
            times.append(time.perf_counter() - start)
    return [min(times) for times in seconds]


def on_gpu() -> bool:
    """Whether TensorFlow has a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))


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
    if on_gpu() and not any(isinstance(layer, depthwise) for layer in layers):
        tf.config.experimental.enable_op_determinism()
