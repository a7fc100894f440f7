"""Pixels to feature vectors: images, backbones, digests and shards; nothing of labels, splits or runs."""

import os

# Set before TensorFlow or Keras can be imported: Keras reads its backend once, and TensorFlow's C++ start-up chatter
# would bury the one line a person needs.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
