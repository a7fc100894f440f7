"""The prediction of one image: as a line of text, as JSON, and as the row of a table."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from headstart.features.images.scan import Reject
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.trust import Trust
from headstart.pipeline.scoring.thresholds import Threshold, is_second

MOST_COLUMNS = 30  # classes whose probabilities get columns by default


@dataclass(frozen=True)
class Scored:
    """An image and the probabilities of the classes, float64 [C]."""

    path: str
    chances: np.ndarray
    distance: float | None = None  # from the training images; see `scoring.unlike`


Item = Scored | Reject


@dataclass(frozen=True)
class Layout:
    """The form in which predictions and rejects are shown or written."""

    class_names: Sequence[str]
    top: int  # number of likeliest classes to give
    every: bool  # whether to give the probabilities of all classes
    model: str  # the name of the model that answered; in a file, `Answers.name`
    trust: Trust = field(default_factory=Trust)
    threshold: Threshold | None = None  # of two classes

    @classmethod
    def of(
        cls,
        config: PredictConfig,
        class_names: Sequence[str],
        model: str,
        trust: Trust,
        threshold: Threshold | None = None,
    ) -> "Layout":
        """Return the layout of the file that `config` asks for."""
        few = len(class_names) <= MOST_COLUMNS
        every = config.probabilities == "all" or (config.probabilities == "auto" and few)
        return cls(class_names, config.top, every, model, trust, threshold)

    def likeliest(self, chances: np.ndarray) -> list[tuple[str, float]]:
        """Return the names and probabilities of `self.top` classes. The predicted class comes first.

        `chances`, [C], has the probabilities of all classes. Without a threshold, the most probable class comes first.
        Only a model of two classes can have a threshold. With a threshold, the predicted class may be the less probable
        class.
        """
        if self.threshold is None:
            least = np.partition(chances, -self.top)[-self.top]  # of 1,500 classes, few need an order
            candidates = np.flatnonzero(chances >= least)
            order = candidates[np.argsort(-chances[candidates], kind="stable")]
        else:
            order = np.array([1, 0] if is_second(chances, self.threshold.second_above(self.class_names)) else [0, 1])
        return [(self.class_names[label], float(chances[label])) for label in order[: self.top]]

    def line(self, item: Item) -> str:
        """Return a line of text about a prediction or a reject."""
        if isinstance(item, Reject):
            return f"{item.path}: {item.reason}, {item.detail}"
        judged = self.judged(item)
        unsure = judged.get("unsure", False)
        shape = "{} {:.4f}" if unsure else "{} ({:.4f})"
        text = ", ".join(shape.format(name, chance) for name, chance in self.likeliest(item.chances))
        text = f"unsure ({text})" if unsure else text
        if "labels" in judged:
            text += f"; set: {', '.join(judged['labels']) or 'none'}"
        return f"{item.path}: {text}{'; unlike the training images' if judged.get('unlike') else ''}"

    def judged(self, item: Scored) -> dict[str, Any]:
        """Return the fields that say how far the answer for an image can be trusted.

        - If `trust.abstain` is over 0, the result has the field `unsure`.
        - If `trust.set_threshold` is not None, the result has the field `labels`: the names of the classes in the set
          that `Trust.labels` returns.
        - If `trust.farthest` is not None, the result has the fields `unlike` and `distance`.
        """
        trust, found = self.trust, dict[str, Any]()
        if trust.abstain:
            ((_, probability), *_) = self.likeliest(item.chances)
            found["unsure"] = probability < trust.abstain
        if trust.set_threshold is not None:
            found["labels"] = [self.class_names[label] for label in trust.labels(item.chances)]
        if trust.farthest is not None:
            unlike = None if item.distance is None else item.distance > trust.farthest
            found |= {"unlike": unlike, "distance": item.distance}
        return found

    def columns(self) -> dict[str, type]:
        """Return the names and types of the columns that `row` fills."""
        more = range(2, self.top + 1)
        return {
            **{"path": str, "label": str, "probability": float},
            **{name: kind for n in more for name, kind in ((f"label_{n}", str), (f"probability_{n}", float))},
            **{f"p:{name}": float for name in (self.class_names if self.every else ())},
            **({"unsure": bool} if self.trust.abstain else {}),
            **({"labels": str} if self.trust.set_threshold is not None else {}),
            **({"unlike": bool, "distance": float} if self.trust.farthest is not None else {}),
            **{"model": str, "rejected": str, "detail": str},
        }

    def row(self, item: Item) -> list[Any]:
        """Return the values of the columns for one item.

        If the item is a reject, all columns but `path`, `model`, `rejected` (the reason) and `detail` are None. If the
        item is a prediction, `rejected` and `detail` are None.
        """
        if isinstance(item, Reject):
            count = len(self.columns()) - 4
            return [item.path, *[None] * count, self.model, item.reason, item.detail]
        likeliest = [value for pair in self.likeliest(item.chances) for value in pair]
        judged = self.judged(item)
        if "labels" in judged:
            judged["labels"] = json.dumps(judged["labels"], ensure_ascii=False)
        every = item.chances.tolist() if self.every else ()
        return [item.path, *likeliest, *every, *judged.values(), self.model, None, None]

    def prediction(self, item: Scored) -> dict[str, Any]:
        """Return the JSON object of a prediction. The object has the field `top` if `self.top` is over 1."""
        likeliest = self.likeliest(item.chances)
        label, probability = likeliest[0]
        top = {"top": [{"label": name, "probability": chance} for name, chance in likeliest]} if self.top > 1 else {}
        every = {"probabilities": dict(zip(self.class_names, item.chances.tolist(), strict=True))} if self.every else {}
        return {"path": item.path, "label": label, "probability": probability, **top, **every, **self.judged(item)}

    def json(self, item: Item) -> dict[str, Any]:
        """Return the JSON object of a prediction or a reject, for a line of a file. The object names the model."""
        if isinstance(item, Reject):
            return {"path": item.path, "rejected": item.reason, "detail": item.detail, "model": self.model}
        return {**self.prediction(item), "model": self.model}
