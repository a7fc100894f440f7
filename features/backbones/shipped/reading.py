"""Read the files that come with headstart: EfficientNet-Lite0, its classifier (the top), and ImageNet's class names.

This module does not import Keras.
"""

import hashlib
import io
from dataclasses import dataclass
from importlib import resources

import numpy as np
from headstart.features.errors import WeightsError

_FOLDER = "headstart.features.backbones.shipped"
_NETWORK, _TOP, _CLASSES = "efficientnet_lite0_imagenet.npz", "efficientnet_lite0_top.npz", "imagenet_classes.txt"
_SHA256 = {
    _NETWORK: "f65f2d9ae26f7eb448e809e2c904e6fa94f75f17ef70647f6d5e6b5188e6578c",
    _TOP: "cd3cc842dd559e92b94361a62d864e2ca7ccb3892f86d7490289ef77607b42e1",
    _CLASSES: "e697a491aa735cc6c2aaf982f8e86e8fc7b0a1ea7750a2cc6a2bdfc1e109012f",
}

NETWORK_DIGEST = "4e763ae75327c8bad5b7eda9eb017a949ef1240e92cb8f2b5505ebc7968c16cd"  # `weights` in its fingerprints


@dataclass(frozen=True)
class ImageNetTop:
    """The layer that turns EfficientNet-Lite0's features into logits of ImageNet's 1,000 classes."""

    kernel: np.ndarray  # float32 [1280, 1000]
    bias: np.ndarray  # float32 [1000]
    class_names: list[str]  # 1,000 names from WordNet

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return the logits, float32 [N, 1000], of features at the cut `top_act`, float32 [N, 1280]."""
        return np.asarray(features.astype(np.float32) @ self.kernel + self.bias)


def shipped_weights() -> dict[str, np.ndarray]:
    """Return EfficientNet-Lite0's weights without the top, as float32. Each name is `<layer>/<variable>`.

    Raises WeightsError if the file is missing or damaged.
    """
    return _arrays(_NETWORK)


def imagenet_top() -> ImageNetTop:
    """Return EfficientNet-Lite0's top. Raises WeightsError if a file is missing or damaged."""
    arrays = _arrays(_TOP)
    return ImageNetTop(arrays["kernel"], arrays["bias"], _content(_CLASSES).decode().splitlines())


def _arrays(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz` file by name.

    If the file has an array `<name>` and an array `<name>/scale`, their product is returned under `<name>`.
    """
    with np.load(io.BytesIO(_content(name))) as file:
        scales = {key.removesuffix("/scale"): file[key] for key in file if key.endswith("/scale")}
        return {
            key: (file[key] * scales[key]).astype(np.float32) if key in scales else file[key]
            for key in file
            if not key.endswith("/scale")
        }


def _content(name: str) -> bytes:
    place = resources.files(_FOLDER) / name
    try:
        content = place.read_bytes()
    except OSError as error:
        raise WeightsError(f"{place}: the weights that come with headstart are missing; install it again") from error
    if hashlib.sha256(content).hexdigest() != _SHA256[name]:
        raise WeightsError(f"{place}: the weights that come with headstart are damaged; install it again")
    return content
