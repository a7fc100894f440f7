"""The settings of features."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from headstart.features.errors import check_options
from headstart.features.images.faults import MAX_PIXELS


@dataclass(frozen=True)
class FeatureConfig:
    """Everything that decides which features an image has, and where they are kept. `help` is the command line's."""

    store: Path = field(
        default=Path("store"), metadata={"help": "Folder of cached features.", "env": "HEADSTART_STORE"}
    )
    backbone: str = field(
        default="inception_v3", metadata={"help": "The pretrained network; a+b puts features of several side by side."}
    )
    weights: str = field(
        default="imagenet",
        metadata={
            "help": "imagenet, random, or a weights file; of several backbones one for each, joined by +, or one for "
            "all.",
            "env": "HEADSTART_WEIGHTS",
        },
    )
    weights_seed: int = field(default=0, metadata={"help": "Seed of --weights random."})
    rescale: Literal["auto", "inception", "unit"] = field(
        default="auto",
        metadata={"help": "Range the weights expect: inception is [-1, 1], unit [0, 1], auto what ImageNet's expect."},
    )
    cut: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Where the backbone is cut; repeatable, also as a+b. all: every cut; mixed8:map: one that is not "
            "averaged over space. Default: mixed10, or its like."
        },
    )
    precision: Literal["auto", "float32", "bfloat16", "int8"] = field(
        default="auto",
        metadata={
            "help": "Arithmetic of the frozen backbone; auto takes bfloat16 where it is faster, and heads are then "
            "trained in it, too. int8 is quantised on 300 of the images, and needs the extra int8."
        },
    )
    image_size: int = field(default=0, metadata={"help": "Side of the input in pixels; 0 is the backbone's own."})
    batch_size: int = field(
        default=0, metadata={"help": "Images a forward pass; 0 is 12 for two cores, at most 48; on a GPU what is fast."}
    )
    max_rejects: float = field(default=0.05, metadata={"help": "Fraction of images that may be unusable."})
    max_pixels: int = field(default=MAX_PIXELS, metadata={"help": "Larger images are rejected."})
    truncated: Literal["reject", "keep"] = field(default="reject", metadata={"help": "What to do with cut-off JPEGs."})
    resize: Literal["stretch", "crop"] = field(
        default="stretch", metadata={"help": "stretch to a square, or crop the centre square."}
    )
    rehash: bool = field(
        default=False, metadata={"help": "Read every file again, also one whose size and time did not change."}
    )
    views: int = field(default=0, metadata={"help": "Cache so many augmented views of each training image, too."})
    augment: Literal["flip", "standard"] = field(
        default="standard", metadata={"help": "Of --views: mirror; or mirror, crop, brightness and contrast."}
    )

    def __post_init__(self) -> None:
        check_options(
            ("--image-size", self.image_size, self.image_size == 0 or self.image_size >= 32, "at least 32, or 0"),
            ("--batch-size", self.batch_size, self.batch_size >= 0, "at least 0"),
            ("--max-rejects", self.max_rejects, 0 <= self.max_rejects <= 1, "from 0 to 1"),
            ("--max-pixels", self.max_pixels, self.max_pixels >= 1, "at least 1"),
            ("--views", self.views, self.views >= 0, "at least 0"),
        )
