"""Verifying a store: every byte of it, and features against a fresh forward pass."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.errors import OptionError, StoreError, WeightsError
from headstart.features.images.scan import ImageFile
from headstart.features.store.maintain import BadShard, Verification, damaged_networks, drop_shards, find_stores, verify
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console, progress
from headstart.pipeline.featured import scan_all

if TYPE_CHECKING:  # TensorFlow takes seconds to import
    from headstart.features.backbones.backbone import Backbone

# How far a fresh forward pass may be off, relative in norm: other machines round otherwise.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "int8": 5e-2}
_OF_THE_CUT = ("cut", "shape")


@dataclass(frozen=True)
class Recomputation:
    """Images compared with a fresh forward pass, the largest relative error, and the shards of those too far off."""

    images: int = 0
    largest_error: float = 0.0
    bad: tuple[BadShard, ...] = ()


def verify_store(
    root: Path,
    repair: bool = False,
    data: Path | None = None,
    count: int = 0,
    weights: str = "imagenet",
    weights_seed: int = 0,
    seed: int = 0,
) -> tuple[Verification, Recomputation]:
    """Read every byte of a store, and compare features of `count` images of `data` with a fresh forward pass.

    Args:
        repair: remove shards that are bad in either way. Without it, a store with bad bytes is not recomputed.
        weights, weights_seed: those of the features to compare.
        seed: of the choice of images.

    Raises:
        OptionError: `count` without `data`, or the other way round.
        StoreError: nothing is in `root`, or no features of these weights.
        DataError, WeightsError: as ever.
    """
    if (data is None) != (count == 0):
        raise OptionError("--data and --recompute go together: say which images, and how many of them")
    stores, folders = find_stores(root)
    verification = replace(verify(stores, repair), folders=[*folders, *damaged_networks(root)])
    if data is None:
        return verification, Recomputation()
    if verification.folders or (verification.bad and not repair):
        console.print("nothing is recomputed before what is bad is mended")
        return verification, Recomputation()
    recomputation = recompute(stores, data, count, weights, weights_seed, seed)
    if repair:
        bad = {Path(shard.path) for shard in recomputation.bad}
        for store in stores:
            drop_shards(store, [shard for shard in store.shards() if shard in bad])
    return verification, recomputation


def recompute(
    stores: Sequence[FeatureStore], data: Path, count: int, weights: str, weights_seed: int = 0, seed: int = 0
) -> Recomputation:
    """Compare the features of `count` images of `data`, drawn by `seed`, with a fresh forward pass.

    Features of other weights, or of images that are not in `data`, are left alone, and named.

    Raises:
        StoreError: nothing could be compared.
    """
    found = scan_all(stores[0].folder.parent, data)
    images = {example.image.digest: example.image for example in found.examples}
    faults: list[str] = []
    errors: list[tuple[FeatureStore, ImageFile, float]] = []
    for alike in _by_backbone(stores):
        held = {digest for store in alike for digest in images.keys() - set(store.missing(list(images)))}
        chosen = np.random.default_rng(seed).permutation(sorted(held))[:count]
        if not len(chosen):
            faults.append(f"{alike[0].folder}: no features of the images in {data}")
            continue
        try:
            backbone = _backbone_of(alike[0].fingerprint, weights, weights_seed)
            errors += _errors(alike, backbone, [images[digest] for digest in chosen])
        except (WeightsError, OptionError, KeyError) as error:
            faults.append(f"{alike[0].folder}: {error}")
    if not errors:
        raise StoreError(f"nothing could be recomputed: {'; '.join(faults)}")
    for fault in faults:
        console.print(f"not recomputed: {fault}", markup=False)
    bad = {
        shard: BadShard(str(shard), f"features of {image.path} are off by {error:.2g} of their norm")
        for store, image, error in errors
        if error > _TOLERANCE[store.fingerprint["precision"]]
        for shard in [store.shard_of(image.digest)]
    }
    compared = {image.digest for _, image, _ in errors}
    return Recomputation(len(compared), max(error for _, _, error in errors), tuple(bad.values()))


def _by_backbone(stores: Sequence[FeatureStore]) -> list[list[FeatureStore]]:
    """Stores that differ in the cut alone share a forward pass."""
    groups: dict[str, list[FeatureStore]] = {}
    for store in stores:
        shared = {field: value for field, value in store.fingerprint.items() if field not in _OF_THE_CUT}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(store)
    return list(groups.values())


def _backbone_of(fingerprint: Mapping[str, Any], weights: str, weights_seed: int) -> Backbone:
    from headstart.features.backbones.backbone import Rescaling
    from headstart.features.backbones.frozen import FORWARD_VERSION
    from headstart.features.backbones.weights import build_backbone
    from headstart.features.images.decode import PIXELS_VERSION

    versions = (fingerprint["pixels_version"], fingerprint.get("forward_version"))
    if versions != (PIXELS_VERSION, FORWARD_VERSION):
        raise OptionError("another version of headstart made its features, in another way; they can't be compared")
    name, precision = fingerprint["backbone"], fingerprint["precision"]
    backbone = build_backbone(name, weights, "auto", fingerprint["image_size"], precision, weights_seed)
    if backbone.weights_digest != fingerprint["weights"]:
        raise WeightsError(f"its features are of other weights than {weights}; say which with --weights")
    rescale = fingerprint["rescale"]
    return replace(backbone, rescaling=Rescaling(tuple(rescale["scale"]), tuple(rescale["offset"])))


def _errors(
    stores: Sequence[FeatureStore], backbone: Backbone, images: Sequence[ImageFile]
) -> list[tuple[FeatureStore, ImageFile, float]]:
    """How far each stored vector is from a fresh one, relative in norm."""
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
            here = [images[position] for position in positions]
            for store in stores:
                width = math.prod(store.form.shape)
                lacking = set(store.missing([image.digest for image in here]))
                rows = [row for row, image in enumerate(here) if image.digest not in lacking and image.is_unchanged()]
                stored = store.read([here[row].digest for row in rows]).astype(np.float32).reshape(len(rows), width)
                expected = fresh[store.fingerprint["cut"]][rows].reshape(len(rows), width)
                norms = np.linalg.norm(expected, axis=1) + np.finfo(np.float32).tiny
                relative = np.linalg.norm(stored - expected, axis=1) / norms
                errors += [(store, here[row], float(error)) for row, error in zip(rows, relative, strict=True)]
            advance(len(positions))
    return errors
