"""Classify images: `pip install onnxruntime pillow`, then `python example.py cat.jpg dog.jpg`."""

import json
import sys
from pathlib import Path

import onnxruntime
from preprocess import images

here = Path(__file__).parent
labels = json.loads((here / "labels.json").read_text(encoding="utf-8"))
model = onnxruntime.InferenceSession(here / labels["model"], providers=["CPUExecutionProvider"])
for path, pixels in images(sys.argv[1:], **labels["preprocessing"]):
    chances = model.run(["probabilities"], {"pixels": pixels[None]})[0][0]
    second_above = labels["second_above"]  # of two classes with a threshold
    best = int(chances.argmax()) if second_above is None else int(chances[1] > second_above)
    print(f"{path}: {labels['class_names'][best]} {chances[best]:.4f}")
