"""The hardware: processor cores, and the GPU if TensorFlow has one."""

from collections.abc import Sequence
from contextlib import suppress

import joblib
import keras
import tensorflow as tf


def cpu_count() -> int:
    """The number of cores that this process may use, given its affinity and its container's limit."""
    return int(joblib.cpu_count())


def on_gpu() -> bool:
    """Whether TensorFlow has a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))


def use_device() -> str:
    """Let TensorFlow take GPU memory as it needs it, not all at once. Return the name of the device in use."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"CPU, {cpu_count()} cores"
    with suppress(RuntimeError):  # this process already uses the GPU: too late to change it
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    return f"GPU, {tf.config.experimental.get_device_details(gpus[0]).get('device_name', gpus[0].name)}"


def make_deterministic(layers: Sequence[keras.Layer] = ()) -> None:
    """Make operations on a GPU deterministic, unless the training of `layers` would then fail."""
    # On a GPU, depthwise convolutions have no deterministic gradient (TensorFlow 2.21).
    depthwise = (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    if on_gpu() and not any(isinstance(layer, depthwise) for layer in layers):
        tf.config.experimental.enable_op_determinism()
