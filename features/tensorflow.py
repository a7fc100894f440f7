"""TensorFlow and Keras. The import of this module starts both, which takes seconds; see `device.start_tensorflow`.

A module that uses TensorFlow or Keras at its top level imports both from here. So the import of that module takes
seconds, too. Some modules are used by every command. Such a module imports slow modules only within functions. So a
command that computes nothing, or ends with an error, does not start TensorFlow and Keras.
"""

from headstart.features.device import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

__all__ = ["keras", "tf"]
