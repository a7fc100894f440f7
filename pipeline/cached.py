"""Examples with their features: what every command that needs features goes through."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from features.errors import DataError, RunError, check_options
from features.headers import MAX_PIXELS
from features.image_files import ImageFile, Reject
from features.memory import ScanMemory
from features.store import FeatureStore, create_folder
from pipeline.examples import Example, Scan, check_rejects, scan, without, write_rejects
from pipeline.runs import Run

if TYPE_CHECKING:  # TensorFlow takes seconds to import, and `--help` needs no more than the settings below
    from features.backbones import Backbone
    from features.images import ImageConfig


@dataclass(frozen=True)
class FeatureConfig:
    """Everything that decides which features an image has, and where they are kept. `help` is the command line's."""

    store: Path = field(
        default=Path("store"), metadata={"help": "Folder of cached features.", "env": "HEADSTART_STORE"}
    )
    backbone: str = field(default="inception_v3", metadata={"help": "The pretrained network."})
    weights: str = field(
        default="imagenet", metadata={"help": "imagenet, random, or a weights file.", "env": "HEADSTART_WEIGHTS"}
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
    precision: Literal["auto", "float32", "bfloat16"] = field(
        default="auto", metadata={"help": "Arithmetic of the frozen backbone; auto takes bfloat16 where it is faster."}
    )
    image_size: int = field(default=0, metadata={"help": "Side of the input in pixels; 0 is the backbone's own."})
    batch_size: int = field(default=48, metadata={"help": "Images a forward pass."})
    max_rejects: float = field(default=0.05, metadata={"help": "Fraction of images that may be unusable."})
    max_pixels: int = field(default=MAX_PIXELS, metadata={"help": "Larger images are rejected."})
    truncated: Literal["reject", "keep"] = field(default="reject", metadata={"help": "What to do with cut-off JPEGs."})
    resize: Literal["stretch", "crop"] = field(
        default="stretch", metadata={"help": "stretch to a square, or crop the centre square."}
    )
    rehash: bool = field(
        default=False, metadata={"help": "Read every file again, also one whose size and time did not change."}
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "cut", tuple(cut for cuts in self.cut for cut in cuts.split("+")))
        check_options(
            ("--image-size", self.image_size, self.image_size == 0 or self.image_size >= 32, "at least 32, or 0"),
            ("--batch-size", self.batch_size, self.batch_size >= 1, "at least 1"),
            ("--max-rejects", self.max_rejects, 0 <= self.max_rejects <= 1, "from 0 to 1"),
            ("--max-pixels", self.max_pixels, self.max_pixels >= 1, "at least 1"),
        )


@dataclass(frozen=True)
class CachedExamples:
    """Usable examples, and the stores that hold their features, one for each cut.

    Args:
        config: the settings with everything that `auto` left open filled in.
        extracted: digests given features now; `cached` had them before.
        seconds: spent extracting.
    """

    examples: list[Example]
    class_names: list[str]
    rejects: list[Reject]
    ignored: int
    backbone: Backbone
    cuts: list[str]
    image_config: ImageConfig
    stores: list[FeatureStore]
    config: FeatureConfig
    extracted: int
    cached: int
    seconds: float
    images_per_second: float

    def of(self, split: str) -> list[Example]:
        """The examples of `split`; all of them for `all`."""
        return [example for example in self.examples if split in ("all", example.split)]

    def arrays(self, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
        """Features float32 [N, D], cuts side by side, and labels int64 [N]."""
        digests = [example.image.digest for example in examples]
        features = np.concatenate([store.read(digests) for store in self.stores], axis=1)
        return features.astype(np.float32, copy=False), np.array([example.label for example in examples], np.int64)

    def fingerprints(self) -> dict[str, str]:
        """Cut to the hash of its fingerprint."""
        return {cut: store.key for cut, store in zip(self.cuts, self.stores, strict=True)}


def cache_features(data: Path, config: FeatureConfig, seed: int = 0) -> CachedExamples:
    """Scan `data`, extract the features that the store lacks, and say which examples can be used.

    Writes `rejects.csv` into the store's folder.

    Args:
        seed: of the split, where `data` has no split folders.

    Raises:
        DataError: no images, or more rejects than `config.max_rejects`.
        OptionError, WeightsError, StoreError: the settings can't be used.
    """
    create_folder(config.store)
    scanned = scan(data, seed, config.max_pixels, scan_memory(config.store, data, config.rehash))
    images = [example.image for example in scanned.examples]
    found = len(images) + len(scanned.rejects)
    try:
        check_rejects(scanned.rejects, found, config.max_rejects)
        backbone, cuts, config = load_backbone(config)
        image_config, stores = stores_of(backbone, cuts, config)
        stores = [store.create() for store in stores]
        extracted, seconds, speed, failed = _extract(images, backbone, cuts, stores, image_config, config)
    except DataError:
        write_rejects(config.store, scanned.rejects)
        raise
    scanned = without(scanned, failed)
    write_rejects(config.store, scanned.rejects)
    check_rejects(scanned.rejects, found, config.max_rejects)
    if not scanned.examples:
        raise DataError(f"{data}: none of {found} images can be used; {config.store}/rejects.csv says why")
    cached = len({example.image.digest for example in scanned.examples}) - extracted
    return CachedExamples(
        scanned.examples, scanned.class_names, scanned.rejects, scanned.ignored, backbone, cuts, image_config, stores,
        config, extracted, cached, seconds, speed,
    )  # fmt: skip


def scan_memory(store: Path, data: Path, forget: bool = False) -> ScanMemory:
    """What the last scan of `data` learnt, as it lies in the store's folder."""
    return ScanMemory(store / "scans", data, forget)


def scan_all(store: Path, data: Path, seed: int = 0) -> Scan:
    """A scan of images of any size: what has features is of use, whatever the limit was when they were made."""
    return scan(data, seed, sys.maxsize, scan_memory(store, data))


def load_examples(run: Run, data: Path | None = None) -> CachedExamples:
    """The examples of a run, or of another folder `data`, scanned anew, with the run's features.

    Raises:
        RunError: the run's settings no longer yield the features that its head was trained on.
    """
    config = run.config()
    data = data or Path(config["data"])
    if not data.exists():
        raise RunError(f"{run.path}: its data folder {data} is gone; say with --data where it is now")
    # What may be missing was settled in training; where it matters now, the example list is compared.
    changes = {"store": Path(config["features"]["store"]), "max_rejects": 1.0, "rehash": False}
    settings = FeatureConfig(**{**config["features"], **changes})
    cached = cache_features(data, settings, config["seed"])
    if cached.fingerprints() != config["fingerprints"]:
        raise RunError(
            f"{run.path}: its features can't be made again: {settings.weights} holds other weights than it was "
            "trained with, or another version of headstart made it; run `headstart head` again, with --overwrite"
        )
    return cached


def load_backbone(config: FeatureConfig) -> tuple[Backbone, list[str], FeatureConfig]:
    """The backbone of `config`, its cuts, and `config` with what was left open filled in."""
    from features.backbones import known_cuts
    from features.frozen import resolve_precision
    from features.weights import build_backbone

    cuts = known_cuts(config.cut, config.backbone)
    precision = resolve_precision(config.precision)
    backbone = build_backbone(
        config.backbone, config.weights, config.rescale, config.image_size or None, precision, config.weights_seed
    )
    return backbone, cuts, replace(config, cut=tuple(cuts), precision=precision, image_size=backbone.image_size)


def stores_of(backbone: Backbone, cuts: Sequence[str], config: FeatureConfig) -> tuple[ImageConfig, list[FeatureStore]]:
    """How pixels are made, and the store of each cut. Nothing is made on disk."""
    from features.frozen import FORWARD_VERSION
    from features.images import ImageConfig

    images = ImageConfig(backbone.image_size, config.resize, config.truncated)
    shared = {
        "backbone": backbone.name,
        "weights": backbone.weights_digest,
        **images.fingerprint(),
        "rescale": {"scale": backbone.rescaling.scale, "offset": backbone.rescaling.offset},
        "precision": backbone.precision,
        "forward_version": FORWARD_VERSION,
        "dtype": "float32" if backbone.precision == "float32" else "float16",
    }
    fingerprints = [{**shared, "cut": cut, "shape": list(backbone.shape(cut))} for cut in cuts]
    return images, [FeatureStore(config.store, fingerprint) for fingerprint in fingerprints]


def _extract(
    images: Sequence[ImageFile],
    backbone: Backbone,
    cuts: Sequence[str],
    stores: Sequence[FeatureStore],
    image_config: ImageConfig,
    config: FeatureConfig,
) -> tuple[int, float, float, list[Reject]]:
    from features.extract import extract_features
    from features.frozen import FrozenBackbone

    frozen = FrozenBackbone(backbone, cuts, config.batch_size)
    done = extract_features(images, frozen, stores, image_config)
    return done.extracted, done.seconds, done.images_per_second, done.rejects
