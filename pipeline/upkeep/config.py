"""The options of the commands of `headstart store`."""

from dataclasses import dataclass
from pathlib import Path

from headstart.features.errors import require_options
from headstart.features.options import option


@dataclass(frozen=True)
class VerifyConfig:
    """Options of `store verify`."""

    repair: bool = option(False, "Drop bad shards, so that their images are redone.", flag="--repair")
    data: Path | None = option(None, "Compare features of its images with a fresh forward pass.")
    recompute: int = option(0, "How many images to compare.")
    weights: str = option(
        "imagenet", "imagenet, random, or a weights file: the weights to compare with.", env="HEADSTART_WEIGHTS"
    )
    weights_seed: int = option(0, "Seed of --weights random.")

    def __post_init__(self) -> None:
        together = "given with --data, and only with it: say which images to compare, and how many of them"
        require_options(
            ("--recompute", self.recompute, self.recompute >= 0, "at least 0"),
            ("--recompute", self.recompute, (self.data is None) == (self.recompute == 0), together),
        )


@dataclass(frozen=True)
class GcConfig:
    """Options of `store gc`."""

    yes: bool = option(False, "Do it, rather than say what would be done.", flag="--yes")


@dataclass(frozen=True)
class ExportConfig:
    """Options of `store export`."""

    fingerprint: str = option("", "Which features: the beginning of a fingerprint, or of its name in `store ls`.")
    max_rejects: float = option(0.05, "Fraction of images that may be without features.")

    def __post_init__(self) -> None:
        require_options(("--max-rejects", self.max_rejects, 0 <= self.max_rejects <= 1, "from 0 to 1"))
