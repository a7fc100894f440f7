"""The settings of features: what decides a feature, and apart from that, where it is kept and how it is made.

The command line makes its options from these fields, with their help. This module imports nothing heavy.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from headstart.features.errors import require_options
from headstart.features.images.faults import MAX_PIXELS
from headstart.features.options import option

Precision = Literal["float32", "bfloat16", "int8"]
AskedPrecision = Literal["auto", "float32", "bfloat16", "int8"]


@dataclass(frozen=True)
class FeatureConfig:
    """Everything that decides which features an image has, as a person asks for it."""

    backbone: str = option("inception_v3", "The pretrained network; a+b puts the features of several side by side.")
    weights: str = option(
        "imagenet",
        "imagenet, random, or a weights file. For several backbones: one for all, or one for each, joined by +.",
        env="HEADSTART_WEIGHTS",
    )
    weights_seed: int = option(0, "Seed of --weights random.")
    rescale: Literal["auto", "inception", "unit"] = option(
        "auto",
        "Range of pixels that the weights expect: inception is [-1, 1], unit [0, 1], auto that of the ImageNet "
        "weights.",
    )
    cut: tuple[str, ...] = option(
        (),
        "Block at whose end features are taken; repeatable, also as a+b. all: every block; mixed8:map: not averaged "
        "over space. Default: the last block, mixed10 in inception_v3.",
    )
    precision: AskedPrecision = option(
        "auto",
        "Arithmetic of the frozen backbone. auto takes bfloat16 where it is faster; heads then train in it too. int8 "
        "is quantised on 300 of the images, and needs the extra int8.",
    )
    image_size: int = option(0, "Side of the input in pixels; 0 is the backbone's own.")
    truncated: Literal["reject", "keep"] = option("reject", "What to do with cut-off JPEGs.")
    resize: Literal["stretch", "crop"] = option("stretch", "stretch to a square, or crop the centre square.")
    views: int = option(0, "Augmented views of each training image to cache, too.")
    augment: Literal["flip", "standard"] = option(
        "standard", "For --views: mirror; or mirror, crop, brightness and contrast."
    )

    def __post_init__(self) -> None:
        require_options(
            ("--image-size", self.image_size, self.image_size == 0 or self.image_size >= 32, "at least 32, or 0"),
            ("--views", self.views, self.views >= 0, "at least 0"),
        )


@dataclass(frozen=True)
class ExtractionConfig:
    """Where features are kept, and how they are made. None of it decides a feature's value."""

    store: Path = option(Path("store"), "Folder of cached features.", env="HEADSTART_STORE")
    batch_size: int = option(
        0, "Images per forward pass. 0 is 12 for two cores, at most 48; on a GPU the fastest, found by trying."
    )
    max_rejects: float = option(0.05, "Fraction of images that may be unusable.")
    max_pixels: int = option(MAX_PIXELS, "Larger images are rejected.")
    rehash: bool = option(False, "Read every file again, also one whose size and time did not change.")

    def __post_init__(self) -> None:
        require_options(
            ("--batch-size", self.batch_size, self.batch_size >= 0, "at least 0"),
            ("--max-rejects", self.max_rejects, 0 <= self.max_rejects <= 1, "from 0 to 1"),
            ("--max-pixels", self.max_pixels, self.max_pixels >= 1, "at least 1"),
        )


def configs_to_json(config: FeatureConfig, extraction: ExtractionConfig) -> dict[str, Any]:
    """Both configurations as one JSON object; a run keeps it under `features`."""
    return {**asdict(config), **asdict(extraction), "store": str(extraction.store)}


def configs_from_json(values: Mapping[str, Any]) -> tuple[FeatureConfig, ExtractionConfig]:
    """The configurations that `configs_to_json` gave. Fields that are missing have their defaults."""
    values = {**values, "cut": tuple(values["cut"]), "store": Path(values["store"])}
    own, other = (
        {one.name: values[one.name] for one in fields(kind) if one.name in values}
        for kind in (FeatureConfig, ExtractionConfig)
    )
    return FeatureConfig(**own), ExtractionConfig(**other)
