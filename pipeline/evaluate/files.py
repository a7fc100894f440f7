"""Write the predictions and confusions of `evaluate` into a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from headstart.pipeline.data.examples import Example
from headstart.pipeline.evaluate.config import Sort
from headstart.pipeline.runs import write_csv
from headstart.pipeline.scoring.metrics import confusions


@dataclass(frozen=True)
class ModelAnswers:
    """The predicted labels and the probabilities of one model, for N examples."""

    model: str  # head or finetuned
    predicted: np.ndarray  # labels, int64 [N]
    chances: np.ndarray  # probabilities, float64 [N, C]


def write_predictions(
    file: Path,
    examples: Sequence[Example],
    class_names: Sequence[str],
    logits: Mapping[str, np.ndarray],
    answers: ModelAnswers,
    sort: Sort,
) -> None:
    """Write a CSV file with one row per example: path, digest, label, the answer of one model, logits of all models.

    Args:
        answers: the predicted labels and probabilities of one model for `examples`, in the same order.
        logits: the logits of each model, [N, 1 or classes].
        sort: `data` keeps the order of `examples`. `mistakes` puts wrong predictions first, by falling probability, and
            right predictions after them, by rising probability.
    """
    units = class_names[1:] if len(class_names) == 2 else class_names
    order = np.arange(len(examples))
    predicted = answers.predicted
    chances = answers.chances[order, predicted]
    if sort == "mistakes":
        right = predicted == [example.label for example in examples]
        order = np.lexsort((np.where(right, chances, -chances), right))
    side_by_side = np.concatenate(list(logits.values()), axis=1)
    header = ["path", "digest", "label", "model", "predicted", "probability"]
    write_csv(
        file,
        [*header, *(f"{model}:{name}" for model in logits for name in units)],
        (
            [
                *(examples[row].image.path, examples[row].image.digest, class_names[examples[row].label]),
                *(answers.model, class_names[predicted[row]], float(chances[row])),
                *map(float, side_by_side[row]),
            ]
            for row in order.tolist()
        ),
    )


def write_confusions(
    file: Path, labels: np.ndarray, class_names: Sequence[str], predicted: Mapping[str, np.ndarray]
) -> None:
    """Write a CSV file that counts the images for each combination of model, true label and predicted label.

    A combination without images has no row. `labels` holds the true labels, int [N]. `predicted` holds an array for
    each model: the predicted labels, int [N].
    """
    write_csv(
        file,
        ["model", "true", "predicted", "count"],
        (
            [model, class_names[true], class_names[other], count]
            for model, found in predicted.items()
            for true, other, count in confusions(found, labels)
        ),
    )
