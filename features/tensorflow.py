"""TensorFlow and Keras. The import of this module starts both, which takes seconds; see `device.start_tensorflow`.

Modules that use TensorFlow or Keras at their top level import both from here. So the import of these modules takes
seconds, too. Modules that every command needs import them only within functions. So a command that computes nothing,
or ends with an error, does not start TensorFlow and Keras.
"""

from headstart.features.device import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

__all__ = ["keras", "tf"]
