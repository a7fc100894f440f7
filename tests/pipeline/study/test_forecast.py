"""The parts of a study: subsets, contributions of images, laws, forecasts, and gains of classes."""

from collections.abc import Callable

import numpy as np
import pytest
from headstart.pipeline.scoring.choosing import val_figures
from headstart.pipeline.study.classes import class_gains
from headstart.pipeline.study.contributions import contributions
from headstart.pipeline.study.curve import Curve
from headstart.pipeline.study.forecast import Forecast
from headstart.pipeline.study.laws import LAWS, held_out_errors
from headstart.pipeline.study.subsets import nested_order, study_sizes

SIZES = np.array([30, 42, 58, 81, 114, 158, 221, 308, 430, 600])


def accuracy(images: np.ndarray) -> np.ndarray:
    return 0.95 - 0.8 * np.asarray(images, float) ** -0.5


def drawn_curve(seed: int, val: int = 1000, law: Callable[[np.ndarray], np.ndarray] = accuracy) -> Curve:
    """A curve that follows `law`. Images that are hard for one head are mostly hard for the others."""
    draw = np.random.default_rng(seed)
    hard = np.clip(draw.random(val) + draw.normal(0, 0.01, (len(SIZES), 5, val)), 0, 1)
    right = hard < law(SIZES)[:, None, None]
    right[-1] = right[-1, 0]
    return Curve("accuracy", SIZES, right.astype(np.float32), right, np.arange(val) % 2)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1", "auc", "loss"])
@pytest.mark.parametrize("classes", [2, 4])
def test_contributions_follow_the_figure(metric, classes: int) -> None:
    draw = np.random.default_rng(0)
    labels = draw.choice(classes, 600, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    logits = draw.normal(size=(600, classes)).round(1) + np.eye(classes)[labels]
    parts = contributions(metric, logits, labels)
    assert parts.mean() == pytest.approx(val_figures(metric, logits, labels)[metric])
    samples = [draw.integers(0, 600, 600) for _ in range(50)]
    true = np.array([val_figures(metric, logits[rows], labels[rows])[metric] for rows in samples])
    linear = np.array([parts[rows].mean() for rows in samples])
    assert np.corrcoef(true, linear)[0, 1] > 0.98
    assert linear.std() == pytest.approx(true.std(), rel=0.1)


def test_subsets_are_nested_and_keep_proportions_and_units() -> None:
    labels = np.repeat([0, 1, 2], [300, 100, 4])
    units = [row // 2 for row in range(404)]  # pairs
    order, ends = nested_order(labels, units, (0, 0))
    assert sorted(order.tolist()) == list(range(404))
    assert ends.tolist() == list(range(2, 405, 2))
    for end in ends:
        inside = set(order[:end].tolist())
        assert all((row ^ 1) in inside for row in inside)
    assert set(labels[order[: ends[2]]]) == {0, 1, 2}
    half = np.bincount(labels[order[:202]])
    assert np.abs(half - [150, 50, 2]).max() <= 4
    assert not np.array_equal(order, nested_order(labels, units, (0, 1))[0])
    assert np.array_equal(order, nested_order(labels, units, (0, 0))[0])


def test_sizes_are_log_spaced_up_to_all_images() -> None:
    sizes = study_sizes(1600, 2, 10)
    assert (len(sizes), sizes[0], sizes[-1]) == (10, 80, 1600)
    ratios = np.divide(sizes[1:], sizes[:-1])
    assert ratios.max() < 1.02 * ratios.min()
    assert study_sizes(16, 2, 10)[0] == 4
    assert study_sizes(5000, 1000, 10)[0] == 1000
    assert study_sizes(50, 50, 10) == [50]


def test_laws_are_recovered_from_exact_curves() -> None:
    images = SIZES.astype(float)
    log_linear, power = LAWS
    falling = (0.4 - 0.05 * np.log(images))[np.newaxis]
    assert log_linear.fit(images, falling)[0] == pytest.approx([0.4, 0.05])
    assert log_linear.images(np.array([[0.4, 0.05]]), 0.05)[0] == pytest.approx(np.exp(7))
    levelling = (1 - accuracy(images))[np.newaxis]
    c, a, b = power.fit(images, levelling)[0]
    assert (c, a, b) == pytest.approx((0.05, 0.8, 0.5), rel=0.1)
    assert power.images(np.array([[0.05, 0.8, 0.5]]), 0.07)[0] == pytest.approx(1600)
    assert power.images(np.array([[0.05, 0.8, 0.5]]), 0.05)[0] == np.inf
    assert held_out_errors(images, falling, 3)[:, 0].argmin() == 0
    assert held_out_errors(images, levelling, 3)[:, 0].argmin() == 1


def test_a_curve_never_falls_with_more_images() -> None:
    images, rising = SIZES.astype(float), (0.1 + 0.01 * np.log(SIZES))[np.newaxis]
    for law in LAWS:
        first, last = law.errors(law.fit(images, rising), np.array([30.0, 3000.0]))[0]
        assert last == pytest.approx(first)
        assert law.images(law.fit(images, rising), 0.01)[0] == np.inf


def test_forecasts_hold_a_known_law() -> None:
    held = gains = reached = 0
    for seed in range(10):
        forecast = Forecast(drawn_curve(seed), seed)
        (far,) = forecast.at([2400])
        held += far.low <= accuracy(np.array(2400)) <= far.high
        gain = forecast.gain(1800, 600)
        gains += gain.low <= accuracy(np.array(2400)) - accuracy(np.array(600)) <= gain.high
        needed = forecast.needed(0.93)  # 1,600 images
        assert needed.low
        reached += needed.low <= 1600 <= (needed.high or np.inf)
        assert far.high - far.low < 0.08
    assert min(held, gains, reached) >= 8, (held, gains, reached)


def test_a_figure_over_the_asymptote_is_not_in_sight() -> None:
    needed = Forecast(drawn_curve(0, val=5000)).needed(0.97)
    assert needed.images is needed.high is None


def test_a_figure_over_a_hundred_times_the_images_away_is_not_in_sight() -> None:
    curve = drawn_curve(0, val=5000, law=lambda images: 0.5 + 0.03 * np.log(images))
    assert Forecast(curve).needed(0.75).images == pytest.approx(np.exp(0.25 / 0.03), rel=0.3)
    needed = Forecast(curve).needed(0.95)  # three million images
    assert needed.images is needed.low is needed.high is None


def test_the_class_that_gains_is_found() -> None:
    curve = drawn_curve(0)
    right = curve.right.copy()
    right[:, :, curve.labels == 1] = right[-1][:, curve.labels == 1]  # no gain
    first, second = class_gains(Curve("accuracy", SIZES, curve.parts, right, curve.labels), curve.labels, ["a", "b"])
    assert (first.name, second.name, first.images) == ("a", "b", 500)
    assert first.low < accuracy(np.array(1200)) - accuracy(np.array(600)) < first.high
    assert second.gain == second.low == second.high == 0
