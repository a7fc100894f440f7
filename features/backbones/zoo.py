"""The available networks: one entry of `BACKBONES` per network. This module imports no Keras."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headstart.features.errors import OptionError


@dataclass(frozen=True)
class Rescaling:
    """The map from pixels in [0, 255] to the input of a network: `pixel * scale + offset`."""

    scale: tuple[float, ...]
    offset: tuple[float, ...]


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB, as in Keras's "torch" mode
RESCALINGS: dict[str, Rescaling] = {
    "inception": Rescaling((1 / 127.5,), (-1.0,)),
    "unit": Rescaling((1 / 255,), (0.0,)),
    "standardised": Rescaling(
        tuple(1 / (255 * std) for std in _STD), tuple(-mean / std for mean, std in zip(_MEAN, _STD, strict=True))
    ),
}


@dataclass(frozen=True)
class BackboneSpec:
    """The description of one available network: how to build it, and where it may be cut."""

    builder: str  # the network's name in `keras.applications`
    image_size: int  # side, in pixels, of the square images on which the ImageNet weights were trained
    rescaling: str  # a key in `RESCALINGS`: the one that fits the ImageNet weights
    # The network may be cut at the end of these blocks, lowest first. The last is the default. The value is the name of
    # the block's last layer, or its index if Keras gives the layer no stable name.
    cuts: Mapping[str, str | int]
    finetune_from: str | int  # the first layer (name or index) that fine-tuning trains by default
    arguments: Mapping[str, Any] = field(default_factory=dict)  # further arguments of the builder


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
    ),
    # Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", arXiv:1610.02357
    "xception": BackboneSpec(
        builder="Xception",
        image_size=299,
        rescaling="inception",
        cuts={**{f"block{block}": 10 * block - 5 for block in range(2, 14)}, "block14": "block14_sepconv2_act"},
        finetune_from=116,
    ),
    # He et al., "Identity Mappings in Deep Residual Networks", arXiv:1603.05027
    "resnet50_v2": BackboneSpec(
        builder="ResNet50V2",
        image_size=224,
        rescaling="inception",
        cuts=_same(
            *(f"conv{stage}_block{n}_out" for stage, end in ((2, 4), (3, 5), (4, 7), (5, 3)) for n in range(1, end)),
            "post_relu",
        ),
        finetune_from="conv5_block1_preact_bn",
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


def backbone_spec(name: str) -> BackboneSpec:
    """Return `BACKBONES[name]`. An unknown name raises an OptionError that lists all names."""
    if name not in BACKBONES:
        raise OptionError(f"--backbone: there is no {name!r}; choose from {', '.join(BACKBONES)}")
    return BACKBONES[name]
