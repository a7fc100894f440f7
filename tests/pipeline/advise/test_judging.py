"""Judging features: held-out accuracy, LogME, the choice among candidates, and the comparison with ImageNet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from headstart.features.backbones.shipped.reading import imagenet_top
from headstart.features.errors import DataError
from headstart.features.images.scan import ImageFile
from headstart.pipeline.advise.choice import choose
from headstart.pipeline.advise.probe import Judged, gain_of_doubling, judge, logme, make_folds
from headstart.pipeline.advise.similarity import Similarity, compare_with_imagenet
from headstart.pipeline.data.examples import Example
from headstart.pipeline.scoring.folds import Fold
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

DATA = Path("photos")


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
        found = judge(rows, labels, make_folds(examples(labels), DATA), 2)
        assert low <= found.probe.mean() <= high
        assert low - 0.2 <= found.knn.mean() <= high


def test_copies_share_their_fold() -> None:
    labels = np.repeat(np.arange(40) % 2, 2)
    for train, held in make_folds(examples(labels, copies=2), DATA):
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
    found = gain_of_doubling(rows, labels, make_folds(examples(labels), DATA), 2)
    assert found.value > 0.02
    assert found.low < found.value < found.high
    rows, labels = features(400, 3, 8.0)
    found = gain_of_doubling(rows, labels, make_folds(examples(labels), DATA), 2)
    assert abs(found.value) < 0.01


def test_the_gain_of_doubling_noise_is_not_sure() -> None:
    for seed in range(5):
        labels = np.random.default_rng(seed).permutation(np.arange(60) % 2)
        found = gain_of_doubling(features(60)[0], labels, make_folds(examples(labels), DATA, seed), 2)
        assert found.low <= 0 <= found.high


@pytest.mark.parametrize(("labels", "copies"), [([0, 1], 1), ([0, 1], 2), ([0, 0, 0, 1, 1, 1], 6)])
def test_too_few_different_images_are_refused_with_the_path(labels: list[int], copies: int) -> None:
    with pytest.raises(DataError, match=r"^photos: too few different images"):
        make_folds(examples(np.array(labels), copies), DATA)


def judged(wrong: Sequence[Sequence[int]], losses: Sequence[float], count: int = 200) -> list[Judged]:
    """Candidates that are wrong on the images `wrong`, with these losses."""
    found = []
    for rows, loss in zip(wrong, losses, strict=True):
        right = np.ones(count, bool)
        right[list(rows)] = False
        found.append(Judged(right, loss, right, 0.0))
    return found


def folds_of(count: int = 200, folds: int = 5) -> list[Fold]:
    """Folds of rows that follow one another."""
    rows = np.arange(count)
    return [(np.setdiff1d(rows, held), held) for held in np.array_split(rows, folds)]


def test_of_candidates_that_chance_may_rank_the_one_with_the_lower_loss_is_taken() -> None:
    given = judged([range(0, 800, 200), range(0, 1000, 200), range(0, 1000, 5)], [0.2, 0.1, 0.05], 1000)
    found = choose(given, folds_of(1000))
    assert (found.row, found.order, found.alike) == (1, [1, 0, 2], {0, 1})
    assert found.confidence > 0.9
    assert choose(given[2:], folds_of(1000)).confidence == 1.0


def test_a_difference_in_one_fold_only_is_not_sure() -> None:
    spread, one = (judged([wrong, []], [0.2, 0.3]) for wrong in (range(0, 200, 40), range(5)))
    assert choose(one, folds_of()).confidence < choose(spread, folds_of()).confidence


def test_the_images_that_train_the_probes_make_a_choice_less_sure() -> None:
    given = judged([range(0, 200, 7), range(3, 200, 6)], [0.2, 0.3])
    assert 0.7 < choose(given, folds_of()).confidence < 0.78  # 0.82 without them


def test_an_unsure_choice_takes_the_default_cut_if_it_may_be_as_good() -> None:
    draws = np.random.default_rng(0)
    given = judged([draws.permutation(200)[:60] for _ in range(6)], [0.6, 0.5, 0.55, 0.58, 0.59, 0.7])
    unsure = choose(given, folds_of())
    assert (unsure.row, unsure.by_default) == (1, False)
    assert unsure.confidence < 0.5
    usual = choose(given, folds_of(), [0])
    assert (usual.row, usual.by_default, usual.order[:2]) == (0, True, [0, 1])
    bad = [*given, *judged([range(150)], [0.1])]
    assert choose(bad, folds_of(), [6]).row == 1


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
