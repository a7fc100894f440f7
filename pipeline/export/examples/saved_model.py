"""Classify images: `pip install tensorflow pillow`, then `python example.py cat.jpg dog.jpg`."""

import json
import sys
from pathlib import Path

import tensorflow as tf
from preprocess import images

here = Path(__file__).parent
labels = json.loads((here / "labels.json").read_text(encoding="utf-8"))
model = tf.saved_model.load(str(here / labels["model"]))
for path, pixels in images(sys.argv[1:], **labels["preprocessing"]):
    batch = tf.constant(pixels[None])
    chances = model.signatures["serving_default"](pixels=batch)["probabilities"][0].numpy()
    second_above = labels["second_above"]  # of two classes with a threshold
    best = int(chances.argmax()) if second_above is None else int(chances[1] > second_above)
    print(f"{path}: {labels['class_names'][best]} {chances[best]:.4f}")
