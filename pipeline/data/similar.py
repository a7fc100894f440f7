"""Find near-duplicates: pictures that were encoded, scaled or slightly cropped anew. See decision 16.

An image must be near another twice. By whitened features, its nearest neighbours become candidates. Then the pixels of
both thumbnails are compared, given the image's other neighbours: what all chest X-rays share makes no copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from headstart.features.images.likeness import SIDE, Pixels, correlation
from headstart.features.images.scan import ImageFile
from headstart.features.terminal import progress
from headstart.pipeline.data.config import SIMILARITY

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

CORRELATION = 0.92  # least correlation between their pixels, see `likeness.correlation`
SAMPLE = 10_000  # images that the whitening is fitted on
MOST_AXES, IMAGES_PER_AXIS = 256, 8
CANDIDATES = 8  # nearest neighbours whose pixels are compared
NEIGHBOURS = 32  # the candidates, and the next ones, whose mean is the background of an image
BLOCK = 4096  # images compared at a time
_CLIP = 3  # clip features at this many standard deviations, so that no feature outweighs all others
_SURE = 0.8  # a neighbour with at least this cosine may be a copy, and is no background
_HOPELESS = 0.6  # pixels with a lower plain correlation are not compared further
_TOGETHER = 64  # images whose thumbnails are made at a time


@dataclass(frozen=True)
class Neighbours:
    """The nearest others of n images, the nearest first."""

    numbers: np.ndarray  # int64 [n, NEIGHBOURS]: positions among the others
    cosines: np.ndarray  # float32 [n, NEIGHBOURS]: of whitened features; -inf where there are fewer others


@dataclass(frozen=True)
class Pair:
    """Positions of an image and of its near-duplicate, and how near these are."""

    image: int
    other: int
    cosine: float
    correlation: float


def near_duplicate_groups(images: Sequence[ImageFile], features: np.ndarray | None = None) -> list[list[int]]:
    """Group the images that show the same picture, encoded, scaled, slightly cropped or brightened anew.

    Returns groups of positions in `images`, each ascending. An image joins a group if it agrees with one of its
    members, by features and by pixels. Files with equal bytes as a member are in its group, too; equal files alone make
    no group. Images that can't be decoded, and images of one colour, are in no group.

    Args:
        images: may contain files with equal bytes.
        features: float [N, D], of any network. Without them, thumbnails of the images serve as features.
    """
    position_of = {image.digest: position for position, image in enumerate(images)}
    seen, pixels = [images[position] for position in position_of.values()], Pixels()
    if features is None:
        with progress("making thumbnails", len(seen)) as advance:
            for at in _blocks(len(seen), _TOGETHER):
                pixels.load(seen[at])
                advance(len(seen[at]))
        seen = [image for image in seen if image in pixels]
        rows = np.array([pixels[image].ravel() for image in seen])
    else:
        rows = features[list(position_of.values())]
    ends = [(pair.image, pair.other) for pair in _pairs_within(seen, rows, pixels)]
    groups = [{seen[number].digest for number in group} for group in _connected(ends, len(seen))]
    number_of = {digest: number for number, group in enumerate(groups) for digest in group}
    positions: list[list[int]] = [[] for _ in groups]
    for position, image in enumerate(images):
        if image.digest in number_of:
            positions[number_of[image.digest]].append(position)
    return positions


def _pairs_within(images: Sequence[ImageFile], features: np.ndarray, pixels: Pixels) -> list[Pair]:
    """Find the near-duplicates among `images`, whose features are [N, D]. Pairs come both ways round."""
    if len(images) < 2:
        return []
    whitening = fit_whitening(features[:: max(1, len(features) // SAMPLE)])
    numbers = np.arange(len(images))
    directions = np.concatenate([whitening.transform(features[at]) for at in _blocks(len(images))])
    found: list[Pair] = []
    with progress("comparing", len(images)) as advance:
        for at in _blocks(len(images)):
            others = ((numbers[to], directions[to]) for to in _blocks(len(images)))
            near = nearest(directions[at], others, own=numbers[at])
            pairs = agreeing(images[at], images, near, SIMILARITY, pixels, advance)
            found += [replace(pair, image=pair.image + at.start) for pair in pairs]
    return found


def _blocks(count: int, most: int = BLOCK) -> Iterator[slice]:
    return (slice(start, start + most) for start in range(0, count, most))


def _connected(pairs: Sequence[tuple[int, int]], count: int) -> list[list[int]]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.array(pairs, np.int64).reshape(-1, 2).T
    _, labels = connected_components(coo_array((np.ones(len(pairs)), ends), (count, count)), directed=False)
    groups: dict[int, list[int]] = {}
    for number in np.unique(ends).tolist():
        groups.setdefault(labels[number], []).append(number)
    return list(groups.values())


def fit_whitening(features: np.ndarray) -> Pipeline:
    """Fit the whitening: it maps features [N, D] to unit vectors [N, K] with uncorrelated components.

    K grows with N, but stays far below N. With as many components as images, every image would be unlike all others.
    """
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

    images, width = features.shape
    count = max(1, min(MOST_AXES, images // IMAGES_PER_AXIS, width))
    solver = "full" if 2 * images <= width else "covariance_eigh"  # by rows, or by the matrix of width x width
    whitening = make_pipeline(
        FunctionTransformer(np.asarray, kw_args={"dtype": np.float32}),
        StandardScaler(),
        FunctionTransformer(np.clip, kw_args={"a_min": -_CLIP, "a_max": _CLIP}),
        PCA(count, whiten=True, svd_solver=solver),
        Normalizer(),
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # equal features have no variance
        return whitening.fit(features)


def nearest(
    directions: np.ndarray, others: Iterable[tuple[np.ndarray, np.ndarray]], own: np.ndarray | None = None
) -> Neighbours:
    """Find the others with the highest cosines to each of n unit vectors `directions`, float32 [n, K].

    Args:
        others: blocks of (positions of the others, int64 [m]; their unit vectors, float32 [m, K]).
        own: int64 [n], the position of each image among the others, if it is one of them.
    """
    best = np.full((len(directions), NEIGHBOURS), -np.inf, np.float32)
    like = np.zeros((len(directions), NEIGHBOURS), np.int64)
    for positions, block in others:
        fresh = directions @ block.T
        if own is not None:
            fresh[own[:, np.newaxis] == positions] = -np.inf
        cosines = np.hstack([best, fresh])  # [n, NEIGHBOURS + m]
        numbers = np.hstack([like, np.broadcast_to(positions, fresh.shape)])
        highest = np.argpartition(-cosines, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
        best, like = np.take_along_axis(cosines, highest, axis=1), np.take_along_axis(numbers, highest, axis=1)
    order = np.argsort(-best, axis=1)
    return Neighbours(np.take_along_axis(like, order, axis=1), np.take_along_axis(best, order, axis=1))


def agreeing(
    images: Sequence[ImageFile],
    others: Sequence[ImageFile],
    near: Neighbours,
    similarity: float,
    pixels: Pixels,
    advance: Callable[[int], None],
) -> list[Pair]:
    """Find the pairs of one of `images` and one of its candidates among `others` whose pixels agree.

    Candidates are the first neighbours with a cosine of at least `similarity`, but for equal files. `advance` is told
    how many images are done.
    """
    found: list[Pair] = []
    for some in _blocks(len(images), _TOGETHER):
        rows = [row for row in range(len(images))[some] if near.cosines[row, 0] >= similarity]
        around = {row: [others[at] for at in near.numbers[row, near.cosines[row] > -np.inf]] for row in rows}
        pixels.load([images[row] for row in rows] + [other for row in rows for other in around[row]])
        for row in rows:
            if images[row] in pixels:
                found += _agreeing(images[row], around[row], near, row, similarity, pixels)
        advance(len(images[some]))
    return found


def _agreeing(
    image: ImageFile, around: Sequence[ImageFile], near: Neighbours, row: int, similarity: float, pixels: Pixels
) -> Iterator[Pair]:
    """Yield the pairs of `image`, whose neighbours are `around`, from the `row` of `near`."""
    mine, cosines = pixels[image], near.cosines[row].tolist()
    plain = [float((mine * pixels[other]).mean()) if other in pixels else -1.0 for other in around]
    background = _background(plain, cosines, around, pixels)
    for rank, other in enumerate(around[:CANDIDATES]):
        if cosines[rank] >= similarity and plain[rank] >= _HOPELESS and other.digest != image.digest:
            theirs = pixels[other]
            agreement = (correlation(mine, theirs, background) + correlation(theirs, mine, background)) / 2
            if agreement >= CORRELATION:
                yield Pair(row, int(near.numbers[row, rank]), min(1.0, cosines[rank]), agreement)


def _background(
    plain: Sequence[float], cosines: Sequence[float], around: Sequence[ImageFile], pixels: Pixels
) -> np.ndarray:
    """Average the neighbours that look most like an image, but for its candidates: zero if there are none.

    `plain` are the correlations of the neighbours' pixels with those of the image.
    """
    ranks = [at for at, other in enumerate(around) if at >= CANDIDATES and other in pixels and cosines[at] < _SURE]
    likest = sorted(ranks, key=lambda rank: -plain[rank])[:CANDIDATES]
    blank = [np.zeros((SIDE, SIDE), np.float32)]
    mean: np.ndarray = np.mean([pixels[around[rank]] for rank in likest] or blank, axis=0)
    return mean
