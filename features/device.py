"""The hardware: CPU cores, and the GPU if TensorFlow can use one."""

from collections.abc import Sequence
from contextlib import suppress

import joblib
import keras
import tensorflow as tf


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use under its CPU affinity and its container's limit."""
    return int(joblib.cpu_count())


def on_gpu() -> bool:
    """Return whether TensorFlow can use a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))


def use_device() -> str:
    """Let TensorFlow allocate GPU memory as needed, not all at once. Return the name of the device in use."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"CPU, {cpu_count()} cores"
    with suppress(RuntimeError):  # too late: this process already uses the GPU
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    return f"GPU, {tf.config.experimental.get_device_details(gpus[0]).get('device_name', gpus[0].name)}"


def make_deterministic(layers: Sequence[keras.Layer] = ()) -> None:
    """Make GPU operations deterministic, unless `layers` contains a layer that could then not be trained."""
    # On a GPU, depthwise convolutions have no deterministic gradient (TensorFlow 2.21).
    depthwise = (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    if on_gpu() and not any(isinstance(layer, depthwise) for layer in layers):
        tf.config.experimental.enable_op_determinism()
