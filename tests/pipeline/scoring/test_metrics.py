import numpy as np
import pytest
from headstart.pipeline.scoring.metrics import (
    confusions,
    probabilities,
    resampled_interval,
    roc_auc,
    score,
    wilson_interval,
)
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_are_those_of_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 300)
    logits = rng.normal(size=(300, 1 if classes == 2 else classes)).astype(np.float32) * 3
    names = [f"c{label}" for label in range(classes)]
    found = score(logits, labels, names)
    chances = probabilities(logits)
    predicted = chances.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    assert found["loss"] == pytest.approx(sklearn_metrics.log_loss(labels, chances))
    assert found["confusion"] == sklearn_metrics.confusion_matrix(labels, predicted).tolist()
    expected = sklearn_metrics.roc_auc_score(labels, chances[:, 1] if classes == 2 else chances, multi_class="ovr")
    assert found["auc"] == pytest.approx(expected)
    assert found["balanced_accuracy"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(labels, predicted, average="macro"))
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(labels, predicted)
    for label, name in enumerate(names):
        expected = {"precision": precision[label], "recall": recall[label], "f1": f1[label], "support": support[label]}
        one = found["per_class"][name]
        assert one.pop("recall_interval") == list(
            wilson_interval(round(recall[label] * support[label]), support[label])
        )
        assert one == pytest.approx(expected)


def test_the_first_five_count_with_more_than_ten_classes() -> None:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 12, 200), rng.normal(size=(200, 12))
    found = score(logits, labels, [f"{label}" for label in range(12)])["top5"]
    assert found == pytest.approx(sklearn_metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(12)))
    assert score(logits[:, :10], labels % 10, [f"{label}" for label in range(10)])["top5"] is None


def test_confusions_are_the_pairs_that_occur() -> None:
    labels, predicted = np.array([2, 0, 2, 2]), np.array([1, 0, 1, 2])
    assert confusions(predicted, labels) == [(0, 0, 1), (2, 1, 2), (2, 2, 1)]
    assert score(np.eye(101)[:3], np.arange(3), [f"{label}" for label in range(101)])["confusion"] is None


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_auc_is_the_chance_that_a_positive_scores_higher(pairs: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    differences = scores[positive][:, None] - scores[~positive][None, :]
    expected = float(((differences > 0) + 0.5 * (differences == 0)).mean()) if differences.size else None
    assert roc_auc(scores, positive) == (expected if expected is None else pytest.approx(expected))


def test_extreme_logits_are_finite() -> None:
    found = score(np.array([[1e4], [-1e4]]), np.array([0, 0]), ["a", "b"])
    assert found["loss"] == pytest.approx(5e3)
    assert np.isfinite(probabilities(np.array([[1e4, -1e4, 0]]))).all()


def test_wilson_interval() -> None:
    assert wilson_interval(90, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert wilson_interval(0, 10)[0] == 0
    assert wilson_interval(10, 10)[1] == 1


def test_a_class_without_examples_has_no_figures() -> None:
    found = score(np.array([[2.0], [-1.0]]), np.array([1, 1]), ["a", "b"])
    assert found["auc"] is None
    assert found["per_class"]["a"] == {
        "precision": 0.0, "recall": None, "recall_interval": None, "f1": 0.0, "support": 0,
    }  # fmt: skip


def test_a_resampled_interval_stays_within_0_and_1_and_holds_wilsons() -> None:
    accuracies = [0.7, 1.0, 1.0, 1.0, 0.9, 1.0, 1.0, 0.8, 1.0, 1.0]
    low, high = resampled_interval(float(np.mean(accuracies)), accuracies, 10, 50)
    narrow, wide = wilson_interval(47, 50)
    assert low < narrow < wide < high < 1
    assert resampled_interval(0.94, [0.94] * 10, 10, 50) == pytest.approx((narrow, wide))
    assert resampled_interval(1.0, [1.0] * 10, 10, 50) == pytest.approx(wilson_interval(50, 50))
