"""Classify images: `pip install ai-edge-litert pillow`, then `python example.py cat.jpg dog.jpg`."""

import json
import sys
from pathlib import Path

from ai_edge_litert.interpreter import Interpreter
from preprocess import images

here = Path(__file__).parent
labels = json.loads((here / "labels.json").read_text(encoding="utf-8"))
model = Interpreter(str(here / labels["model"])).get_signature_runner()
for path, pixels in images(sys.argv[1:], **labels["preprocessing"]):
    chances = model(pixels=pixels[None])["probabilities"][0]
    second_above = labels["second_above"]  # of two classes with a threshold
    best = int(chances.argmax()) if second_above is None else int(chances[1] > second_above)
    print(f"{path}: {labels['class_names'][best]} {chances[best]:.4f}")
