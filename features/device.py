"""The hardware: processor cores, and the GPU if TensorFlow can use one. `start_tensorflow` starts TensorFlow."""

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
    """Return the number of cores that this process may use, given its CPU affinity and its container's limit."""
    import joblib  # late: this import takes longer than a command that computes nothing

    return int(joblib.cpu_count())


def processor() -> str:
    """Return the model name of the processor, or its architecture if the system does not report the model."""
    with suppress(OSError):
        for line in _PROCESSORS.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


@cache
def start_tensorflow() -> str:
    """Import TensorFlow and Keras, print the device in use, and return its name: `GPU, <model>` or `CPU, <n> cores`.

    Later calls only return the name. TensorFlow is set to allocate GPU memory as needed, not all at once. The import
    of `headstart.features.tensorflow` calls this function.
    """
    with silent_libraries():
        import keras  # noqa: F401
        from tensorflow import config

        gpus = config.list_physical_devices("GPU")
        with suppress(RuntimeError):  # this process already uses the GPU, so the setting is fixed
            for gpu in gpus:
                config.experimental.set_memory_growth(gpu, True)
        details = config.experimental.get_device_details(gpus[0]) if gpus else {}
    name = f"GPU, {details.get('device_name', gpus[0].name)}" if gpus else f"CPU, {cpu_count()} cores"
    console.print(f"device: {name}", style="dim")
    return name


def gpu_at_hand() -> bool:
    """Return whether the system has an NVIDIA GPU. Unlike `on_gpu`, this function does not start TensorFlow."""
    return Path("/dev/dxg").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


def on_gpu() -> bool:
    """Return whether TensorFlow runs on a GPU. Start TensorFlow if needed."""
    return start_tensorflow().startswith("GPU")


def make_deterministic(layers: Sequence[keras.Layer] = ()) -> None:
    """Make TensorFlow's operations on a GPU deterministic, unless training `layers` would then fail.

    Training fails if `layers` contain depthwise or separable convolutions. Without a GPU, do nothing.
    """
    if not on_gpu():
        return
    import keras
    import tensorflow as tf

    # On a GPU, depthwise convolutions have no deterministic gradient (TensorFlow 2.21).
    depthwise = (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    if not any(isinstance(layer, depthwise) for layer in layers):
        tf.config.experimental.enable_op_determinism()
