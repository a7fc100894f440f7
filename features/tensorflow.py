"""TensorFlow and Keras. Whoever imports this module starts them, which takes seconds: see `device.start_tensorflow`.

No other module imports them at its top. Modules that need them import them from here, and are imported late by modules
that a command needs in any case. So a command that computes nothing, or ends with an error, starts neither.
"""

from headstart.features.device import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

__all__ = ["keras", "tf"]
