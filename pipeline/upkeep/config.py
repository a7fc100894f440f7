"""The options of the commands of `headstart store`. `help` is the command line's."""

from dataclasses import dataclass, field
from pathlib import Path

from headstart.features.errors import require_options


@dataclass(frozen=True)
class VerifyConfig:
    """Options of `store verify`."""

    repair: bool = field(
        default=False, metadata={"help": "Drop bad shards, so that their images are redone.", "flag": "--repair"}
    )
    data: Path | None = field(
        default=None, metadata={"help": "Compare features of its images with a fresh forward pass."}
    )
    recompute: int = field(default=0, metadata={"help": "How many images to compare."})
    weights: str = field(
        default="imagenet",
        metadata={
            "help": "imagenet, random, or a weights file: the weights to compare with.",
            "env": "HEADSTART_WEIGHTS",
        },
    )
    weights_seed: int = field(default=0, metadata={"help": "Seed of --weights random."})

    def __post_init__(self) -> None:
        together = "given with --data, and only with it: say which images to compare, and how many of them"
        require_options(
            ("--recompute", self.recompute, self.recompute >= 0, "at least 0"),
            ("--recompute", self.recompute, (self.data is None) == (self.recompute == 0), together),
        )


@dataclass(frozen=True)
class GcConfig:
    """Options of `store gc`."""

    yes: bool = field(default=False, metadata={"help": "Do it, rather than say what would be done.", "flag": "--yes"})


@dataclass(frozen=True)
class ExportConfig:
    """Options of `store export`."""

    fingerprint: str = field(
        default="", metadata={"help": "Which features: the beginning of a fingerprint, or of its name in `store ls`."}
    )
    max_rejects: float = field(default=0.05, metadata={"help": "Fraction of images that may be without features."})

    def __post_init__(self) -> None:
        require_options(("--max-rejects", self.max_rejects, 0 <= self.max_rejects <= 1, "from 0 to 1"))
