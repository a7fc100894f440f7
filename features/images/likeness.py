"""The similarity of two images by the pixels of their thumbnails.

A caller can give a background: a thumbnail, such as the mean of related images. The part of an image that the
background explains does not count.
"""

from collections.abc import Iterable

import numpy as np
from headstart.features.images.scan import ImageFile
from headstart.features.images.thumbnails import thumbnails

SIDE = 32  # side of the thumbnails in pixels
_FLAT = 1e-3  # a thumbnail with a lower standard deviation counts as one colour


class Pixels:
    """A mapping from images to their thumbnails: brightness with mean 0 and variance 1, float32 [32, 32].

    `load` makes each thumbnail once. An image is missing from the mapping if it was not loaded, if it can't be decoded,
    or if it has only one colour. The lookup of a missing image raises a KeyError.
    """

    def __init__(self) -> None:
        self._known: dict[str, np.ndarray | None] = {}

    def load(self, images: Iterable[ImageFile]) -> None:
        """Make the thumbnails of those `images` that have none yet."""
        new = list({image.digest: image for image in images if image.digest not in self._known}.values())
        for image, small in zip(new, thumbnails(new, "F", SIDE), strict=True):
            values = np.zeros(1) if small is None else np.asarray(small, np.float32)
            spread = values.std()
            self._known[image.digest] = (values - values.mean()) / spread if spread > _FLAT else None

    def __contains__(self, image: ImageFile) -> bool:
        return self._known.get(image.digest) is not None

    def __getitem__(self, image: ImageFile) -> np.ndarray:
        known = self._known[image.digest]
        if known is None:
            raise KeyError(image.path)
        return known


def correlation(image: np.ndarray, other: np.ndarray, background: np.ndarray) -> float:
    """Return how well `other` explains `image`, from 0 (not at all) to 1 (completely).

    All three arguments are thumbnails, float [32, 32]. The result is the multiple partial correlation: the part of
    `image` that `background` explains is not counted. If `background` is zeros, all of `image` counts. Small shifts and
    scalings of `other` are allowed, so that an image also correlates with its crop.
    """
    given, both = _warps(background), np.concatenate([_warps(background), _warps(other)])
    left, unexplained = _residual(image.ravel(), given), _residual(image.ravel(), both)
    return float(np.sqrt(max(0.0, 1 - unexplained / max(left, 1e-9))))


def _warps(pixels: np.ndarray) -> np.ndarray:
    """Return a thumbnail, its derivatives by shifts and scalings, and an image of ones, float64 [6, P]."""
    places = np.linspace(-1, 1, SIDE, dtype=np.float32)
    down, right = np.gradient(pixels)
    changes = [down, down * places[:, np.newaxis], right, right * places]
    return np.stack([pixels, *changes, np.ones_like(pixels)], dtype=np.float64).reshape(6, -1)


def _residual(values: np.ndarray, by: np.ndarray) -> float:
    """Fit `values` [P] by least squares. Return the sum of the squared residuals.

    The fit is a linear combination of the rows of the array `by` [R, P].
    """
    products = by @ by.T  # only R x R, so the fit is fast; singular if the background is zero
    fit, *_ = np.linalg.lstsq(products, by @ values, rcond=None)
    return float(((values - fit @ by) ** 2).sum())
