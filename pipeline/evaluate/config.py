"""The settings of `evaluate` and `predict`."""

from dataclasses import dataclass
from typing import Literal

from headstart.features.errors import require_options
from headstart.features.options import option

AskedSplit = Literal["auto", "train", "val", "test", "all"]
Sort = Literal["data", "mistakes"]


@dataclass(frozen=True)
class PredictConfig:
    """Which images are classified, and how many may be left out."""

    max_pixels: int = option(0, "Images with more pixels are rejected. 0: the limit of the run.")
    max_rejects: float = option(0.05, "Fraction of images that may be unusable.")

    def __post_init__(self) -> None:
        require_options(
            ("--max-pixels", self.max_pixels, self.max_pixels >= 0, "at least 1, or 0"),
            ("--max-rejects", self.max_rejects, 0 <= self.max_rejects <= 1, "from 0 to 1"),
        )
