import numpy as np
import pytest
from headstart.pipeline.evaluate.config import ThresholdConfig
from headstart.pipeline.scoring.thresholds import (
    Threshold,
    enough,
    for_cost,
    for_sensitivity,
    for_specificity,
    is_second,
)


def drawn(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the positive class that overlap, and which images are positive."""
    positive = rng.random(count) < 0.4
    logits = rng.normal(size=count) + positive
    return 1 / (1 + np.exp(-logits)), positive


def test_the_wanted_sensitivity_is_reached_on_average_on_new_images() -> None:
    rng = np.random.default_rng(0)
    found, rejected = [], []
    for _ in range(300):
        chances, positive = drawn(rng, 120)
        new, of_new = drawn(rng, 2000)
        found.append((new[of_new] > for_sensitivity(chances, positive, 0.9)).mean())
        rejected.append((new[~of_new] <= for_specificity(chances, positive, 0.9)).mean())
    assert 0.9 <= np.mean(found) < 0.925
    assert 0.9 <= np.mean(rejected) < 0.92


def test_the_highest_such_threshold_is_taken_and_with_few_images_all_are_found() -> None:
    chances = np.linspace(0.01, 0.99, 99)
    positive = np.ones(99, bool)
    assert (chances > for_sensitivity(chances, positive, 0.9)).sum() == 90  # 9 of 99 missed, so 0.9 of 100
    assert for_sensitivity(chances[:5], positive[:5], 0.9) < chances[0]
    assert (enough(0.9), enough(0.95), enough(0.5)) == (9, 19, 1)


@pytest.mark.parametrize(("miss", "alarm"), [(1, 1), (10, 1), (1, 7)])
def test_the_cost_is_the_least_there_is(miss: float, alarm: float) -> None:
    chances, positive = drawn(np.random.default_rng(1), 60)

    def cost(threshold: float) -> float:
        return miss * (positive & (chances <= threshold)).sum() + alarm * (~positive & (chances > threshold)).sum()

    assert cost(for_cost(chances, positive, miss, alarm)) == min(map(cost, np.linspace(0, 1, 5000)))


@pytest.mark.parametrize(("cost", "as_plain"), [("1e308:1e308", "1:1"), ("1e-300:1e-299", "1:10")])
def test_extreme_costs_are_their_ratio(cost: str, as_plain: str) -> None:
    chances, positive = drawn(np.random.default_rng(1), 60)
    found = for_cost(chances, positive, *ThresholdConfig(cost=cost).costs())
    assert found == pytest.approx(for_cost(chances, positive, *ThresholdConfig(cost=as_plain).costs()))


def test_a_tiny_cost_counts_where_nothing_else_does() -> None:
    chances, positive = np.array([0.2, 0.6, 0.7]), np.array([False, True, True])
    assert for_cost(chances, positive, 1e-12, 1) == pytest.approx(0.4)


def test_hardly_any_sensitivity_takes_the_highest_threshold() -> None:
    chances, positive = np.array([0.1, 0.6, 0.7]), np.array([False, True, True])
    assert for_sensitivity(chances, positive, 1e-320) == pytest.approx(0.65)
    assert for_specificity(chances, positive, 1e-320) == pytest.approx(0.35)


def test_equal_costs_take_the_threshold_that_true_probabilities_have() -> None:
    apart = np.array([0.001, 0.999])
    assert for_cost(apart, apart > 0.5, 3, 1) == 0.5  # the only gap
    same = np.array([0.2, 0.2])
    assert 0 < for_cost(same, np.array([True, False]), 1, 1) < 1


def test_a_threshold_is_of_either_class() -> None:
    chances = np.array([[0.75, 0.25], [0.65, 0.35]])
    assert is_second(chances, Threshold("b", 0.3, "").second_above(["a", "b"])).tolist() == [False, True]
    assert is_second(chances, Threshold("a", 0.7, "").second_above(["a", "b"])).tolist() == [False, True]
    with pytest.raises(ValueError, match="not between 0 and 1"):
        Threshold("a", 1.0, "")
