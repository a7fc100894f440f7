"""The prediction of one image: as a line of text, as JSON, and as the row of a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from headstart.features.images.scan import Reject
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.scoring.thresholds import Threshold, is_second

MOST_COLUMNS = 30  # classes whose probabilities get columns by default


@dataclass(frozen=True)
class Scored:
    """An image and the probabilities of the classes, float64 [C]."""

    path: str
    chances: np.ndarray


Item = Scored | Reject


@dataclass(frozen=True)
class Layout:
    """What is said of each image."""

    class_names: Sequence[str]
    top: int  # number of likeliest classes
    every: bool  # whether to give the probabilities of all classes
    model: str  # what identifies the model that answered: its name and a hash
    threshold: Threshold | None = None  # of two classes

    @classmethod
    def of(
        cls, config: PredictConfig, class_names: Sequence[str], model: str, threshold: Threshold | None = None
    ) -> "Layout":
        """Return the layout of the file that `config` asks for."""
        few = len(class_names) <= MOST_COLUMNS
        every = config.probabilities == "all" or (config.probabilities == "auto" and few)
        return cls(class_names, config.top, every, model, threshold)

    def likeliest(self, chances: np.ndarray) -> list[tuple[str, float]]:
        """Return the names and probabilities of the likeliest classes, the likeliest first.

        With a threshold, the class that it predicts is the first, however likely.
        """
        if self.threshold is None:
            order = np.argsort(-chances, kind="stable")
        else:
            order = np.array([1, 0] if is_second(chances, self.threshold.cut(self.class_names)) else [0, 1])
        return [(self.class_names[label], float(chances[label])) for label in order[: self.top]]

    def line(self, item: Item) -> str:
        """Return a line for a person."""
        if isinstance(item, Reject):
            return f"{item.path}: {item.reason}, {item.detail}"
        return f"{item.path}: " + ", ".join(f"{name} ({chance:.4f})" for name, chance in self.likeliest(item.chances))

    def columns(self) -> dict[str, type]:
        """Return the names and types of the columns of `row`."""
        more = range(2, self.top + 1)
        return {
            **{"path": str, "label": str, "probability": float},
            **{name: kind for n in more for name, kind in ((f"label_{n}", str), (f"probability_{n}", float))},
            **{f"p:{name}": float for name in (self.class_names if self.every else ())},
            **{"model": str, "rejected": str, "detail": str},
        }

    def row(self, item: Item) -> list[Any]:
        """Return the values of the columns. A reject has no labels and probabilities; other images have no reason."""
        if isinstance(item, Reject):
            count = len(self.columns()) - 4
            return [item.path, *[None] * count, self.model, item.reason, item.detail]
        likeliest = [value for pair in self.likeliest(item.chances) for value in pair]
        return [item.path, *likeliest, *(item.chances.tolist() if self.every else ()), self.model, None, None]

    def prediction(self, item: Scored) -> dict[str, Any]:
        """Return the JSON object of a prediction. It has `top` if several classes are shown."""
        likeliest = self.likeliest(item.chances)
        label, probability = likeliest[0]
        top = {"top": [{"label": name, "probability": chance} for name, chance in likeliest]} if self.top > 1 else {}
        every = {"probabilities": dict(zip(self.class_names, item.chances.tolist(), strict=True))} if self.every else {}
        return {"path": item.path, "label": label, "probability": probability, **top, **every}

    def json(self, item: Item) -> dict[str, Any]:
        """Return the JSON object of an item in a file: a prediction, or a reject with its reason, and `model`."""
        if isinstance(item, Reject):
            return {"path": item.path, "rejected": item.reason, "detail": item.detail, "model": self.model}
        return {**self.prediction(item), "model": self.model}
