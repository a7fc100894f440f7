"""The fast form of a frozen backbone: batch normalisation is folded into the weights, and the batch size is fixed."""

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.outlines import outline
from headstart.features.device import cpu_count, on_gpu
from headstart.features.errors import OptionError
from headstart.features.frozen.engines import (
    ConversionError,
    Pass,
    converted,
    openvino_batch_size,
    openvino_passes,
    uses_openvino,
)
from headstart.features.frozen.folding import fold_batchnorm, in_float32
from headstart.features.frozen.kept import KeptNetwork
from headstart.features.tensorflow import keras, tf
from headstart.features.terminal import console

_SMALLEST_BATCH, _LARGEST_BATCH = 48, 1536  # on a GPU


class FrozenBackbone:
    """The fast form of a backbone. A call maps pixels, uint8 [b, H, W, 3], to float32 features for each of `cuts`.

    Each of `passes` runs the network on `batch_size` images. Different passes may run at the same time.

    The features of an image do not depend on the other images in the batch. But an image may get slightly different
    features at different places of the batch. If possible, only places that give the same features for the same image
    are used, and all other places stay empty; see `_equal_slots`.
    """

    def __init__(self, passes: Sequence[Pass], cuts: Sequence[Cut], image_size: int, batch_size: int) -> None:
        self.cuts = tuple(cuts)
        self.batch_size = batch_size
        self.passes = tuple(passes)
        self._slots = _equal_slots(passes[0], image_size, batch_size)

    @property
    def images_per_pass(self) -> int:
        """The maximum number of images in one forward pass."""
        return len(self._slots)

    def __call__(self, pixels: np.ndarray, run: Pass | None = None) -> dict[Cut, np.ndarray]:
        """Return the features of `pixels`, uint8 [b, H, W, 3], at each cut. b is at most `images_per_pass`."""
        run = run or self.passes[0]
        used = self._slots[: len(pixels)]
        batch = pixels
        if len(used) < self.batch_size:
            batch = np.zeros((self.batch_size, *pixels.shape[1:]), np.uint8)
            batch[used] = pixels
        return {cut: output[used] for cut, output in zip(self.cuts, run(batch), strict=True)}

    def stream(
        self, batches: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, dict[Cut, np.ndarray]]]:
        """Run the network on each (positions, pixels) of `batches`. Yield (positions, features) in the same order.

        For pixels and features, see `__call__`. Positions are yielded as they came. Several batches are processed at
        the same time: one by each of `self.passes`. If `batches` raises an error, or the caller stops, results that
        were not yet yielded are lost.
        """
        running: deque[tuple[np.ndarray, Future[dict[Cut, np.ndarray]]]] = deque()
        with ThreadPoolExecutor(len(self.passes)) as pool:
            # The passes take turns. Each gets another batch only after its last result was yielded.
            for run, (positions, pixels) in zip(cycle(self.passes), batches, strict=False):
                running.append((positions, pool.submit(self, pixels, run)))
                if len(running) == len(self.passes):
                    done, features = running.popleft()
                    yield done, features.result()
            for done, features in running:
                yield done, features.result()


def freeze(
    backbone: Backbone,
    cuts: Sequence[Cut],
    batch_size: int = 0,
    engine: str | None = None,
    keep: KeptNetwork | None = None,
) -> FrozenBackbone:
    """Build the fast form of `backbone`. For a backbone with the precision int8, the form is in float32.

    Args:
        batch_size: the batch size of the form. If 0, a batch size is chosen.
        engine: the value of the field `engine` in the fingerprint of the features; see `engines.engine`.
        keep: a place in a store. If OpenVINO runs the network, the converted network is written to this place.

    If OpenVINO can't run a float32 network, TensorFlow runs the network. Raises OptionError if OpenVINO can't run a
    bfloat16 network.
    """
    folded = folded_backbone(backbone)
    if uses_openvino(backbone.precision, engine):
        try:
            batch_size = batch_size or openvino_batch_size(outline(backbone.name).multiply_adds)
            model = _converted(folded, cuts, batch_size)
            if keep:
                keep.write(model)
            return frozen_by_openvino(model, backbone, cuts, batch_size)
        except ConversionError as error:
            if backbone.precision != "float32":
                raise OptionError(f"--precision {backbone.precision}: {error}; use --precision float32") from error
            console.print(f"{error}: TensorFlow makes the same features, but takes longer")
    if not batch_size:
        batch_size = _fastest_batch_size(partial(_pass_seconds, folded, cuts)) if on_gpu() else default_batch_size()
    return FrozenBackbone(_passes(folded, cuts, batch_size), cuts, backbone.image_size, batch_size)


def _converted(folded: Backbone, cuts: Sequence[Cut], batch_size: int) -> Any:
    """Convert a network with folded batch normalisation for OpenVINO."""
    # OpenVINO reads no bfloat16 constants; it rounds a float32 model to bfloat16 itself.
    model = in_float32(folded.model) if folded.precision == "bfloat16" else folded.model
    return converted(traced(replace(folded, load=lambda: model), cuts, batch_size, compiled=False))


def frozen_by_openvino(model: Any, backbone: Backbone, cuts: Sequence[Cut], batch_size: int) -> FrozenBackbone:
    """Build the fast form of `backbone` from an OpenVINO model.

    `model` is the result of `_converted` for this backbone and the same `cuts` and `batch_size`.
    """
    size, arithmetic = backbone.image_size, "bf16" if backbone.precision == "bfloat16" else "f32"
    return FrozenBackbone(openvino_passes(model, len(cuts), size, batch_size, arithmetic), cuts, size, batch_size)


def passes_at_once() -> int:
    """Return how many forward passes run at the same time. One pass keeps a GPU busy. Two keep all CPU cores busy."""
    return 1 if on_gpu() else 2


def default_batch_size() -> int:
    """Return the number of images in one forward pass on a CPU: 12 for every two cores, but at least 12 and at most 48.

    More images gain little.
    """
    return 12 * min(4, max(1, cpu_count() // 2))


def folded_backbone(backbone: Backbone) -> Backbone:
    """Return `backbone` with batch normalisation folded into convolutions."""
    model = _folded(backbone, backbone.model)
    # After folding, not every cut can be found in the graph. Operations keep their indices.
    return replace(backbone, load=lambda: model, known_indices=backbone.indices)


def traced(
    backbone: Backbone, cuts: Sequence[Cut], batch_size: int | None = None, compiled: bool = True
) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    """Trace a network into a TensorFlow function that maps uint8 [B, H, W, 3] to a list of tensors.

    `backbone` comes from `folded_backbone`. The list holds the features at each cut: float32 [B, h, w, D] if the cut
    is a map, and float32 [B, D] if not. B is `batch_size`. If `batch_size` is None, B is any number. On a GPU, XLA
    compiles the function, unless `compiled` is False.
    """
    pixels = keras.Input((backbone.image_size, backbone.image_size, 3), dtype="uint8")
    return traced_model(keras.Model(pixels, backbone.features(pixels, cuts)), batch_size, compiled)


def traced_model(
    model: keras.Model, batch_size: int | None = None, compiled: bool = True
) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    """Trace `model` into a TensorFlow function.

    The function maps pixels, uint8 [B, H, W, 3], to a list of the model's outputs. For `batch_size` and `compiled`, see
    `traced`.
    """
    # Weights stay variables: each step of TensorFlow's graph optimizer would copy constants.
    signature = tf.TensorSpec((batch_size, *model.input_shape[1:]), tf.uint8)
    function: Callable[[tf.Tensor], list[tf.Tensor]] = tf.function(
        lambda batch: keras.tree.flatten(model(batch, training=False)), jit_compile=compiled and on_gpu()
    ).get_concrete_function(signature)
    return function


def frozen_part(backbone: Backbone, layers: Sequence[int]) -> keras.Model:
    """Build the fast form of a backbone's lower part.

    `layers` holds the indices of operations in the backbone's model; see `Backbone.crossing`. The fast form maps
    pixels, uint8 [B, H, W, 3], to the outputs of these operations, one float32 tensor per operation.
    """
    pixels = keras.Input((backbone.image_size, backbone.image_size, 3), dtype="uint8")
    outputs = [backbone.output(index) for index in layers]
    below = _folded(backbone, keras.Model(backbone.model.input, outputs))
    tensors = keras.tree.flatten(below(backbone.rescale(pixels), training=False))
    float32 = [keras.layers.Activation("linear", dtype="float32")(tensor) for tensor in tensors]
    frozen = keras.Model(pixels, float32, name="frozen")
    frozen.trainable = False
    return frozen


def _folded(backbone: Backbone, model: keras.Model) -> keras.Model:
    """Copy `model` with batch normalisation folded. `model` is the model of `backbone`, or that model's lower part."""
    grey = np.full((1, backbone.image_size, backbone.image_size, 3), 127, np.uint8)
    return fold_batchnorm(model, backbone.rescale(grey))


def _passes(folded: Backbone, cuts: Sequence[Cut], batch_size: int) -> list[Pass]:
    """Build as many forward passes as `passes_at_once` returns."""
    count = passes_at_once()
    if not any(isinstance(layer, keras.layers.Add) for layer in folded.model.layers):
        return [pass_of(traced(folded, cuts, batch_size))] * count
    # Each pass has its own graph: a oneDNN convolution that also adds a shortcut stores both summands in the operation
    # object (TensorFlow 2.21, `MklConvOp`). Passes that shared a graph gave wrong features, or crashed the process.
    return [pass_of(traced(folded, cuts, batch_size)) for _ in range(count)]


def pass_of(graph: Callable[[tf.Tensor], list[tf.Tensor]]) -> Pass:
    """Wrap the result of `traced_model` in a function that takes a NumPy array and returns NumPy arrays."""
    return lambda batch: [output.numpy() for output in graph(tf.constant(batch))]


def _equal_slots(run: Pass, image_size: int, batch_size: int) -> np.ndarray:
    """Return the largest set of batch slots that give bit-identical outputs for the same image.

    If this set has fewer than half of the slots, return all slots.
    """
    image = np.random.default_rng(0).integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)
    outputs = run(np.repeat(image[np.newaxis], batch_size, axis=0))
    rows = np.concatenate([output.reshape(batch_size, -1) for output in outputs], axis=1)
    seen = [hashlib.sha256(row.tobytes()).digest() for row in rows]
    commonest, count = Counter(seen).most_common(1)[0]  # the last slots often differ by rounding errors
    return np.flatnonzero([2 * count < batch_size or digest == commonest for digest in seen])


def _pass_seconds(folded: Backbone, cuts: Sequence[Cut], batch_size: int) -> float:
    run = pass_of(traced(folded, cuts, batch_size))
    pixels = np.zeros((batch_size, folded.image_size, folded.image_size, 3), np.uint8)
    run(pixels)
    start = time.perf_counter()
    run(pixels)
    return time.perf_counter() - start


def _fastest_batch_size(seconds: Callable[[int], float]) -> int:
    """Return the fastest batch size. `seconds` returns the time of a forward pass with a given batch size."""
    best, speed = _SMALLEST_BATCH, _SMALLEST_BATCH / seconds(_SMALLEST_BATCH)
    with suppress(tf.errors.ResourceExhaustedError):
        while best < _LARGEST_BATCH and (faster := 2 * best / seconds(2 * best)) >= 1.1 * speed:
            best, speed = 2 * best, faster
    return best
