"""TensorFlow and Keras. The import of this module starts both, which takes seconds; see `device.start_tensorflow`.

Modules that use TensorFlow or Keras import both from here. Modules that every command uses import such slow modules
only within functions. So a command that computes nothing does not start TensorFlow.
"""

from headstart.features.device import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

__all__ = ["keras", "tf"]
