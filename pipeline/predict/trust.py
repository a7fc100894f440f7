"""Four ways to tell how far an answer can be trusted.

- Probabilities are calibrated.
- An answer with a low probability is marked `unsure`.
- An image that is far from the training images is marked `unlike`.
- Beside its label, an answer can have a set of labels. The user chooses the probability with which the set holds the
  true label.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from headstart.features.errors import OptionError
from headstart.features.terminal import console
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.runs import Run, read_calibration, read_reference
from headstart.pipeline.runs.choice import Choice
from headstart.pipeline.scoring.calibration import Calibration
from headstart.pipeline.scoring.metrics import probabilities
from headstart.pipeline.scoring.thresholds import moved
from headstart.pipeline.scoring.unlike import Reference


@dataclass(frozen=True)
class Trust:
    """The values that decide how far the answers of a model are trusted.

    `calibration` and `reference` belong to this model. The reference is a sample of the training images. `abstain` is
    the option `--abstain`. `set_threshold` is computed from the option `--conformal`.
    """

    calibration: Calibration | None = None  # None: probabilities are not calibrated
    reference: Reference | None = None  # None: it is unknown which images are unlike
    abstain: float = 0.0  # an answer with a lower probability is unsure; with 0, no answer is unsure
    set_threshold: float | None = None  # labels from this probability on are in the set; None: there are no sets

    @property
    def farthest(self) -> float | None:
        """Return the distance beyond which an image is unlike the training images, or None if no distance is known."""
        return self.calibration.distance if self.calibration and self.reference else None

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probabilities, float64 [N, C], of `logits`, float [N, 1] (two classes) or [N, C].

        The probabilities are calibrated if there is a calibration.
        """
        return self.calibration.probabilities(logits) if self.calibration else probabilities(logits)

    def labels(self, chances: np.ndarray) -> list[int]:
        """Return the likely labels of an image, the most probable label first.

        `chances`, float64 [C], has the probabilities of all labels. A label is likely if its probability is at least
        `set_threshold`. If `set_threshold` is None, all labels are returned.
        """
        order = np.argsort(-chances, kind="stable")
        return [label for label in order.tolist() if chances[label] >= (self.set_threshold or 0.0)]

    def decides(self) -> dict[str, Any]:
        """Return the values of this `Trust` that can change an answer, as a JSON object. Without any, return {}.

        The result becomes part of the hash in `Answers.name`.
        """
        calibration = {"temperature": self.calibration.temperature} if self.calibration else {}
        options = {"abstain": self.abstain, "set_threshold": self.set_threshold}
        found: dict[str, Any] = {**calibration, **{name: value for name, value in options.items() if value}}
        if self.reference and self.farthest is not None:
            found |= {"unlike": [self.farthest, hashlib.sha256(self.reference.features.tobytes()).hexdigest()]}
        return {"trust": found} if found else {}


def make_trust(run: Run, choice: Choice, config: PredictConfig) -> Trust:
    """Return the `Trust` of the model that `choice` names, with the options in `config`.

    Raises OptionError in three cases:

    - `config.abstain` or `config.conformal` is given, but the threshold of the model is not 0.5.
    - `config.conformal` is given, but the run has no calibration of the model.
    - `config.conformal` is given, but the run has too few val images for sets of labels.

    If the calibration is missing, but `config.conformal` is not given, a line is printed.
    """
    if moved(choice.threshold):
        require_likeliest(config)
    calibration, reference = read_calibration(run, choice.model), read_reference(run, choice.model)
    if calibration is None:
        again = "headstart head" if choice.model == "head" else "headstart finetune"
        what = f"{run.path}: holds no calibration of its {choice.model}; `{again}`, with --overwrite, makes one"
        if config.conformal:
            raise OptionError(f"--conformal {config.conformal}: {what}")
        console.print(f"{what}. Probabilities are as the model gives them, and no image is flagged as unlike")
        return Trust(abstain=config.abstain)
    threshold = calibration.threshold_of_sets(config.conformal) if config.conformal else None
    if config.conformal and threshold is None:
        count = len(calibration.true_probabilities)
        raise OptionError(
            f"--conformal {config.conformal}: needs more val images than the {count} of {run.path}; give at least "
            f"{math.ceil(1000 / (count + 1)) / 1000}"
        )
    return Trust(calibration, reference, config.abstain, threshold)


def require_likeliest(config: PredictConfig) -> None:
    """Raise an OptionError if `config` has `--abstain` or `--conformal`, which can't be used with a threshold.

    Both options need the most probable class as the answer. With a threshold, the answer may be another class.
    """
    why = {
        f"--abstain {config.abstain}": (config.abstain, "a label's probability does not say how sure it is"),
        f"--conformal {config.conformal}": (config.conformal, "a label may lie outside its own set of labels"),
    }
    for option, (value, reason) in why.items():
        if value:
            raise OptionError(
                f"{option}: with a threshold, {reason}; give --threshold 0.5, too, or leave {option.split()[0]} out"
            )
