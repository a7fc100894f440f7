"""How alike two pictures are, by the pixels of their thumbnails. What other pictures share, too, does not count."""

from collections.abc import Iterable

import numpy as np
from headstart.features.images.scan import ImageFile
from headstart.features.images.thumbnails import thumbnails

SIDE = 32  # of the thumbnails in pixels
_FLAT = 1e-3  # thumbnails of one colour have a lower deviation


class Pixels:
    """The thumbnails of images, each made once: brightness with mean 0 and variance 1, float32 [32, 32].

    An image that can't be decoded, or is of one colour, is not in it.
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
    """Return the multiple partial correlation of the thumbnails `image` and `other`, given `background`: 0 to 1.

    The first-order changes of a picture under shifts and scalings count as the picture, so that a crop agrees.
    """
    given, both = _warps(background), np.concatenate([_warps(background), _warps(other)])
    left, unexplained = _residual(image.ravel(), given), _residual(image.ravel(), both)
    return float(np.sqrt(max(0.0, 1 - unexplained / max(left, 1e-9))))


def _warps(pixels: np.ndarray) -> np.ndarray:
    """Return a picture, and its changes when it is shifted or scaled a little along each axis, and a constant."""
    places = np.linspace(-1, 1, SIDE, dtype=np.float32)
    down, right = np.gradient(pixels)
    changes = [down, down * places[:, np.newaxis], right, right * places]
    return np.stack([pixels, *changes, np.ones_like(pixels)], dtype=np.float64).reshape(6, -1)


def _residual(values: np.ndarray, by: np.ndarray) -> float:
    """Return the sum of squares that the least-squares fit of `values` [P] by the rows of `by` [R, P] leaves."""
    products = by @ by.T  # R x R, so that the fit takes no time; it is singular if there is no background
    fit, *_ = np.linalg.lstsq(products, by @ values, rcond=None)
    return float(((values - fit @ by) ** 2).sum())
