"""Temperatures, sets of labels, and the distance of unlike images."""

import numpy as np
import pytest
from headstart.pipeline.evaluate.trust import accuracy_at_coverage, score_trust
from headstart.pipeline.neighbours import Neighbours
from headstart.pipeline.scoring import calibration
from headstart.pipeline.scoring.calibration import (
    Calibration,
    calibrate,
    calibration_error,
    chance_error,
    fit_temperature,
)
from headstart.pipeline.scoring.metrics import probabilities
from headstart.pipeline.scoring.unlike import Reference, reference_rows


def drawn(count: int, classes: int, factor: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits `factor` times as large as those from which the labels are drawn. Two classes have one logit."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 1 if classes == 2 else classes)) * 3
    labels = (probabilities(logits).cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)
    return logits * factor, labels


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_factor(classes: int, factor: float) -> None:
    logits, labels = drawn(4000, classes, factor)
    kept = calibrate(logits, labels)
    assert kept.temperature == pytest.approx(factor, rel=0.1)
    error = calibration_error(kept.probabilities(logits), labels)
    assert error < 0.02
    if factor != 1:
        assert error < calibration_error(probabilities(logits), labels) / 3
    np.testing.assert_array_equal(kept.probabilities(logits).argmax(axis=1), probabilities(logits).argmax(axis=1))


def test_a_model_without_mistakes_on_few_images_is_not_made_certain() -> None:
    labels = np.arange(10) % 2
    logits = np.where(labels, 2.0, -2.0)[:, np.newaxis]
    assert 0.3 < fit_temperature(logits, labels) < 1
    assert 1 < fit_temperature(-logits, labels) < 10


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_sets_hold_the_true_label_as_often_as_asked(classes: int, alpha: float) -> None:
    covered = []
    for seed in range(10):
        logits, labels = drawn(1000, classes, 2.0, seed)
        kept = calibrate(logits[:500], labels[:500])
        threshold = kept.threshold_of_sets(alpha)
        assert threshold is not None
        chances = kept.probabilities(logits[500:])
        covered.append((chances[np.arange(500), labels[500:]] >= threshold).mean())
    assert np.mean(covered) == pytest.approx(1 - alpha, abs=0.02)


def test_sets_need_enough_val_images() -> None:
    kept = Calibration(1.0, [0.1 * rank for rank in range(1, 10)])
    assert kept.threshold_of_sets(0.09) is None
    assert kept.threshold_of_sets(0.1) == 0.1
    assert kept.threshold_of_sets(0.35) == pytest.approx(0.3)


def test_of_many_val_images_only_some_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn(5000, 3)
    full = calibrate(logits, labels)
    monkeypatch.setattr(calibration, "MOST_KEPT", 200)
    few = calibrate(logits, labels)
    assert len(few.true_probabilities) == 200
    for alpha in (0.01, 0.05, 0.1, 0.5):
        threshold, exact = few.threshold_of_sets(alpha), full.threshold_of_sets(alpha)
        assert threshold is not None
        assert exact is not None
        assert exact - 0.02 < threshold <= exact


def test_accuracy_rises_as_unsure_answers_are_left_out() -> None:
    logits, labels = drawn(2000, 2)
    rows = accuracy_at_coverage(probabilities(logits), labels)
    assert [row["coverage"] for row in rows] == [1.0, 0.9, 0.8, 0.5]
    accuracies = [row["accuracy"] for row in rows]
    assert accuracies == sorted(accuracies)
    confidence = probabilities(logits).max(axis=1)
    assert [(confidence >= row["probability"]).mean() for row in rows] == pytest.approx([1, 0.9, 0.8, 0.5])
    assert score_trust(logits, labels, None)["calibration_error"]["after"] is None
    assert score_trust(logits, labels, Calibration(1.0, [0.5]))["conformal"][0]["coverage"] is None


def test_neighbours_are_those_of_scikit_learn() -> None:
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 8)).astype(np.float32)
    features[3] = 0
    queries = rng.normal(size=(7, 8)).astype(np.float32)
    model = NearestNeighbors(metric="cosine", algorithm="brute").fit(features)
    found, (distances, rows) = Neighbours(features).nearest(queries, 4), model.kneighbors(queries, 4)
    np.testing.assert_allclose(found.distances, distances, atol=1e-6)
    np.testing.assert_array_equal(found.rows, rows)
    assert Neighbours(features[:2]).nearest(queries, 4).rows.shape == (7, 2)


def test_images_of_another_kind_are_farther() -> None:
    rng = np.random.default_rng(0)
    centre = np.eye(16, dtype=np.float32)
    train, val, usual = (centre[0] + 0.1 * rng.normal(size=(300, 16)).astype(np.float32) for _ in range(3))
    other = centre[1] + 0.1 * rng.normal(size=(100, 16)).astype(np.float32)
    reference = Reference.of(train)
    farthest = reference.usual_distance(val)
    assert (reference.distances(usual) > farthest).mean() < 0.05
    assert (reference.distances(other) > farthest).all()


def test_a_reference_has_images_of_each_class_and_a_limit() -> None:
    labels = np.array([0] * 5000 + [1] * 30 + [2] * 600)
    rows = reference_rows(labels, 1280)
    assert len(rows) == len(set(rows.tolist())) == 1000
    assert np.bincount(labels[rows]).tolist() == [485, 30, 485]
    np.testing.assert_array_equal(rows, reference_rows(labels, 1280))
    assert len(reference_rows(labels, 100_000)) * 100_000 * 2 <= 8 << 20
    assert reference_rows(np.array([0, 1]), 10**9).tolist() in ([0], [1])


def test_the_error_of_perfect_probabilities_falls_with_the_number_of_images() -> None:
    rng = np.random.default_rng(0)
    found = {}
    for count in (60, 6000):
        sure = rng.uniform(0.5, 1, count)
        chances = np.stack([1 - sure, sure], axis=1)
        labels = [(rng.random(count) < sure).astype(int) for _ in range(50)]
        found[count] = chance_error(chances)
        assert found[count] == pytest.approx(np.mean([calibration_error(chances, one) for one in labels]), rel=0.1)
    assert found[60] > 0.08
    assert found[6000] < 0.02
