"""Choose the weights of the demo: ImageNet's if Keras loads or downloads them within ten seconds, else random ones.

    python -m headstart.pipeline.data.demo_weights

Prints `imagenet` or `random` on standard output.
"""

import subprocess
import sys

from headstart.features.terminal import console
from rich.panel import Panel

_TRY = """
import signal
from headstart.features.backbones.weights import build_backbone
signal.alarm({seconds})  # kills the process
build_backbone("inception_v3")
signal.alarm(0)
"""


def demo_weights(seconds: int = 10) -> str:
    """Return `imagenet` if ImageNet's weights load within `seconds`, else print a warning and return `random`."""
    # The attempt runs in its own process, because a hanging download ends only with its process.
    tried = subprocess.run([sys.executable, "-c", _TRY.format(seconds=seconds)], capture_output=True, check=False)
    if tried.returncode == 0:
        return "imagenet"
    console.print(
        Panel(
            f"ImageNet weights could not be downloaded within {seconds} s: the demo goes on with RANDOM WEIGHTS.\n"
            "All steps are the real ones, but the accuracy is no measure of headstart.\n"
            "With a network, or with WEIGHTS=FILE, it is far higher.",
            title="NO PRETRAINED WEIGHTS",
            style="bold yellow",
        ),
        soft_wrap=False,  # soft wrapping would cut off the lines of the box
    )
    return "random"


if __name__ == "__main__":
    print(demo_weights())
