"""Settings of feature extraction: `FeatureConfig` decides the features' values, `ExtractionConfig` does not.

The command line makes its options from the fields of both classes. This module imports neither TensorFlow nor Keras.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

from headstart.features.errors import require_options
from headstart.features.images.faults import MAX_PIXELS
from headstart.features.images.pixels import BITS, ImageConfig, Pages, Resize
from headstart.features.options import option
from headstart.features.paths import require_no_url

Precision = Literal["float32", "bfloat16", "int8"]
Rescale = Literal["auto", "none", "unit", "inception", "standardised", "caffe"]
Tokens = Literal["mean", "first"]
_MOST_IMAGES = 1 << 20  # in a forward pass
AskedPrecision = Literal["auto", "float32", "bfloat16", "int8"]


@dataclass(frozen=True)
class FeatureConfig:
    """The settings that decide a feature's value, as given on the command line.

    An invalid image size, seed, `bits` or number of views raises an OptionError.
    """

    backbone: str = option(
        "inception_v3",
        "The pretrained network: a name that `headstart backbones` lists, or a .keras file; a+b puts the features of "
        "several side by side.",
        env="HEADSTART_BACKBONE",
    )
    weights: str = option(
        "imagenet",
        "imagenet, random, or a weights file. For several backbones: one for all, or one for each, joined by +.",
        env="HEADSTART_WEIGHTS",
    )
    weights_seed: int = option(0, "Seed of --weights random.")
    rescale: Rescale = option(
        "auto",
        "Pixels that the weights expect. none: [0, 255]. unit: [0, 1]. inception: [-1, 1]. standardised: by ImageNet's "
        "mean and deviation. caffe: BGR less the mean. auto: as the ImageNet weights.",
        env="HEADSTART_RESCALE",
    )
    tokens: Tokens = option("mean", "How the tokens of a .keras file become one vector: their mean, or the first.")
    cut: tuple[str, ...] = option(
        (),
        "Take features at the end of this block. Repeatable, also as a+b. all: every block. mixed8:map: not averaged "
        "over space. Default: the last block, mixed10 in inception_v3.",
    )
    precision: AskedPrecision = option(
        "auto",
        "Arithmetic of the frozen backbone. auto: bfloat16 if that is faster on this machine, also for training heads; "
        "else float32. int8: quantised on 300 of the images; needs the extra int8.",
    )
    image_size: int = option(0, "Side of the input in pixels; 0 is the backbone's own.")
    truncated: Literal["reject", "keep"] = option("reject", "What to do with JPEGs that end early.")
    resize: Literal["auto", "stretch", "crop", "pad"] = option(
        "auto",
        "stretch: to a square. crop: the centre square. pad: to a square, with grey bars. auto: stretch for "
        "inception_v3, xception, resnet50_v2, efficientnet_v2_b0, mobilenet_v3_small and .keras files, crop for the "
        "others.",
    )
    bits: str = option(
        "auto",
        "Bits in use in files with 16-bit samples. auto: each file's own number. folder: the largest number of all "
        "files in DATA. Or a number from 8 to 16.",
    )
    pages: Pages = option("first", "Pages of a TIFF to take as images: first, or all.")
    views: int = option(0, "Number of augmented views of each training image to cache as well.")
    augment: Literal["flip", "standard"] = option(
        "standard", "Augmentation of --views. flip: mirror. standard: mirror, crop, brightness and contrast."
    )

    def __post_init__(self) -> None:
        require_options(
            (
                "--image-size",
                self.image_size,
                self.image_size == 0 or 32 <= self.image_size <= 4096,
                "from 32 to 4096, or 0",
            ),
            ("--weights-seed", self.weights_seed, self.weights_seed >= 0, "at least 0"),
            ("--bits", self.bits, self.bits in ("folder", *BITS), "auto, folder or a number from 8 to 16"),
            ("--views", self.views, self.views >= 0, "at least 0"),
        )

    def images(self) -> ImageConfig:
        """Return the settings that decide how a file becomes pixels.

        The caller must first replace three values that stand for others: 0 in `image_size`, `folder` in `bits`, and
        `auto` in `resize`. If 0 or `folder` is left, an OptionError is raised. If `auto` is left, it is not noticed.
        """
        return ImageConfig(self.image_size, cast(Resize, self.resize), self.truncated, self.bits)


@dataclass(frozen=True)
class ExtractionConfig:
    """Where features are stored and how they are made. These settings do not change a feature's value.

    An invalid number, a URL as `store`, or a `scratch` folder that does not exist raises an OptionError.
    """

    store: Path = option(Path("store"), "Folder of cached features.", env="HEADSTART_STORE")
    batch_size: int = option(
        0, "Images per forward pass. 0: 8 with OpenVINO, on a GPU the fastest number found by trials."
    )
    max_rejects: float = option(0.05, "Fraction of images that may be unusable.")
    max_pixels: int = option(MAX_PIXELS, "Images with more pixels are rejected.")
    rehash: bool = option(False, "Read every file again, even if its size and time did not change.")
    memory: float = option(
        0.0,
        "GiB of memory that features may take; more of them are read from scratch files. 0: a quarter of all memory.",
        env="HEADSTART_MEMORY",
    )
    scratch: Path | None = option(
        None, "Folder for scratch files, best on a fast disk. Default: the store.", env="HEADSTART_SCRATCH"
    )

    def __post_init__(self) -> None:
        require_no_url("--store", self.store)
        require_options(
            ("--batch-size", self.batch_size, 0 <= self.batch_size <= _MOST_IMAGES, f"from 0 to {_MOST_IMAGES}"),
            ("--max-rejects", self.max_rejects, 0 <= self.max_rejects <= 1, "from 0 to 1"),
            ("--max-pixels", self.max_pixels, self.max_pixels >= 1, "at least 1"),
            ("--memory", self.memory, self.memory >= 0, "over 0, or 0 to choose"),
            ("--scratch", self.scratch, self.scratch is None or self.scratch.is_dir(), "a folder that exists"),
        )


_OF_THIS_MACHINE = ("memory", "scratch")  # a run may be used on another machine, and must name no place to write to


def configs_to_json(config: FeatureConfig, extraction: ExtractionConfig) -> dict[str, Any]:
    """Return the fields of `config` and `extraction` as one JSON object, without `memory` and `scratch`.

    A run's config file keeps the object under the key `features`.
    """
    found = {**asdict(config), **asdict(extraction), "store": str(extraction.store)}
    return {name: value for name, value in found.items() if name not in _OF_THIS_MACHINE}


def configs_from_json(values: Mapping[str, Any]) -> tuple[FeatureConfig, ExtractionConfig]:
    """Return both configurations from `values`, the result of `configs_to_json`.

    A missing `cut` or `store` raises a KeyError. A missing `bits` becomes `16`, the behaviour of earlier versions of
    headstart. Any other missing field gets its default. `memory` and `scratch` always get their defaults.
    """
    values = {"bits": "16", **values, "cut": tuple(values["cut"]), "store": Path(values["store"])}
    values = {name: value for name, value in values.items() if name not in _OF_THIS_MACHINE}
    own, other = (
        {one.name: values[one.name] for one in fields(kind) if one.name in values}
        for kind in (FeatureConfig, ExtractionConfig)
    )
    return FeatureConfig(**own), ExtractionConfig(**other)
