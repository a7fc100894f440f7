"""Judging features: held-out accuracy, LogME, the choice among candidates, and the comparison with ImageNet."""

import numpy as np
import pytest
from headstart.features.backbones.shipped.reading import imagenet_top
from headstart.features.images.scan import ImageFile
from headstart.pipeline.advise.choice import choose
from headstart.pipeline.advise.probe import Judged, gain_of_doubling, judge, logme, make_folds
from headstart.pipeline.advise.similarity import Similarity, compare_with_imagenet
from headstart.pipeline.data.examples import Example
from scipy.optimize import minimize
from scipy.stats import multivariate_normal


def features(count: int = 120, width: int = 20, apart: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes whose means are `apart` in the first feature."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    rows = rng.standard_normal((count, width)).astype(np.float32)
    rows[:, 0] += apart * labels
    return rows, labels


def examples(labels: np.ndarray, copies: int = 1) -> list[Example]:
    images = [ImageFile(f"{row}.jpg", f"{row // copies:064x}", 1, 1, 1, 8, 8, "JPEG") for row in range(len(labels))]
    return [Example(image, int(label), "train") for image, label in zip(images, labels, strict=True)]


def test_held_out_images_are_judged_and_noise_is_not_learnt() -> None:
    for apart, low, high in ((4.0, 0.9, 1.0), (0.0, 0.3, 0.65)):
        rows, labels = features(apart=apart)
        found = judge(rows, labels, make_folds(examples(labels)), 2)
        assert low <= found.probe.mean() <= high
        assert low - 0.2 <= found.knn.mean() <= high


def test_copies_share_their_fold() -> None:
    labels = np.repeat(np.arange(40) % 2, 2)
    for train, held in make_folds(examples(labels, copies=2)):
        assert not {row // 2 for row in train.tolist()} & {row // 2 for row in held.tolist()}


def test_logme_is_the_maximal_evidence_of_a_linear_model() -> None:
    rows, labels = features(40, 6)

    def lacking(logs: np.ndarray, target: np.ndarray) -> float:
        alpha, beta = np.exp(logs)
        spread = rows.astype(float) @ rows.T.astype(float) / alpha + np.eye(len(rows)) / beta
        return -multivariate_normal(np.zeros(len(rows)), spread).logpdf(target) / len(rows)

    best = [-minimize(lacking, np.zeros(2), (labels == label).astype(float), "Nelder-Mead").fun for label in (0, 1)]
    assert logme(rows, labels, 2) == pytest.approx(np.mean(best), abs=1e-3)


def test_logme_ranks_features() -> None:
    found = [logme(*features(apart=apart), 2) for apart in (0.0, 1.0, 3.0)]
    assert found == sorted(found)


def test_more_images_help_where_the_probe_has_too_few() -> None:
    rows, labels = features(80, 100, 2.5)
    assert gain_of_doubling(rows, labels, make_folds(examples(labels)), 2) > 0.02
    rows, labels = features(400, 3, 8.0)
    assert abs(gain_of_doubling(rows, labels, make_folds(examples(labels)), 2)) < 0.01


def test_of_candidates_that_chance_may_rank_the_one_with_the_lower_loss_is_taken() -> None:
    right = np.ones(200, bool)
    wrong_on = [right.copy() for _ in range(3)]
    for one, count in zip(wrong_on, (4, 5, 40), strict=True):
        one[:count] = False
    judged = [Judged(one, loss, one, 0.0) for one, loss in zip(wrong_on, (0.2, 0.1, 0.05), strict=True)]
    found = choose(judged)
    assert found.row == 1
    assert found.confidence > 0.9
    assert choose(judged[2:]).confidence == 1.0


def test_the_classes_of_imagenet_that_images_look_like() -> None:
    top = imagenet_top()
    assert (top.kernel.shape, len(top.class_names)) == ((1280, 1000), 1000)
    found = compare_with_imagenet(np.stack([top.kernel[:, 281] * 10] * 2))
    assert (found.classes[0].index, found.classes[0].name, found.classes[0].share) == (281, "tabby", 1.0)
    blank = compare_with_imagenet(np.zeros((2, 1280), np.float32))
    assert found.entropy < blank.entropy < np.log(1000)


def test_an_image_is_near_by_its_statistics_and_by_its_classes() -> None:
    found = [
        Similarity(9, distance, likeness, 3.0, []).verdict
        for distance, likeness in ((0.7, 0.4), (0.7, 0.1), (2.0, 0.4))
    ]
    assert found == ["near", "between", "far"]


def test_the_names_are_in_the_order_of_the_top() -> None:
    names = imagenet_top().class_names
    assert [names[index] for index in (0, 151, 268, 281, 999)] == [
        "tench", "Chihuahua", "Mexican hairless", "tabby", "toilet tissue",
    ]  # fmt: skip
