import warnings

import numpy as np
import pytest
from headstart.features.errors import DataError
from headstart.pipeline.scoring.baselines import fitted_logistic
from headstart.pipeline.scoring.folds import are_trainable, draw_folds, rarest, require_trainable_folds
from headstart.pipeline.scoring.metrics import resampled_interval, wilson_interval
from headstart.pipeline.scoring.simple_models import Logistic, SimpleModels, rows_to_fit, score_simple_models


def blobs(count: int, classes: int, seed: int, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(9).normal(size=(classes, width))
    labels = np.arange(count) % classes
    noise = np.random.default_rng(seed).normal(size=(count, width))
    return (centres[labels] * 2 + noise).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 4])
def test_simple_models_are_scored_on_the_same_images(classes: int) -> None:
    (features, labels), (new, of_new) = blobs(80, classes, 0), blobs(40, classes, 1)
    names = [f"class {label}" for label in range(classes)]
    found = score_simple_models((labels, list(range(80))), lambda rows: features[rows], new, of_new, names)
    logistic = found.logistic_regression
    assert logistic is not None
    assert logistic["accuracy"] > 0.75 > found.largest_class_share == 1 / classes
    assert logistic["images"] == 80
    assert found.fields()["logistic_regression"]["accuracy_interval"][0] < logistic["accuracy"]
    assert f"always `class 0` {1 / classes:.4f}, logistic regression {logistic['accuracy']:.4f}" in str(found)


def test_an_accuracy_is_told_to_be_no_better_than_the_largest_class() -> None:
    found = SimpleModels.of(np.array([1, 1, 1, 0]), ["no", "yes"], None)
    assert (found.largest_class, found.largest_class_share) == ("yes", 0.75)
    assert found.verdict("head", [0.76, 0.9]) == []
    assert found.verdict("head", [0.7, 0.9]) == [
        "head: not better than always saying `yes`, for the interval of its accuracy holds 0.7500"
    ]
    assert "lies under 0.7500" in found.verdict("head", [0.1, 0.3])[0]
    assert found.is_beaten_by([0.76, 0.9])
    assert not found.is_beaten_by([0.75, 0.9])


def test_a_class_with_one_image_or_none_is_no_obstacle() -> None:
    features, labels = blobs(30, 2, 0)
    labels[0] = 2
    fitted = Logistic(features, labels, list(range(30)), classes=4)
    assert fitted.logits(features).shape == (30, 4)
    assert np.isfinite(fitted.logits(features)).all()


def test_large_data_are_fitted_in_part_or_not_at_all() -> None:
    assert len(rows_to_fit(1000, 2048, 2)) == 1000
    some = rows_to_fit(1_000_000, 2048, 2)
    assert len(some) == len(set(some.tolist())) == 5000
    assert (np.diff(some) > 0).all()
    assert len(rows_to_fit(1_000_000, 2048, 1000)) == 0
    labels = np.arange(2000) % 1000
    found = score_simple_models(
        (labels, list(range(2000))), lambda rows: np.zeros((len(rows), 2048)), np.zeros((5, 2048)), labels[:5],
        [f"{label}" for label in range(1000)],
    )  # fmt: skip
    assert found.logistic_regression is None
    assert "left out: 2000 images x 2048 features x 1000 classes" in found.note


def test_the_interval_of_cross_validation_is_corrected_and_has_a_width() -> None:
    of_folds = [0.7, 0.8, 0.9, 0.6, 0.8]
    low, high = resampled_interval(0.76, of_folds, 5, 100)
    half = 2.7764 * np.sqrt((1 / 5 + 1 / 4) * np.var(of_folds, ddof=1))
    for end in (low, high):  # as in Wilson's interval, the spread is that of the end, not that of 0.76
        assert abs(end - 0.76) == pytest.approx(half * np.sqrt(end * (1 - end) / (0.76 * 0.24)), abs=1e-4)
    assert resampled_interval(1.0, [1.0] * 5, 5, 20) == pytest.approx(wilson_interval(20, 20))


def test_groups_of_both_classes_may_leave_a_fold_with_one_class_to_train_on() -> None:
    labels, groups = np.array([0, 0] + [1] * 8), ["a", "b", "a", *"ccccccc"]
    folds = draw_folds(labels, groups, 2, 0)
    assert not are_trainable(folds, labels)
    with pytest.raises(DataError, match="--folds 2: a fold is empty, or leaves one class alone to train on"):
        require_trainable_folds(folds, labels, 2)
    assert np.isfinite(Logistic(blobs(10, 2, 0)[0], labels, groups, classes=2).logits(blobs(10, 2, 0)[0])).all()


def test_folds_keep_groups_together_and_have_each_class() -> None:
    labels = np.repeat([0, 1], 30)
    groups = [f"{number // 2}" for number in range(60)]
    for train, scored in draw_folds(labels, groups, 5, 0):
        assert not {groups[row] for row in train} & {groups[row] for row in scored}
        assert set(labels[scored]) == {0, 1}
    assert rarest(labels, ["a", "a", *groups[2:]]) == (0, 15)


def test_scikit_learn_does_not_warn_of_few_images_for_many_classes() -> None:
    labels = np.array([0, 0, 0, 1, 2, 3, 4, 5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The least populated class")
        fitted_logistic(np.eye(8, dtype=np.float32), labels, 0.1)
        draw_folds(labels, range(8), 2, seed=0)
