"""TensorFlow and Keras. The import of this module starts both, which takes seconds; see `device.start_tensorflow`.

A module that uses TensorFlow or Keras at its top level imports them from here, so its own import takes seconds, too.
Modules that every command needs import such a module only within functions. So a command that computes nothing, or ends
with an error, does not start TensorFlow and Keras.
"""

from headstart.features.device import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

__all__ = ["keras", "tf"]
