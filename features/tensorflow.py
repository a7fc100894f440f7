"""TensorFlow and Keras. The import of this module starts both, which takes seconds; see `device.start_tensorflow`.

All modules that use TensorFlow or Keras import them from here. A module that every command needs does so only within
functions, so that a command that computes nothing does not start TensorFlow.
"""

from headstart.features.device import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

__all__ = ["keras", "tf"]
