"""Choose the network of the demo: InceptionV3 if its ImageNet weights are available, else EfficientNet-Lite0."""

import os
import subprocess
import sys

from headstart.features.config import FeatureConfig
from headstart.features.errors import OptionError
from headstart.features.terminal import console

_SECONDS = 10
_TRY = """
import signal
from headstart.features.backbones.weights import build_backbone
signal.alarm({seconds})  # kills the process
build_backbone("inception_v3")
signal.alarm(0)
"""


def choose_network(seconds: int = _SECONDS) -> FeatureConfig:
    """Return the settings of the demo's network, and print a line that names the network.

    The network depends on what is available. The cases are tried in this order, and the first true case decides:

    - The environment variable HEADSTART_WEIGHTS names a file: the network is InceptionV3 with the weights in this file.
    - Keras can load or download the ImageNet weights of InceptionV3 within `seconds`: the network is InceptionV3.
    - All other cases: the network is EfficientNet-Lite0, because its ImageNet weights come with headstart.

    Raises OptionError if HEADSTART_WEIGHTS is `random`.
    """
    weights = os.environ.get("HEADSTART_WEIGHTS") or "imagenet"
    if weights == "random":
        raise OptionError("HEADSTART_WEIGHTS=random: the demo has no use for random weights; unset it, or name a file")
    if weights != "imagenet":
        console.print(f"network: inception_v3 with the weights in {weights}")
        return FeatureConfig(weights=weights)
    # The attempt runs in its own process, because a hanging download ends only with its process.
    tried = subprocess.run([sys.executable, "-c", _TRY.format(seconds=seconds)], capture_output=True, check=False)
    if tried.returncode == 0:
        console.print("network: inception_v3 with its ImageNet weights")
        return FeatureConfig()
    console.print(
        f"network: efficientnet_lite0, whose ImageNet weights come with headstart; those of inception_v3 could not be "
        f"loaded or downloaded within {seconds} s"
    )
    return FeatureConfig(backbone="efficientnet_lite0")
