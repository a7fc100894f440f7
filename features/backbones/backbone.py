"""Pretrained networks without their classifier: what is known of each, and one that is built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
from headstart.features.errors import OptionError

Precision = Literal["float32", "bfloat16", "int8"]
MAP = ":map"  # ends the name of a cut that is not averaged over space
ALL_CUTS = "all"


@dataclass(frozen=True)
class Rescaling:
    """The affine map from pixels in [0, 255] to the range the weights were trained on: `pixel * scale + offset`."""

    scale: tuple[float, ...]
    offset: tuple[float, ...]


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB, as in Keras's "torch" mode
RESCALINGS: dict[str, Rescaling] = {
    "inception": Rescaling((1 / 127.5,), (-1.0,)),
    "unit": Rescaling((1 / 255,), (0.0,)),
    "standardised": Rescaling(
        tuple(1 / (255 * std) for std in _STD),
        tuple(-mean / std for mean, std in zip(_MEAN, _STD, strict=True)),
    ),
}


@dataclass(frozen=True)
class BackboneSpec:
    """What is known of a network.

    Args:
        builder: its name in `keras.applications`.
        image_size: side in pixels of the images its ImageNet weights were trained on.
        rescaling: the key in `RESCALINGS` that its ImageNet weights expect.
        cuts: where it may be cut, lowest first: the cut's name to the layer's name, or to its index where Keras gives
            the layer no stable name. The last is the default.
        finetune_from: the first layer (name or index) that fine-tuning trains by default.
        arguments: more keyword arguments of the builder.
    """

    builder: str
    image_size: int
    rescaling: str
    cuts: Mapping[str, str | int]
    finetune_from: str | int
    arguments: Mapping[str, Any]

    @property
    def default_cut(self) -> str:
        """The last cut."""
        return list(self.cuts)[-1]


def _same(*names: str) -> dict[str, str | int]:
    return {name: name for name in names}


BACKBONES: dict[str, BackboneSpec] = {
    # Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567
    "inception_v3": BackboneSpec(
        builder="InceptionV3",
        image_size=299,
        rescaling="inception",
        cuts=_same(*(f"mixed{block}" for block in range(11))),
        finetune_from=249,
        arguments={},
    ),
    # Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", arXiv:1610.02357
    "xception": BackboneSpec(
        builder="Xception",
        image_size=299,
        rescaling="inception",
        cuts={**{f"block{block}": 10 * block - 5 for block in range(2, 14)}, "block14": "block14_sepconv2_act"},
        finetune_from=116,
        arguments={},
    ),
    # He et al., "Identity Mappings in Deep Residual Networks", arXiv:1603.05027
    "resnet50_v2": BackboneSpec(
        builder="ResNet50V2",
        image_size=224,
        rescaling="inception",
        cuts=_same(
            *(
                f"conv{stage}_block{block}_out"
                for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 2))
                for block in range(1, blocks + 1)
            ),
            "post_relu",
        ),
        finetune_from="conv5_block1_preact_bn",
        arguments={},
    ),
    # Tan and Le, "EfficientNetV2: Smaller Models and Faster Training", arXiv:2104.00298
    "efficientnet_v2_b0": BackboneSpec(
        builder="EfficientNetV2B0",
        image_size=224,
        rescaling="standardised",
        cuts=_same(*(f"block{block}_add" for block in ("2b", "3b", "4c", "5e", "6d", "6h")), "top_activation"),
        finetune_from="block6e_expand_conv",
        arguments={"include_preprocessing": False},
    ),
    # Howard et al., "Searching for MobileNetV3", arXiv:1905.02244
    "mobilenet_v3_small": BackboneSpec(
        builder="MobileNetV3Small",
        image_size=224,
        rescaling="inception",
        cuts={**_same(*(f"expanded_conv_{block}_add" for block in (2, 4, 5, 7, 9, 10))), "top_activation": -1},
        finetune_from="expanded_conv_8_expand",
        arguments={"include_preprocessing": False},
    ),
}


@dataclass(frozen=True)
class Backbone:
    """A network with its weights, built when its `model` is first asked for.

    Args:
        name: its key in `BACKBONES`.
        load: yields the same model each time.
        rescaling: what is done to pixels before `model` sees them.
        image_size: side of the square input in pixels.
        weights_digest: SHA-256 over the shapes, dtypes and values of its weights.
        shapes: height, width and depth of the map at each cut.
        calibration: what its 8-bit form was quantised on, as a fingerprint tells it; None for other precisions.
    """

    name: str
    load: Callable[[], keras.Model]
    rescaling: Rescaling
    image_size: int
    precision: Precision
    weights_digest: str
    shapes: Mapping[str, tuple[int, ...]]
    calibration: Mapping[str, Any] | None = None

    @property
    def model(self) -> keras.Model:
        """The `keras.applications` model without its top; its `layers` are what `--from-layer` counts."""
        return self.load()

    @property
    def spec(self) -> BackboneSpec:
        """What is known of the network."""
        return BACKBONES[self.name]

    def layer_index(self, layer: str | int) -> int:
        """The index in `model.layers` of a layer given by name, cut or index.

        Raises:
            OptionError: there is no such layer.
        """
        layers = self.model.layers
        layer = self.spec.cuts.get(block_of(str(layer)), layer)
        if isinstance(layer, str) and not layer.isdecimal():
            for index, candidate in enumerate(layers):
                if candidate.name == layer:
                    return index
        elif -len(layers) <= int(layer) < len(layers):
            return int(layer) % len(layers)
        raise OptionError(f"{self.name} has no layer {layer!r}: give an index from 0 to {len(layers) - 1}, or a name")

    def shape(self, cut: str) -> tuple[int, ...]:
        """Shape of one image's features at `cut`: `(D,)`, or `(H, W, D)` for a map."""
        height, width, depth = self.shapes[block_of(cut)]
        return (height, width, depth) if cut.endswith(MAP) else (depth,)

    def boundary(self, cuts: Sequence[str]) -> int:
        """The index of the first layer that fine-tuning trains by default under a head on `cuts`.

        Under the last cut that is the network's own boundary; under an inner one, the block that ends in it.
        """
        names = list(self.spec.cuts)
        deepest = max(names.index(block_of(cut)) for cut in cuts)
        if deepest == len(names) - 1:
            return self.layer_index(self.spec.finetune_from)
        return self.layer_index(names[deepest - 1]) + 1 if deepest else 0

    def crossing(self, from_layer: int, cuts: Sequence[str]) -> list[int]:
        """Indices of the layers below `from_layer` that `cuts` or the layers between need, lowest first.

        Their outputs are what a frozen part below `from_layer` yields. The input, layer 0, is always below.
        """
        layers, from_layer = self.model.layers, max(from_layer, 1)
        below = {id(layer.output): index for index, layer in enumerate(layers[:from_layer])}
        outputs = [layers[self.layer_index(cut)].output for cut in cuts]
        needed = {layer.name for layer in keras.Model(self.model.input, outputs).layers}
        inputs = [layer.input for layer in layers[from_layer:] if layer.name in needed]
        return sorted({below[id(tensor)] for tensor in keras.tree.flatten([inputs, outputs]) if id(tensor) in below})

    def features(self, pixels: Any, cuts: Sequence[str]) -> list[Any]:
        """Apply the network, as for inference, to a symbolic uint8 [B, H, W, 3].

        Returns:
            One tensor a cut: float32 [B, D], the mean over space, or for a map float32 [B, H, W, D].
        """
        outputs = [self.model.layers[self.layer_index(cut)].output for cut in cuts]
        maps = keras.Model(self.model.input, outputs, name=self.name)(self.rescale(pixels), training=False)
        return self._finish(maps, cuts)

    def features_from(self, tensors: Sequence[Any], from_layer: int, cuts: Sequence[str]) -> list[Any]:
        """The features, as of `features`, that follow from the outputs of the layers `crossing`, [B, H, W, D] each."""
        layers, crossing = self.model.layers, self.crossing(from_layer, cuts)
        outputs = dict(zip(crossing, tensors, strict=True))
        at_cuts = [self.layer_index(cut) for cut in cuts]
        above = [index for index in at_cuts if index not in outputs]  # the others are among what crosses
        top = keras.Model([layers[i].output for i in crossing], [layers[i].output for i in above], name=self.name)
        outputs |= dict(zip(above, keras.tree.flatten(top(list(tensors))), strict=True))
        return self._finish([outputs[index] for index in at_cuts], cuts)

    def rescale(self, pixels: Any) -> Any:
        """Pixels in [0, 255] as `model` expects them."""
        scale, offset = self.rescaling.scale, self.rescaling.offset
        return keras.layers.Rescaling(list(scale), list(offset), name="rescale")(pixels)

    def _finish(self, maps: Sequence[Any], cuts: Sequence[str]) -> list[Any]:
        # The mean is taken in float32 whatever the precision below: 64 values of 8 significant bits add up badly.
        last: list[keras.Layer] = [
            keras.layers.Activation("linear", dtype="float32", name=f"map_{block_of(cut)}")
            if cut.endswith(MAP)
            else keras.layers.GlobalAveragePooling2D(dtype="float32", name=f"pool_{cut}")
            for cut in cuts
        ]
        return [layer(tensor) for layer, tensor in zip(last, maps, strict=True)]


def block_of(cut: str) -> str:
    """The block at whose end `cut` lies: `mixed8` of `mixed8:map`."""
    return cut.removesuffix(MAP)


def known_cuts(cuts: Sequence[str], backbone: str) -> list[str]:
    """`cuts` if `backbone` has them all; its default cut if there are none, and every pooled one for `all`.

    Raises:
        OptionError: an unknown backbone, an unknown cut, or one that is named twice.
    """
    spec = backbone_spec(backbone)
    cuts = [name for cut in split_cuts(cuts) for name in (spec.cuts if cut == ALL_CUTS else (cut,))]
    for name in cuts:
        if block_of(name) not in spec.cuts:
            raise OptionError(f"--cut: {backbone} has no cut {name!r}; choose from {', '.join(spec.cuts)}")
    if len(set(cuts)) < len(cuts):
        raise OptionError(f"--cut: names a cut twice. Received: {'+'.join(cuts)}")
    return list(cuts) or [spec.default_cut]


def split_cuts(cuts: Sequence[str]) -> list[str]:
    """The cuts of `cuts`, of which some may be several, joined by `+`."""
    return [name for cut in cuts for name in cut.split("+")]


def cuts_among(cuts: Sequence[str], backbones: Sequence[str]) -> dict[str, list[str]]:
    """Those of `cuts` that each of `backbones` has; as `known_cuts` where there are none, or `all`.

    A cut that several have is meant of all of them, unless it is given as `backbone/cut`.

    Raises:
        OptionError: an unknown backbone, or a cut that none of them has.
    """
    specs = {name: backbone_spec(name) for name in backbones}
    found: dict[str, list[str]] = {name: [] for name in backbones}
    for cut in split_cuts(cuts):
        of, _, inner = cut.rpartition("/")
        having = [
            name
            for name, spec in specs.items()
            if of in ("", name) and (inner == ALL_CUTS or block_of(inner) in spec.cuts)
        ]
        if not having:
            raise OptionError(f"--cut: none of {', '.join(backbones)} has a cut {cut!r}")
        for name in having:
            found[name].append(inner)
    return {name: known_cuts(inner, name) for name, inner in found.items()}


def backbone_spec(name: str) -> BackboneSpec:
    """`BACKBONES[name]`, or an OptionError that lists them."""
    if name not in BACKBONES:
        raise OptionError(f"--backbone: there is no {name!r}; choose from {', '.join(BACKBONES)}")
    return BACKBONES[name]
