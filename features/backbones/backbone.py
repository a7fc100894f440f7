"""A pretrained network without its classifier, with its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.zoo import BACKBONES, BackboneSpec, Rescaling
from headstart.features.config import Precision
from headstart.features.errors import OptionError

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Backbone:
    """A pretrained network with its weights. Its Keras model is built when `model` is first asked for."""

    name: str  # in `BACKBONES`
    load: Callable[[], keras.Model]  # returns the same model each time
    rescaling: Rescaling  # maps pixels to the input of `model`
    image_size: int  # side of the square input in pixels
    precision: Precision
    weights_digest: str  # SHA-256 over the shapes, dtypes and values of the weights
    shapes: Mapping[str, tuple[int, ...]]  # height, width and depth of the map at the end of each block
    calibration: Mapping[str, Any] | None = None  # only for int8; see `calibration.calibration`

    @property
    def model(self) -> keras.Model:
        """The `keras.applications` model without its top. A number in `--from-layer` is an index into its `layers`."""
        return self.load()

    @property
    def spec(self) -> BackboneSpec:
        """The network's entry in the zoo."""
        return BACKBONES[self.name]

    def cuts(self) -> list[Cut]:
        """Every cut that averages over space, lowest first."""
        return [Cut(self.name, block) for block in self.spec.cuts]

    def layer_index(self, layer: str | int) -> int:
        """The index in `model.layers` of `layer`: a name, index or cut. An unknown layer raises an OptionError."""
        layers = self.model.layers
        layer = self.spec.cuts.get(Cut.parse(self.name, str(layer)).block, layer)
        if isinstance(layer, str) and not layer.isdecimal():
            names = [candidate.name for candidate in layers]
            if layer in names:
                return names.index(layer)
        elif -len(layers) <= int(layer) < len(layers):
            return int(layer) % len(layers)
        raise OptionError(f"{self.name} has no layer {layer!r}: give an index from 0 to {len(layers) - 1}, or a name")

    def shape(self, cut: Cut) -> tuple[int, ...]:
        """Shape of one image's features at `cut`: `(D,)`, or `(H, W, D)` for a map."""
        height, width, depth = self.shapes[cut.block]
        return (height, width, depth) if cut.map else (depth,)

    def boundary(self, cuts: Sequence[Cut]) -> int:
        """The index of the first layer that fine-tuning trains by default, for a head on `cuts`.

        If the deepest of `cuts` ends the backbone's last block, the layer is `spec.finetune_from`. Else it is the first
        layer of the block that ends at the deepest cut.
        """
        blocks = list(self.spec.cuts)
        deepest = max(blocks.index(cut.block) for cut in cuts)
        if deepest == len(blocks) - 1:
            return self.layer_index(self.spec.finetune_from)
        return self.layer_index(blocks[deepest - 1]) + 1 if deepest else 0

    def crossing(self, from_layer: int, cuts: Sequence[Cut]) -> list[int]:
        """Find the layers below `from_layer` whose output ends one of `cuts`, or is read by a layer from there on.

        The frozen part of a fine-tuned network yields these outputs. Returns ascending indices. Layer 0, the input,
        always counts as below.
        """
        from headstart.features.tensorflow import keras

        layers, from_layer = self.model.layers, max(from_layer, 1)
        below = {id(layer.output): index for index, layer in enumerate(layers[:from_layer])}
        outputs = [layers[self.layer_index(cut.block)].output for cut in cuts]
        needed = {layer.name for layer in keras.Model(self.model.input, outputs).layers}
        inputs = [layer.input for layer in layers[from_layer:] if layer.name in needed]
        return sorted({below[id(tensor)] for tensor in keras.tree.flatten([inputs, outputs]) if id(tensor) in below})

    def features(self, pixels: Any, cuts: Sequence[Cut]) -> list[Any]:
        """Apply the network, in inference mode, to symbolic `pixels`, uint8 [B, H, W, 3].

        Returns float32 [B, D] per cut, the mean over space, or float32 [B, H, W, D] for a map.
        """
        from headstart.features.tensorflow import keras

        outputs = [self.model.layers[self.layer_index(cut.block)].output for cut in cuts]
        maps = keras.Model(self.model.input, outputs, name=self.name)(self.rescale(pixels), training=False)
        return _at_cuts(maps, cuts)

    def features_from(self, tensors: Sequence[Any], from_layer: int, cuts: Sequence[Cut]) -> list[Any]:
        """Like `features`, but computed from `tensors`: the outputs of the layers in `crossing`, [B, H, W, D] each."""
        from headstart.features.tensorflow import keras

        layers, crossing = self.model.layers, self.crossing(from_layer, cuts)
        outputs = dict(zip(crossing, tensors, strict=True))
        indices = [self.layer_index(cut.block) for cut in cuts]
        above = [index for index in indices if index not in outputs]  # `tensors` holds the other cuts
        top = keras.Model([layers[i].output for i in crossing], [layers[i].output for i in above], name=self.name)
        outputs |= dict(zip(above, keras.tree.flatten(top(list(tensors))), strict=True))
        return _at_cuts([outputs[index] for index in indices], cuts)

    def rescale(self, pixels: Any) -> Any:
        """Map pixels in [0, 255] to the range that `model` expects."""
        from headstart.features.tensorflow import keras

        scale, offset = self.rescaling.scale, self.rescaling.offset
        return keras.layers.Rescaling(list(scale), list(offset), name="rescale")(pixels)


def _at_cuts(maps: Sequence[Any], cuts: Sequence[Cut]) -> list[Any]:
    from headstart.features.tensorflow import keras

    # The mean is taken in float32: a sum of 64 values would lose too much in bfloat16.
    def last(cut: Cut) -> keras.Layer:
        if cut.map:
            return keras.layers.Activation("linear", dtype="float32", name=f"map_{cut.block}")
        return keras.layers.GlobalAveragePooling2D(dtype="float32", name=f"pool_{cut.block}")

    return [last(cut)(tensor) for cut, tensor in zip(cuts, maps, strict=True)]
