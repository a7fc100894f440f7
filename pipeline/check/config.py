"""The settings of `headstart check`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headstart.features.errors import require_options
from headstart.features.images.faults import MAX_PIXELS
from headstart.features.options import option
from headstart.features.paths import require_no_url
from headstart.pipeline.data.config import SIMILARITY


@dataclass(frozen=True)
class CheckConfig:
    """The settings of `headstart check`: the features to use, what counts as a finding, and how to report findings."""

    store: Path = option(Path("store"), "Store of the features that find near-duplicates.", env="HEADSTART_STORE")
    fingerprint: str = option(
        "",
        "Which of the store's features: the beginning of a name in `store ls`. Default: those of the most images, "
        "at the last cut.",
    )
    similarity: float = option(SIMILARITY, "Near-duplicates have whitened features with at least this cosine.")
    tiny: int = option(64, "Images with a side of fewer pixels are reported as tiny.")
    imbalance: float = option(5.0, "Classes are imbalanced if one has this many times the images of another.")
    max_rejects: float = option(0.05, "Fraction of images that may be unusable.")
    max_pixels: int = option(MAX_PIXELS, "Images with more pixels are rejected.")
    truncated: Literal["reject", "keep"] = option(
        "reject", "Whether JPEGs that end early are rejected, or kept with the rest grey."
    )
    html: Path | None = option(None, "HTML page to write, with thumbnails of each class and of the findings.")
    allow: bool = option(False, "Exit with 0 whatever is found.")

    def __post_init__(self) -> None:
        require_no_url("--store", self.store)
        require_options(
            ("--similarity", self.similarity, 0 < self.similarity <= 1, "over 0 and at most 1"),
            ("--tiny", self.tiny, self.tiny >= 0, "at least 0"),
            ("--imbalance", self.imbalance, self.imbalance >= 1, "at least 1"),
            ("--max-rejects", self.max_rejects, 0 <= self.max_rejects <= 1, "from 0 to 1"),
            ("--max-pixels", self.max_pixels, self.max_pixels >= 1, "at least 1"),
        )
