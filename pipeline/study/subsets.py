"""Nested subsets of the training images. In every subset, each class keeps its share of the images."""

from collections.abc import Hashable, Sequence

import numpy as np

_SPAN = 20  # ratio of the largest size to the smallest, if there are enough images
_SMALLEST = 10


def study_sizes(units: int, classes: int, count: int) -> list[int]:
    """Return the sizes of the subsets, in units. A unit is a set of images that stay together; see `nested_order`.

    There are up to `count` different sizes, rising, and evenly spaced on a log scale. The first size is `classes` or
    more, and the last size is `units`, the number of all units.
    """
    first = max(classes, units // _SPAN, min(_SMALLEST, units // 4))
    return sorted({round(size) for size in np.geomspace(first, units, count)}) if first < units else [units]


def nested_order(labels: np.ndarray, units: Sequence[Hashable], seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw a random order of all rows, from which nested subsets are cut.

    Rows with equal entries in `units`, such as the copies of an image, are one unit. The rows of a unit follow one
    another in the order. The class of a unit is the class of its first row.

    The subset of size k is the first k units of the order, so it contains all smaller subsets. The order starts with
    one unit of each class. The units of each class are spread evenly over the order.

    Args:
        labels: int [N].
        units: one entry for each row.
        seed: decides the order.

    Returns:
        The row indices in the drawn order, int64 [N].
        The number of rows in the first 1, 2, ... U units, int64 [U].
    """
    draw = np.random.default_rng(seed)
    members: dict[Hashable, list[int]] = {}
    for row, unit in enumerate(units):
        members.setdefault(unit, []).append(row)
    together = list(members.values())
    of_unit = labels[[rows[0] for rows in together]]
    places = np.empty(len(together))
    for label in np.unique(of_unit):
        mine = draw.permutation(np.flatnonzero(of_unit == label))
        places[mine] = (np.arange(len(mine)) + draw.random()) / len(mine)
        places[mine[0]] -= 1
    ordered = [together[unit] for unit in np.argsort(places)]
    return np.concatenate(ordered).astype(np.int64), np.cumsum([len(rows) for rows in ordered])
