"""Classify images: `pip install openvino pillow`, then `python example.py cat.jpg dog.jpg`."""

import json
import sys
from pathlib import Path

import openvino
from preprocess import images

here = Path(__file__).parent
labels = json.loads((here / "labels.json").read_text(encoding="utf-8"))
float32 = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors would compute in bfloat16
model = openvino.Core().compile_model(here / labels["model"], "CPU", float32)
for path, pixels in images(sys.argv[1:], **labels["preprocessing"]):
    chances = model(pixels[None])["probabilities"][0]
    second_above = labels["second_above"]  # of two classes with a threshold
    best = int(chances.argmax()) if second_above is None else int(chances[1] > second_above)
    print(f"{path}: {labels['class_names'][best]} {chances[best]:.4f}")
