"""`store verify`: reading every byte of a store, and comparing features with a fresh forward pass."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.backbones.calibration import damaged_networks
from headstart.features.errors import HeadstartError, OptionError, StoreError, WeightsError
from headstart.features.images.scan import ImageFile
from headstart.features.store.compact import drop_shards
from headstart.features.store.maintain import Damage, Verification, find_stores, verify
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console, progress
from headstart.pipeline.featured import scan_all
from headstart.pipeline.upkeep.config import VerifyConfig

if TYPE_CHECKING:  # TensorFlow takes seconds to import
    from headstart.features.backbones.backbone import Backbone

# The largest relative error (in norm) of a stored feature: other machines round differently.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "int8": 5e-2}
_FIELDS_OF_CUT = ("cut", "shape")


@dataclass(frozen=True)
class Recomputation:
    """Stored features compared with fresh ones.

    Args:
        images: number of images compared.
        largest_error: the largest relative error, in norm.
        bad: the shards of features beyond the tolerance.
    """

    images: int = 0
    largest_error: float = 0.0
    bad: tuple[Damage, ...] = ()


@dataclass(frozen=True)
class VerifyResult:
    """All damage of a store.

    Args:
        repaired: whether bad shards were dropped.
        read: the result of reading every byte.
        folders: the folders of fingerprints and 8-bit networks that can't be used.
        fresh: the result of comparing features with fresh ones.
    """

    root: Path
    repaired: bool
    read: Verification
    folders: list[Damage]
    fresh: Recomputation

    @property
    def damage(self) -> list[Damage]:
        """All bad shards, merged files and folders."""
        return [*self.read.bad, *self.fresh.bad, *self.read.merged, *self.folders]

    def fields(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "shards": self.read.shards,
            "images": self.read.images,
            "bad": len(self.damage),
            "bad_shards": [asdict(one) for one in self.damage],
            "recomputed": self.fresh.images,
            "largest_error": self.fresh.largest_error if self.fresh.images else None,
        }

    def lines(self) -> list[str]:
        """The summary for people."""
        lines = [one.reason if one.reason.startswith(one.path) else f"{one.path}: {one.reason}" for one in self.damage]
        lines.append(f"{self.read.shards} shards, {self.read.images} images, {len(self.damage)} bad")
        if self.fresh.images:
            lines.append(
                f"{self.fresh.images} images recomputed; largest relative error {self.fresh.largest_error:.2g}"
            )
        if self.damage and self.repaired:
            lines.append("bad shards are dropped: `headstart features` does their images again")
        return lines

    def failure(self) -> HeadstartError | None:
        """The error to end with: there is damage that was not repaired."""
        if self.folders:
            return StoreError(self.folders[0].reason)
        if self.damage and not self.repaired:
            return StoreError(f"{self.root}: {len(self.damage)} bad among {self.read.shards} shards; --repair mends it")
        return None


def verify_store(root: Path, config: VerifyConfig, seed: int = 0) -> VerifyResult:
    """Read every byte of the store at `root`; with `config.data`, also compare features with a fresh forward pass.

    Nothing is compared in a store with damage that was not repaired.

    Args:
        seed: of the choice of images to compare.

    Raises:
        StoreError: `root` holds no features, or none that can be compared.
        DataError: `config.data` has no images.
    """
    stores, folders = find_stores(root)
    read = verify(stores, config.repair)
    result = VerifyResult(
        root=root,
        repaired=config.repair,
        read=read,
        folders=[*folders, *damaged_networks(root)],
        fresh=Recomputation(),
    )
    if config.data is None:
        return result
    if result.folders or (read.bad and not config.repair):
        console.print("nothing is recomputed before the damage is repaired")
        return result
    fresh = recompute(stores, config.data, config, seed)
    if config.repair:
        bad = {Path(shard.path) for shard in fresh.bad}
        for store in stores:
            drop_shards(store, [shard for shard in store.shards() if shard in bad])
    return replace(result, fresh=fresh)


def recompute(stores: Sequence[FeatureStore], data: Path, config: VerifyConfig, seed: int = 0) -> Recomputation:
    """Compare features of `config.recompute` images of `data`, drawn by `seed`, with a fresh forward pass.

    Features of other weights are not compared, but named on the console.

    Raises:
        StoreError: no features can be compared.
        DataError: `data` has no images.
    """
    found = scan_all(stores[0].folder.parent, data)
    images = {example.image.digest: example.image for example in found.examples}
    left_out: list[str] = []
    errors: list[tuple[FeatureStore, ImageFile, float]] = []
    for group in _grouped_by_backbone(stores):
        held = {digest for store in group for digest in images.keys() - set(store.missing(list(images)))}
        chosen = np.random.default_rng(seed).permutation(sorted(held))[: config.recompute]
        if not len(chosen):
            left_out.append(f"{group[0].folder}: no features of the images in {data}")
            continue
        try:
            backbone = _backbone_of(group[0].fingerprint, config)
            errors += _errors(group, backbone, [images[digest] for digest in chosen])
        except (WeightsError, OptionError, KeyError) as error:
            left_out.append(f"{group[0].folder}: {error}")
    if not errors:
        raise StoreError(f"nothing could be recomputed: {'; '.join(left_out)}")
    for reason in left_out:
        console.print(f"not recomputed: {reason}")
    bad = {
        shard: Damage(str(shard), f"features of {image.path} are off by {error:.2g} of their norm")
        for store, image, error in errors
        if error > _TOLERANCE[store.fingerprint["precision"]]
        for shard in [store.shard_of(image.digest)]
    }
    return Recomputation(
        images=len({image.digest for _, image, _ in errors}),
        largest_error=max(error for _, _, error in errors),
        bad=tuple(bad.values()),
    )


def _grouped_by_backbone(stores: Sequence[FeatureStore]) -> list[list[FeatureStore]]:
    """Group the stores that differ in the cut alone: one forward pass serves a group."""
    groups: dict[str, list[FeatureStore]] = {}
    for store in stores:
        shared = {field: value for field, value in store.fingerprint.items() if field not in _FIELDS_OF_CUT}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(store)
    return list(groups.values())


def _backbone_of(fingerprint: Mapping[str, Any], config: VerifyConfig) -> Backbone:
    """Build the backbone of a fingerprint, with the weights of `config`.

    Raises:
        OptionError: the features were made by another version of headstart.
        WeightsError: the features were made with other weights.
    """
    from headstart.features.backbones.backbone import Rescaling
    from headstart.features.backbones.frozen import FORWARD_VERSION
    from headstart.features.backbones.weights import build_backbone
    from headstart.features.images.decode import PIXELS_VERSION

    versions = (fingerprint["pixels_version"], fingerprint.get("forward_version"))
    if versions != (PIXELS_VERSION, FORWARD_VERSION):
        raise OptionError("another version of headstart made its features, in another way; they can't be compared")
    name, precision = fingerprint["backbone"], fingerprint["precision"]
    backbone = build_backbone(name, config.weights, "auto", fingerprint["image_size"], precision, config.weights_seed)
    if backbone.weights_digest != fingerprint["weights"]:
        raise WeightsError(f"its features are of other weights than {config.weights}; say which with --weights")
    rescale = fingerprint["rescale"]
    return replace(backbone, rescaling=Rescaling(tuple(rescale["scale"]), tuple(rescale["offset"])))


def _errors(
    stores: Sequence[FeatureStore], backbone: Backbone, images: Sequence[ImageFile]
) -> list[tuple[FeatureStore, ImageFile, float]]:
    """The relative error (in norm) of each stored feature of `images` against a fresh one."""
    from headstart.features.backbones.frozen import FrozenBackbone
    from headstart.features.backbones.int8 import quantised
    from headstart.features.images.augment import View
    from headstart.features.images.batches import decoded_batches
    from headstart.features.images.decode import ImageConfig

    fields = stores[0].fingerprint
    config = ImageConfig(fields["image_size"], fields["resize"], fields["truncated"])
    view = View(fields["augment"], fields["seed"], fields["view"]) if "view" in fields else None
    frozen = (
        quantised(stores[0].folder.parent, backbone, fields["calibration"])
        if backbone.precision == "int8"
        else FrozenBackbone(backbone, [store.fingerprint["cut"] for store in stores])
    )
    errors = []
    with progress("recomputing", len(images)) as advance:
        batches = decoded_batches(images, config, frozen.images_per_pass, view)
        for positions, fresh in frozen.stream(batches):
            batch = [images[position] for position in positions]
            for store in stores:
                errors += _errors_of_batch(store, batch, fresh[store.fingerprint["cut"]])
            advance(len(positions))
    return errors


def _errors_of_batch(
    store: FeatureStore, batch: Sequence[ImageFile], fresh: np.ndarray
) -> list[tuple[FeatureStore, ImageFile, float]]:
    """Compare `fresh` features [n, *shape] of `batch` with the stored ones.

    Images without stored features are left out, and so are files that changed meanwhile.
    """
    lacking = set(store.missing([image.digest for image in batch]))
    rows = [row for row, image in enumerate(batch) if image.digest not in lacking and image.is_unchanged()]
    width = math.prod(store.form.shape)
    stored = store.read([batch[row].digest for row in rows]).astype(np.float32).reshape(len(rows), width)
    expected = fresh[rows].reshape(len(rows), width)
    norms = np.linalg.norm(expected, axis=1) + np.finfo(np.float32).tiny
    relative = np.linalg.norm(stored - expected, axis=1) / norms
    return [(store, batch[row], float(error)) for row, error in zip(rows, relative, strict=True)]
