"""TensorFlow and Keras. The import of this module starts both, which takes seconds; see `device.start_tensorflow`.

Other modules import TensorFlow and Keras only from here. If a module does so at its top level, its own import takes
seconds, too. A module that every command needs therefore imports slow modules only within functions. So a command that
computes nothing, or ends with an error, does not start TensorFlow and Keras.
"""

from headstart.features.device import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

__all__ = ["keras", "tf"]
