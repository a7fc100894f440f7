"""The figures by which epochs and trials are chosen, against scikit-learn's, and their order."""

import math

import numpy as np
import pytest
from headstart.pipeline.scoring.choosing import CHOICES, ChooseBy, ValFigures, rank, to_minimise, val_figures
from headstart.pipeline.scoring.metrics import probabilities
from sklearn import metrics as sklearn_metrics


def drawn(classes: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Logits and imbalanced labels; the last class is rare."""
    rng = np.random.default_rng(classes)
    shares = np.array([*[1.0] * (classes - 1), 0.1])
    labels = rng.choice(classes, count, p=shares / shares.sum())
    logits = rng.normal(size=(count, 1 if classes == 2 else classes)).astype(np.float32)
    return logits, labels


@pytest.mark.parametrize("classes", [2, 5])
def test_figures_are_those_of_scikit_learn(classes: int) -> None:
    logits, labels = drawn(classes)
    chances = probabilities(logits)
    predicted = chances.argmax(axis=1)
    expected = {
        "loss": sklearn_metrics.log_loss(labels, chances),
        "log_loss": sklearn_metrics.log_loss(labels, chances),
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, predicted),
        "f1": sklearn_metrics.f1_score(labels, predicted, average="macro"),
        "auc": sklearn_metrics.roc_auc_score(labels, chances[:, 1] if classes == 2 else chances, multi_class="ovr"),
    }
    assert list(expected) == list(CHOICES)
    for choose_by in CHOICES:
        found = val_figures(choose_by, logits, labels)
        name = "loss" if choose_by == "log_loss" else choose_by
        assert set(found) == {"loss", "accuracy", name}
        assert found[name] == pytest.approx(expected[choose_by])


@pytest.mark.parametrize("choose_by", CHOICES)
def test_batches_give_the_figures_of_the_whole(choose_by: ChooseBy) -> None:
    logits, labels = drawn(5)
    found = ValFigures(choose_by)
    for start in range(0, len(labels), 70):
        found.add(logits[start : start + 70], labels[start : start + 70])
    assert found.figures() == pytest.approx(val_figures(choose_by, logits, labels))


def test_macro_averages_are_over_the_classes_that_occur() -> None:
    labels = np.array([0, 0, 2, 2])
    logits = np.eye(4)[[0, 1, 2, 2]].astype(np.float32)  # classes 1 and 3 do not occur; 1 is predicted once
    f1 = val_figures("f1", logits, labels)["f1"]
    assert f1 == pytest.approx((2 / 3 + 1) / 2)
    predicted = logits.argmax(axis=1)
    assert f1 == pytest.approx(sklearn_metrics.f1_score(labels, predicted, labels=[0, 2], average="macro"))
    assert val_figures("balanced_accuracy", logits, labels)["balanced_accuracy"] == 0.75


def test_the_best_comes_first() -> None:
    def order(choose_by: ChooseBy, *rows: tuple[float, float]) -> list[int]:
        figures = [{"loss": loss, "accuracy": other, "auc": other} for loss, other in rows]
        return sorted(range(len(rows)), key=lambda row: rank(choose_by, figures[row]))

    assert order("loss", (0.3, 0.9), (0.2, 0.1)) == [1, 0]
    assert order("accuracy", (0.3, 0.8), (0.2, 0.7), (0.4, 0.9)) == [2, 0, 1]
    assert order("accuracy", (0.3, 0.8), (0.2, 0.8)) == [1, 0]
    assert order("auc", (0.1, math.nan), (0.5, 0.6)) == [1, 0]
    assert rank("auc", {"loss": 0.1, "auc": None}) == (math.inf, 0.1)
    assert rank("auc", {"loss": None, "auc": 0.6}) == (math.inf, math.inf)
    assert order("accuracy", (math.nan, 1.0), (0.5, 0.6)) == [1, 0]  # a diverged model is never the best
    assert to_minimise("log_loss", {"loss": 0.3}) == 0.3
    assert to_minimise("auc", {"loss": 0.3, "auc": 0.9}) == -0.9
    assert math.isnan(val_figures("auc", np.zeros((2, 1)), np.array([1, 1]))["auc"])
