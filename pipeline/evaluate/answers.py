"""Turn the logits of a run's model into probabilities and predicted labels."""

import numpy as np
from headstart.pipeline.runs import Run, read_calibration
from headstart.pipeline.scoring.metrics import predicted_labels, probabilities
from headstart.pipeline.scoring.thresholds import Threshold, is_second


def calibrated(run: Run, model: str, logits: np.ndarray) -> np.ndarray:
    """Return probabilities, float64 [N, C]. `logits`, float [N, 1 or C], are the outputs of `model`.

    The probabilities are calibrated if the run holds a calibration of the model.
    """
    calibration = read_calibration(run, model)
    return calibration.probabilities(logits) if calibration else probabilities(logits)


def predicted_by(run: Run, model: str, logits: np.ndarray, threshold: Threshold | None) -> np.ndarray:
    """Return the labels that `model` predicts, int64 [N]. `logits`, float [N, 1 or C], are the outputs of `model`.

    If `threshold` is None, the most probable class is predicted. A threshold is for two classes. It is compared with
    calibrated probabilities.
    """
    if threshold is None:
        return predicted_labels(logits)
    return is_second(calibrated(run, model, logits), threshold.second_above(run.class_names())).astype(np.int64)
