"""The settings of `predict`."""

from dataclasses import dataclass

from headstart.features.errors import require_options
from headstart.features.options import option


@dataclass(frozen=True)
class PredictConfig:
    """The settings of `predict`: which images are classified."""

    max_pixels: int = option(0, "Images with more pixels are rejected. 0: the limit of the run.")

    def __post_init__(self) -> None:
        require_options(("--max-pixels", self.max_pixels, self.max_pixels >= 0, "at least 1, or 0"))
