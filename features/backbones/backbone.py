"""A pretrained network without its classifier, with its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.outlines import cut_places, is_own
from headstart.features.backbones.zoo import Rescaling
from headstart.features.config import Precision, Tokens
from headstart.features.errors import OptionError

if TYPE_CHECKING:
    import keras

OWN = "own"  # the name of `.keras` files in fingerprints


@dataclass(frozen=True)
class Backbone:
    """A pretrained network with its weights.

    The Keras model is built at the latest when the property `model` is first read.
    """

    name: str  # in `BACKBONES`, or the path of a `.keras` file
    load: Callable[[], keras.Model]  # returns the same model each time
    rescaling: Rescaling  # maps pixels to the input of `model`
    image_size: int  # side of the square input in pixels
    precision: Precision
    weights_digest: str  # SHA-256 over the shapes, dtypes and values of the weights; of a `.keras` file, over its bytes
    shapes: Mapping[str, tuple[int, ...]]  # at each cut: a map `(H, W, D)`, tokens `(N, D)` or a vector `(D,)`
    calibration: Mapping[str, Any] | None = None  # only for int8; see `calibration.calibration`
    tokens: Tokens = "mean"  # how tokens become one vector: their mean, or the first token
    # The index of each cut's operation, for a copy of a network in whose graph cuts can't be found; else None.
    known_indices: Mapping[str, int] | None = None  # `indices`, if they are known already

    @property
    def model(self) -> keras.Model:
        """The Keras model, without a classifier. The option `--from-layer` takes an index into `model.operations`."""
        return self.load()

    @property
    def title(self) -> str:
        """The name in fingerprints: the text "own" for a `.keras` file, and the field `name` for any other backbone."""
        return OWN if is_own(self.name) else self.name

    @cached_property
    def indices(self) -> Mapping[str, int]:
        """The index of each cut in `model.operations`, by the name of the cut."""
        return cut_places(self.name, self.model) if self.known_indices is None else self.known_indices

    def cuts(self) -> list[Cut]:
        """Return one cut for each key of `shapes`, the nearest to the input first. `Cut.map` is always false."""
        return [Cut(self.name, block) for block in self.shapes]

    def layer_index(self, layer: str | int | Cut) -> int:
        """Return the index of `layer` in `model.operations`.

        `layer` is a cut, the name of a cut, the name of a layer, or an index. The index may be a number or text. An
        unknown layer raises an OptionError.
        """
        if isinstance(layer, Cut):
            return self.indices[layer.block]
        operations = self.model.operations
        if isinstance(layer, str) and not layer.lstrip("-").isdecimal():
            names = {operation.name: index for index, operation in enumerate(operations)} | dict(self.indices)
            if (block := Cut.parse(self.name, layer).block) in names:
                return names[block]
        elif 0 <= int(layer) < len(operations):
            return int(layer)
        raise OptionError(
            f"{self.name} has no layer {layer!r}: give an index from 0 to {len(operations) - 1}, or a name"
        )

    def shape(self, cut: Cut) -> tuple[int, ...]:
        """Return the shape of one image's features at `cut`: `(D,)`, or `(H, W, D)` for a map."""
        return self.shapes[cut.block] if cut.map else self.shapes[cut.block][-1:]

    def boundary(self, cuts: Sequence[Cut]) -> int:
        """Return the index of the first operation that fine-tuning trains by default, for a head on `cuts`.

        If the deepest of `cuts` is the backbone's last cut, training begins at the last stage; see `graph.last_stage`.
        Otherwise, training begins at the start of the block that ends at the deepest cut.
        """
        from headstart.features.backbones.graph import last_stage

        blocks = list(self.shapes)
        deepest = max(blocks.index(cut.block) for cut in cuts)
        if deepest == len(blocks) - 1:
            return last_stage(self.model)
        return self.layer_index(Cut(self.name, blocks[deepest - 1])) + 1 if deepest else 0

    def output(self, layer: int | str | Cut) -> keras.KerasTensor:
        """Return the symbolic output of `layer`; see `layer_index`."""
        from headstart.features.backbones.graph import output_of

        return output_of(self.model, self.layer_index(layer))

    def crossing(self, from_layer: int, cuts: Sequence[Cut]) -> list[int]:
        """Return the ascending indices of the frozen operations whose outputs the top needs for `cuts`.

        The operations below index `from_layer` are frozen, and operation 0 is always frozen. All other operations form
        the top. If a cut is the output of a frozen operation, the result has the index of this operation.

        Raises OptionError if `graph.read_graph` returns None, for example because the network uses a layer twice.
        """
        from headstart.features.backbones.graph import read_graph
        from headstart.features.tensorflow import keras

        if read_graph(self.model) is None:
            raise OptionError(
                f"{self.name}: uses a layer twice, so its top can't be fine-tuned; only its features serve"
            )
        operations, from_layer = self.model.operations, max(from_layer, 1)
        below = {id(operation.output): index for index, operation in enumerate(operations[:from_layer])}
        outputs = [self.output(cut) for cut in cuts]
        needed = {operation.name for operation in keras.Model(self.model.input, outputs).operations}
        inputs = [operation.input for operation in operations[from_layer:] if operation.name in needed]
        return sorted({below[id(tensor)] for tensor in keras.tree.flatten([inputs, outputs]) if id(tensor) in below})

    def features(self, pixels: Any, cuts: Sequence[Cut]) -> list[Any]:
        """Apply the network in inference mode to symbolic `pixels`, uint8 [B, H, W, 3].

        Return one float32 tensor per cut: [B, D], averaged over space, or [B, h, w, D] for a map. If the network yields
        tokens, the tensor is [B, D], and holds the mean of each image's tokens, or the first token. The field `tokens`
        decides which.
        """
        from headstart.features.tensorflow import keras

        outputs = [self.output(cut) for cut in cuts]
        found = keras.Model(self.model.input, outputs, name=self.title)(self.rescale(pixels), training=False)
        return self._at_cuts(found, cuts)

    def features_from(self, tensors: Sequence[Any], from_layer: int, cuts: Sequence[Cut]) -> list[Any]:
        """Return the same result as `features(pixels, cuts)`, but compute it from `tensors`.

        `tensors` holds the outputs of the operations that `crossing(from_layer, cuts)` lists, in the same order.
        """
        from headstart.features.tensorflow import keras

        crossing = self.crossing(from_layer, cuts)
        outputs = dict(zip(crossing, tensors, strict=True))
        indices = [self.layer_index(cut) for cut in cuts]
        above = [index for index in indices if index not in outputs]  # `tensors` holds the other cuts
        below = [self.output(index) for index in crossing]
        top = keras.Model(below, [self.output(index) for index in above], name=self.title)
        outputs |= dict(zip(above, keras.tree.flatten(top(list(tensors))), strict=True))
        return self._at_cuts([outputs[index] for index in indices], cuts)

    def rescale(self, pixels: Any) -> Any:
        """Map RGB `pixels` to the range and the order of channels that `model` expects.

        `pixels` is [B, H, W, 3], with values from 0 to 255.
        """
        from headstart.features.tensorflow import keras

        scale, offset = self.rescaling.scale, self.rescaling.offset
        if self.rescaling.bgr:
            pixels = keras.ops.flip(pixels, axis=-1)
        return keras.layers.Rescaling(list(scale), list(offset), name="rescale")(pixels)

    def _at_cuts(self, outputs: Sequence[Any], cuts: Sequence[Cut]) -> list[Any]:
        from headstart.features.tensorflow import keras

        # The mean is taken in float32: a sum of 64 values would lose too much in bfloat16.
        def last(cut: Cut, tensor: Any) -> Any:
            rank = len(self.shapes[cut.block])
            if rank == 3 and not cut.map:
                return keras.layers.GlobalAveragePooling2D(dtype="float32", name=f"pool_{cut.block}")(tensor)
            if rank == 2 and self.tokens == "mean":
                return keras.layers.GlobalAveragePooling1D(dtype="float32", name=f"pool_{cut.block}")(tensor)
            if rank == 2:
                tensor = keras.ops.take(tensor, 0, axis=1)
            return keras.layers.Activation("linear", dtype="float32", name=f"map_{cut.block}")(tensor)

        return [last(cut, tensor) for cut, tensor in zip(cuts, keras.tree.flatten(outputs), strict=True)]
