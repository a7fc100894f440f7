"""The networks that `--backbone` knows by name. This module imports no Keras.

The builders are in `keras.applications`. EfficientNet-Lite0 is an exception: its builder is in `lite0`, and its weights
are part of headstart.

Cuts, shapes and costs are read from each network's graph; see `outlines`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from headstart.features.errors import OptionError
from headstart.features.images.pixels import Resize


@dataclass(frozen=True)
class Rescaling:
    """The formula `pixel * scale + offset`. It turns pixels in [0, 255] into the input of a network.

    `scale` and `offset` have one value, or one value per channel, in the network's order of channels.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    bgr: bool = False  # the network's order of channels is blue, green, red; else red, green, blue

    def to_json(self) -> dict[str, Any]:
        """Return this rescaling as the value of a fingerprint's field `rescale`."""
        return {"scale": self.scale, "offset": self.offset} | ({"bgr": True} if self.bgr else {})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Rescaling":
        """Return the rescaling from `values`, the result of `to_json`."""
        return cls(tuple(values["scale"]), tuple(values["offset"]), bool(values.get("bgr")))


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB, as in Keras's "torch" mode
RESCALINGS: dict[str, Rescaling] = {
    "none": Rescaling((1.0,), (0.0,)),
    "unit": Rescaling((1 / 255,), (0.0,)),
    "inception": Rescaling((1 / 127.5,), (-1.0,)),  # Keras's "tf" mode
    "standardised": Rescaling(
        tuple(1 / (255 * std) for std in _STD), tuple(-mean / std for mean, std in zip(_MEAN, _STD, strict=True))
    ),
    "caffe": Rescaling((1.0,), (-103.939, -116.779, -123.68), bgr=True),
    "efficientnet_lite": Rescaling((1 / 128,), (-127 / 128,)),
    "efficientnet_v2": Rescaling((1 / 128,), (-1.0,)),
}


@dataclass(frozen=True)
class BackboneSpec:
    """The description of one network: how to build it, and how images are prepared for it."""

    builder: str  # the network's name in `keras.applications`, or in `lite0`
    image_size: int  # side, in pixels, of the square images on which the ImageNet weights were trained
    rescaling: str  # a key in `RESCALINGS`: the one that fits the ImageNet weights
    # How images become squares by default. The weights were evaluated on centre squares. The networks of
    # headstart's first versions keep `stretch`, so that their features stay valid.
    resize: Resize = "crop"
    arguments: Mapping[str, Any] = field(default_factory=dict)  # further arguments of the builder
    names: Mapping[str, str] = field(default_factory=dict)  # layer to cut, where the names differ
    preprocesses: bool = False  # the built network begins with its own rescaling, which is removed
    shipped: bool = False  # the ImageNet weights are part of headstart


_PLAIN = {"include_preprocessing": False}


def _family(builder: str, sizes: Mapping[str, int], rescaling: str, **options: Any) -> dict[str, BackboneSpec]:
    """Return the spec of each network in a Keras family. `sizes` has the image size for each suffix, such as `B0`."""
    name = {"EfficientNet": "efficientnet_", "EfficientNetV2": "efficientnet_v2_", "ConvNeXt": "convnext_"}[builder]
    return {
        f"{name}{suffix.lower()}": BackboneSpec(f"{builder}{suffix}", size, rescaling, **options)
        for suffix, size in sizes.items()
    }


BACKBONES: dict[str, BackboneSpec] = {
    # Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567
    "inception_v3": BackboneSpec("InceptionV3", 299, "inception", "stretch"),
    # Tan and Le, "EfficientNet", arXiv:1905.11946, without squeeze-and-excitation and with ReLU6; see `lite0`
    "efficientnet_lite0": BackboneSpec("EfficientNetLite0", 224, "efficientnet_lite", shipped=True),
    # Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", arXiv:1610.02357
    "xception": BackboneSpec("Xception", 299, "inception", "stretch", names={"block14_sepconv2_act": "block14"}),
    # Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections", arXiv:1602.07261
    "inception_resnet_v2": BackboneSpec("InceptionResNetV2", 299, "inception"),
    # He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385
    **{f"resnet{depth}": BackboneSpec(f"ResNet{depth}", 224, "caffe") for depth in (50, 101, 152)},
    # He et al., "Identity Mappings in Deep Residual Networks", arXiv:1603.05027
    "resnet50_v2": BackboneSpec("ResNet50V2", 224, "inception", "stretch"),
    **{f"resnet{depth}_v2": BackboneSpec(f"ResNet{depth}V2", 224, "inception") for depth in (101, 152)},
    # Huang et al., "Densely Connected Convolutional Networks", arXiv:1608.06993
    **{f"densenet{depth}": BackboneSpec(f"DenseNet{depth}", 224, "standardised") for depth in (121, 169, 201)},
    # Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556
    **{f"vgg{depth}": BackboneSpec(f"VGG{depth}", 224, "caffe") for depth in (16, 19)},
    # Howard et al., "MobileNets", arXiv:1704.04861; Sandler et al., "MobileNetV2", arXiv:1801.04381; Howard et al.,
    # "Searching for MobileNetV3", arXiv:1905.02244
    "mobilenet": BackboneSpec("MobileNet", 224, "inception"),
    "mobilenet_v2": BackboneSpec("MobileNetV2", 224, "inception"),
    "mobilenet_v3_small": BackboneSpec("MobileNetV3Small", 224, "inception", "stretch", _PLAIN),
    "mobilenet_v3_large": BackboneSpec("MobileNetV3Large", 224, "inception", arguments=_PLAIN),
    # Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", arXiv:1707.07012
    "nasnet_mobile": BackboneSpec("NASNetMobile", 224, "inception"),
    "nasnet_large": BackboneSpec("NASNetLarge", 331, "inception"),
    # Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv:1905.11946
    **_family(
        "EfficientNet",
        {"B0": 224, "B1": 240, "B2": 260, "B3": 300, "B4": 380, "B5": 456, "B6": 528, "B7": 600},
        "standardised",
        preprocesses=True,
    ),
    # Tan and Le, "EfficientNetV2: Smaller Models and Faster Training", arXiv:2104.00298
    **_family("EfficientNetV2", {"B0": 224}, "standardised", resize="stretch", arguments=_PLAIN),
    **_family("EfficientNetV2", {"B1": 240, "B2": 260, "B3": 300}, "standardised", arguments=_PLAIN),
    **_family("EfficientNetV2", {"S": 384, "M": 480, "L": 480}, "efficientnet_v2", arguments=_PLAIN),
    # Liu et al., "A ConvNet for the 2020s", arXiv:2201.03545
    **_family(
        "ConvNeXt", dict.fromkeys(("Tiny", "Small", "Base", "Large", "XLarge"), 224), "standardised", arguments=_PLAIN
    ),
}


def backbone_spec(name: str) -> BackboneSpec:
    """Return `BACKBONES[name]`. An unknown name raises an OptionError that suggests the nearest names."""
    if name not in BACKBONES:
        plain = {known.replace("_", ""): known for known in BACKBONES}
        asked = "".join(letter for letter in name.lower() if letter.isalnum())
        near = [plain[found] for found in get_close_matches(asked, plain, n=3, cutoff=0.5)]
        meant = f"did you mean {' or '.join(near)}?" if near else "give a name"
        raise OptionError(
            f"--backbone: there is no {name!r}; {meant}; `headstart backbones` lists all; a .keras file is taken, too"
        )
    return BACKBONES[name]
