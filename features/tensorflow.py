"""TensorFlow and Keras. The import of this module starts both, which takes seconds; see `device.start_tensorflow`.

Except for the module `device`, all modules that use TensorFlow or Keras import them from here. A module that every
command needs has these imports only within functions. So a command that computes nothing does not start TensorFlow.
"""

from headstart.features.device import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

__all__ = ["keras", "tf"]
