"""Code that turns images into stored feature vectors. It does not use labels, splits or runs."""

import os

# Both variables are set before TensorFlow or Keras can be imported. Keras reads its backend only once. Without the log
# level, TensorFlow's start-up messages would bury the command's own messages.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
