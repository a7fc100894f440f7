"""Which weights the demo uses: ImageNet's where Keras has them or gets them within ten seconds, else random ones.

    python -m headstart.pipeline.data.demo_weights

Prints `imagenet` or `random` on standard output.
"""

import subprocess
import sys

from headstart.features.terminal import console
from rich.panel import Panel

DOWNLOAD_SECONDS = 10
_TRY = """
import threading, os
from headstart.features.backbones.weights import build_backbone
timer = threading.Timer({seconds}, os._exit, [1])
timer.start()
try:
    build_backbone("inception_v3")
except Exception:
    os._exit(1)
os._exit(0)
"""


def demo_weights(seconds: float = DOWNLOAD_SECONDS) -> str:
    """`imagenet` if those weights can be had within `seconds` of trying, else `random`, after saying so."""
    # In a process of its own: a download that hangs can only be ended from outside.
    tried = subprocess.run([sys.executable, "-c", _TRY.format(seconds=seconds)], capture_output=True, check=False)
    if tried.returncode == 0:
        return "imagenet"
    console.print(
        Panel(
            "ImageNet weights could not be had within "
            f"{seconds:g} s: the demo goes on with RANDOM WEIGHTS.\n"
            "All steps are the real ones, but the accuracy says nothing of what headstart can do.\n"
            "With a network, or with WEIGHTS=FILE, it is far higher.",
            title="NO PRETRAINED WEIGHTS",
            style="bold yellow",
        ),
        soft_wrap=False,  # it would cut the lines of a box off
    )
    return "random"


if __name__ == "__main__":
    print(demo_weights())
