"""The hardware: processor cores, and the GPU if TensorFlow has one. TensorFlow is started here."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.features.terminal import console, silent_libraries

if TYPE_CHECKING:
    import keras

_PROCESSORS = Path("/proc/cpuinfo")


def cpu_count() -> int:
    """The number of cores that this process may use, given its affinity and its container's limit."""
    import joblib  # late: its import takes longer than a command that has nothing to do

    return int(joblib.cpu_count())


def processor() -> str:
    """The model of the processor, or its architecture where the system does not tell the model."""
    with suppress(OSError):
        for line in _PROCESSORS.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


@cache
def start_tensorflow() -> str:
    """Start TensorFlow: import it and Keras, print the device in use, and return its name. Later calls do nothing more.

    TensorFlow takes GPU memory as it needs it, not all at once. A module that imports `headstart.features.tensorflow`
    need not call this function.
    """
    with silent_libraries():
        import keras  # noqa: F401
        from tensorflow import config

        gpus = config.list_physical_devices("GPU")
        with suppress(RuntimeError):  # this process already uses the GPU: too late to change it
            for gpu in gpus:
                config.experimental.set_memory_growth(gpu, True)
        details = config.experimental.get_device_details(gpus[0]) if gpus else {}
    name = f"GPU, {details.get('device_name', gpus[0].name)}" if gpus else f"CPU, {cpu_count()} cores"
    console.print(f"device: {name}", style="dim")
    return name


def gpu_at_hand() -> bool:
    """Whether the system has a GPU of NVIDIA's. Unlike `on_gpu`, this starts no TensorFlow."""
    return Path("/dev/dxg").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


def on_gpu() -> bool:
    """Whether TensorFlow has a GPU."""
    return start_tensorflow().startswith("GPU")


def make_deterministic(layers: Sequence[keras.Layer] = ()) -> None:
    """Make operations on a GPU deterministic, unless the training of `layers` would then fail."""
    if not on_gpu():
        return
    import keras
    import tensorflow as tf

    # On a GPU, depthwise convolutions have no deterministic gradient (TensorFlow 2.21).
    depthwise = (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    if not any(isinstance(layer, depthwise) for layer in layers):
        tf.config.experimental.enable_op_determinism()
