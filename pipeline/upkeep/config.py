"""The settings of `headstart store verify` and `headstart store export`."""

from dataclasses import dataclass
from pathlib import Path

from headstart.features.errors import require_options
from headstart.features.options import option


@dataclass(frozen=True)
class VerifyConfig:
    """The settings of `store verify`: the images to compare, and whether to drop bad shards."""

    repair: bool = option(False, "Drop bad shards; `headstart features` makes their features again.", flag="--repair")
    data: Path | None = option(None, "Data folder whose stored features are compared with a fresh forward pass.")
    recompute: int = option(0, "How many images to compare.")
    weights: str = option(
        "imagenet", "Weights for the fresh forward pass: imagenet, random, or a weights file.", env="HEADSTART_WEIGHTS"
    )
    weights_seed: int = option(0, "Seed of --weights random.")

    def __post_init__(self) -> None:
        together = "given with --data, and only with it: say which images to compare, and how many of them"
        seed = self.weights_seed
        require_options(
            ("--recompute", self.recompute, self.recompute >= 0, "at least 0"),
            ("--recompute", self.recompute, (self.data is None) == (self.recompute == 0), together),
            ("--weights-seed", seed, self.weights == "random" or not seed, "0 without --weights random"),
        )


@dataclass(frozen=True)
class StoreExportConfig:
    """The settings of `store export`: the features to write, and how many may be missing."""

    backbone: str = option("", "The network whose features to write.")
    cut: str = option("", "The cut whose features to write: mixed10, or mixed8:map.")
    fingerprint: str = option("", "Features to write: the beginning of a fingerprint, or of a name in `store ls`.")
    max_rejects: float = option(0.05, "Fraction of images that may lack features.")

    def __post_init__(self) -> None:
        require_options(("--max-rejects", self.max_rejects, 0 <= self.max_rejects <= 1, "from 0 to 1"))
