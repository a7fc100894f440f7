"""The probabilities and the labels that a model of a run gives, from its logits."""

import numpy as np
from headstart.pipeline.runs import Run, read_calibration
from headstart.pipeline.scoring.metrics import predicted_labels, probabilities
from headstart.pipeline.scoring.thresholds import Threshold, is_second


def calibrated(run: Run, model: str, logits: np.ndarray) -> np.ndarray:
    """Return probabilities, float64 [N, C], from the logits of `model`, float [N, 1 or C].

    They are calibrated if the run holds a calibration of the model.
    """
    calibration = read_calibration(run, model)
    return calibration.probabilities(logits) if calibration else probabilities(logits)


def predicted_by(run: Run, model: str, logits: np.ndarray, threshold: Threshold | None) -> np.ndarray:
    """Return the labels that `model` predicts, int64 [N], from its logits, float [N, 1 or C].

    Without a threshold, they are the likeliest classes.
    """
    if threshold is None:
        return predicted_labels(logits)
    return is_second(calibrated(run, model, logits), threshold.cut(run.class_names())).astype(np.int64)
