"""Find near-duplicates: images of one picture that was encoded again, scaled or slightly cropped.

The candidates for an image are its nearest neighbours by whitened features. The thumbnail of the image is compared with
the thumbnail of each candidate. The comparison leaves out everything that the image shares with farther neighbours.
Without this step, any two chest X-rays would be alike. ARCHITECTURE.md, decision 16, gives the measurements.
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
from headstart.pipeline.memory.on_disk import Features, taken

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

CORRELATION = 0.92  # least correlation between the thumbnails of near-duplicates, see `likeness.correlation`
SAMPLE = 10_000  # images that the whitening is fitted on, or up to twice as many
MOST_AXES, IMAGES_PER_AXIS = 256, 8  # limits on the number of components of the whitening
CANDIDATES = 8  # nearest neighbours whose pixels are compared
NEIGHBOURS = 32  # neighbours that are found: the candidates, and more for the background
BLOCK = 4096  # images compared at a time
_CLIP = 3  # clip features at this many standard deviations, so that no feature outweighs all others
_SURE = 0.8  # a neighbour with at least this cosine may be a copy, so it is not part of the background
_HOPELESS = 0.6  # pixels with a lower plain correlation are not compared further
_TOGETHER = 64  # images whose thumbnails are made at a time


@dataclass(frozen=True)
class Neighbours:
    """For each of n images, its nearest neighbours among some other images, the nearest first."""

    numbers: np.ndarray  # int64 [n, NEIGHBOURS]: positions among the other images
    cosines: np.ndarray  # float32 [n, NEIGHBOURS]: of whitened features; -inf if there are too few other images


@dataclass(frozen=True)
class Pair:
    """An image and its near-duplicate, with both measures of their likeness."""

    image: int  # position
    other: int  # position
    cosine: float  # of whitened features
    correlation: float  # of thumbnails


def near_duplicate_groups(images: Sequence[ImageFile], features: Features | None = None) -> list[list[int]]:
    """Group near-duplicates: images of one picture that was encoded again, scaled, slightly cropped or brightened.

    Returns a list for each group: the positions of its images in `images`, ascending. If A is a near-duplicate of B,
    and B of C, all three are in one group. Copies (images with equal bytes) are in the same group. A group of
    nothing but copies is left out. Images that can't be decoded, and images of one colour, are in no group.

    Args:
        images: may contain copies.
        features: float [N, D], a row for each image, from any network. If None, thumbnails serve as features.
    """
    position_of = {image.digest: position for position, image in enumerate(images)}
    seen, pixels = [images[position] for position in position_of.values()], Pixels()
    if features is None:
        with progress("making thumbnails", len(seen)) as advance:
            for at in _blocks(len(seen), _TOGETHER):
                pixels.load(seen[at])
                advance(len(seen[at]))
        seen = [image for image in seen if image in pixels]
        rows: Features = np.array([pixels[image].ravel() for image in seen])
    else:
        rows = taken(features, np.array(list(position_of.values())))
    ends = [(pair.image, pair.other) for pair in _pairs_within(seen, rows, pixels)]
    groups = [{seen[number].digest for number in group} for group in _connected(ends, len(seen))]
    number_of = {digest: number for number, group in enumerate(groups) for digest in group}
    positions: list[list[int]] = [[] for _ in groups]
    for position, image in enumerate(images):
        if image.digest in number_of:
            positions[number_of[image.digest]].append(position)
    return positions


def _pairs_within(images: Sequence[ImageFile], features: Features, pixels: Pixels) -> list[Pair]:
    """Return the pairs of near-duplicates among `images`. A pair can appear twice, once in each order.

    `features`, float [N, D], has a row for each image.
    """
    if len(images) < 2:
        return []
    whitening = fit_whitening(features[:: max(1, len(features) // SAMPLE)])
    numbers = np.arange(len(images))
    directions: Features = (
        np.concatenate([whitening.transform(features[at]) for at in _blocks(len(images))])
        if isinstance(features, np.ndarray)
        else features.mapped(whitening.transform)
    )
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
    """Fit a whitening: a map from features [N, D] to unit vectors, float32 [N, K], with uncorrelated components.

    K is at least 1, and at most the smallest of N / 8, D and 256. If K were near N, every image
    would be unlike all others.
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
    """For each of n unit vectors, find the 32 vectors in `others` with the highest cosines to this vector.

    Args:
        directions: the n unit vectors, float32 [n, K].
        others: the vectors to search, in blocks. A block is a pair: positions (int64 [m]) and vectors (float32 [m, K]).
        own: int64 [n], the position in `others` of each of the n vectors. A vector does not count as its own
            neighbour. If the n vectors are not in `others`, `own` is None.
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
    """Find the near-duplicates in `others` of each image in `images`. Return a `Pair` for each near-duplicate.

    `near` holds the neighbours of each image, as positions in `others`. A neighbour is a near-duplicate if it is one of
    the first eight, its cosine is at least `similarity`, and its pixels are similar. Copies with equal bytes are left
    out. `advance` is called with the number of images that were finished since the last call.
    """
    found: list[Pair] = []
    for some in _blocks(len(images), _TOGETHER):
        rows = [row for row in range(len(images))[some] if near.cosines[row, 0] >= similarity]
        around = {row: [others[at] for at in near.numbers[row, near.cosines[row] > -np.inf]] for row in rows}
        candidates = {row: around[row][: int((near.cosines[row, :CANDIDATES] >= similarity).sum())] for row in rows}
        pixels.load([images[row] for row in rows] + [other for row in rows for other in candidates[row]])
        alike = [row for row in rows if max(_plain(images[row], candidates[row], pixels)) >= _HOPELESS]
        pixels.load([other for row in alike for other in around[row]])  # few, because thumbnails take long to make
        for row in alike:
            found += _agreeing(images[row], around[row], near, row, similarity, pixels)
        advance(len(images[some]))
    return found


def _agreeing(
    image: ImageFile, around: Sequence[ImageFile], near: Neighbours, row: int, similarity: float, pixels: Pixels
) -> Iterator[Pair]:
    """Yield a pair for each near-duplicate of `image` among its nearest neighbours."""
    mine, cosines = pixels[image], near.cosines[row].tolist()
    plain = _plain(image, around, pixels)
    background = _background(plain, cosines, around, pixels)
    for rank, other in enumerate(around[:CANDIDATES]):
        if cosines[rank] >= similarity and plain[rank] >= _HOPELESS and other.digest != image.digest:
            theirs = pixels[other]
            agreement = (correlation(mine, theirs, background) + correlation(theirs, mine, background)) / 2
            if agreement >= CORRELATION:
                yield Pair(row, int(near.numbers[row, rank]), min(1.0, cosines[rank]), agreement)


def _plain(image: ImageFile, others: Sequence[ImageFile], pixels: Pixels) -> list[float]:
    """Return the correlations of the thumbnail of `image` with the thumbnails of `others`.

    If either of two thumbnails is missing, their correlation is -1.
    """
    return [
        float((pixels[image] * pixels[other]).mean()) if image in pixels and other in pixels else -1.0
        for other in others
    ]


def _background(
    plain: Sequence[float], cosines: Sequence[float], around: Sequence[ImageFile], pixels: Pixels
) -> np.ndarray:
    """Return the mean of the thumbnails that are most like the thumbnail of an image, float32 [SIDE, SIDE].

    The thumbnails are chosen from the image's neighbours that are neither candidates nor likely copies.
    """
    ranks = [at for at, other in enumerate(around) if at >= CANDIDATES and other in pixels and cosines[at] < _SURE]
    likest = sorted(ranks, key=lambda rank: -plain[rank])[:CANDIDATES]
    blank = [np.zeros((SIDE, SIDE), np.float32)]
    mean: np.ndarray = np.mean([pixels[around[rank]] for rank in likest] or blank, axis=0)
    return mean
