"""From pixels to feature vectors: images, backbones and stores. Labels, splits and runs are unknown here."""

import os

# Both are set before TensorFlow or Keras can be imported. Keras reads its backend only once. Without the log level,
# TensorFlow's start-up messages would bury the one line that a person needs.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
