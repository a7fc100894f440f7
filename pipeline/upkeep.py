"""What a store holds for the images of a data folder: what is missing and why, what no one uses, what is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.errors import DataError, OptionError, StoreError, WeightsError
from features.headers import ImageFile
from features.maintain import BadShard, Verification, drop_shards, drop_unused, open_stores, verify
from features.progress import console, progress
from features.store import FeatureStore
from pipeline.cached import FeatureConfig, load_backbone, scan_memory, stores_of
from pipeline.examples import Scan, scan

if TYPE_CHECKING:  # TensorFlow takes seconds to import
    from features.backbones import Backbone

# How far a fresh forward pass may be off, relative in norm: other machines round otherwise.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
_OF_THE_CUT = ("cut", "shape")


@dataclass(frozen=True)
class Neighbour:
    """Another fingerprint in the store: how many of the images have its features, and where it differs.

    Args:
        differs: field of the fingerprint to what was asked for and what is there.
    """

    folder: str
    present: int
    differs: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class CutState:
    """How many distinct images have features at a cut, how many don't, and what else is there."""

    cut: str
    fingerprint: str
    present: int
    missing: int
    others: list[Neighbour]


@dataclass(frozen=True)
class Unused:
    """Images of one fingerprint that some data folder uses, those that none does, and their bytes."""

    folder: str
    kept: int
    dropped: int
    bytes: int


@dataclass(frozen=True)
class Recomputation:
    """Images compared with a fresh forward pass, the largest relative error, and the shards of those too far off."""

    images: int = 0
    largest_error: float = 0.0
    bad: tuple[BadShard, ...] = ()


def explain(root: Path, data: Path, config: FeatureConfig, seed: int = 0) -> list[CutState]:
    """Say, for each cut of `config`, which images of `data` have features in `root`, and how other fingerprints differ.

    Raises:
        StoreError: nothing is in `root`.
        DataError: no images.
        OptionError, WeightsError: the settings can't be used.
    """
    there = open_stores(root)
    config = replace(config, store=root)
    found = scan(data, seed, config.max_pixels, scan_memory(root, data, config.rehash))
    digests = {example.image.digest for example in found.examples}
    backbone, cuts, config = load_backbone(config)
    _, asked = stores_of(backbone, cuts, config)
    return [_state(store, digests, there) for store in asked]


def _state(store: FeatureStore, digests: Collection[str], there: Sequence[FeatureStore]) -> CutState:
    others = []
    for other in there:
        if other.key == store.key:
            continue
        differs = _differences(store.fingerprint, other.fingerprint)
        others.append(Neighbour(other.folder.name, len(digests) - len(other.missing(digests)), differs))
    others.sort(key=lambda other: len(other.differs))
    missing = len(store.missing(digests))
    return CutState(store.fingerprint["cut"], store.key, len(digests) - missing, missing, others)


def _differences(asked: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    plain = json.loads(json.dumps(asked))  # as it would come back from disk
    return {
        field: {"asked": plain.get(field), "there": there.get(field)}
        for field in sorted({*plain, *there})
        if plain.get(field) != there.get(field)
    }


def unused(root: Path, data: Sequence[Path], drop: bool = False) -> list[Unused]:
    """Count what no folder of `data` uses, and `drop` it.

    Raises:
        StoreError: nothing is in `root`.
        DataError: a folder without images, or with files that can't be read: they may be in use.
    """
    stores = open_stores(root)
    used = {digest for folder in data for digest in _used_by(root, folder)}
    counts = []
    for store in stores:
        held = set(store.digests())
        dropped = len(held - used)
        counts.append(Unused(store.folder.name, len(held) - dropped, dropped, dropped * store.form.image_bytes))
        if drop:
            drop_unused(store, used)
    return counts


def _used_by(root: Path, data: Path) -> set[str]:
    found = _scan_all(root, data)
    unread = [reject for reject in found.rejects if reject.reason in ("unreadable", "vanished")]
    if unread:
        raise DataError(
            f"{data}: {len(unread)} files can't be read, and so it is not known whose features they use; "
            f"the first is {unread[0].path}: {unread[0].detail}"
        )
    return {example.image.digest for example in found.examples}


def _scan_all(root: Path, data: Path) -> Scan:
    """A scan of images of any size: what has features is of use, whatever the limit was."""
    return scan(data, max_pixels=sys.maxsize, memory=scan_memory(root, data))


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
    stores = open_stores(root)
    verification = verify(stores, repair)
    if data is None or (verification.bad and not repair):
        return verification, Recomputation()
    recomputation = recompute(stores, data, count, weights, weights_seed, seed)
    if repair:
        for store in stores:
            bad = {Path(shard.path) for shard in recomputation.bad}
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
    found = _scan_all(stores[0].folder.parent, data)
    images = {example.image.digest: example.image for example in found.examples}
    faults: list[str] = []
    compared, errors, bad = 0, [0.0], []
    for alike in _by_backbone(stores):
        try:
            backbone = _backbone_of(alike[0].fingerprint, weights, weights_seed)
        except (WeightsError, StoreError) as error:
            faults.append(str(error))
            continue
        lacking = {digest for store in alike for digest in store.missing(list(images))}
        held = sorted(images.keys() - lacking)
        if not held:
            faults.append(f"{alike[0].folder}: no features of the images in {data}")
            continue
        chosen = np.random.default_rng(seed).permutation(held)[:count]
        off = _errors(alike, backbone, [images[digest] for digest in chosen])
        compared += len(chosen)
        errors += [error for _, _, error in off]
        tolerance = _TOLERANCE[backbone.precision]
        bad += [
            BadShard(
                str(store.shard_of(image.digest)), f"features of {image.path} are off by {error:.2g} of their norm"
            )
            for store, image, error in off
            if error > tolerance
        ]
    if not compared:
        raise StoreError(f"nothing could be recomputed: {'; '.join(faults)}")
    for fault in faults:
        console.print(f"not recomputed: {fault}", markup=False)
    return Recomputation(compared, max(errors), tuple({shard.path: shard for shard in bad}.values()))


def _by_backbone(stores: Sequence[FeatureStore]) -> list[list[FeatureStore]]:
    """Stores that differ in the cut alone share a forward pass."""
    groups: dict[str, list[FeatureStore]] = {}
    for store in stores:
        shared = {field: value for field, value in store.fingerprint.items() if field not in _OF_THE_CUT}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(store)
    return list(groups.values())


def _backbone_of(fingerprint: Mapping[str, Any], weights: str, weights_seed: int) -> Backbone:
    from features.backbones import Rescaling
    from features.weights import build_backbone

    name, precision = fingerprint["backbone"], fingerprint["precision"]
    backbone = build_backbone(name, weights, "auto", fingerprint["image_size"], precision, weights_seed)
    if backbone.weights_digest != fingerprint["weights"]:
        raise StoreError(f"the features of {name} are of other weights than {weights}; say which with --weights")
    rescale = fingerprint["rescale"]
    return replace(backbone, rescaling=Rescaling(tuple(rescale["scale"]), tuple(rescale["offset"])))


def _errors(
    stores: Sequence[FeatureStore], backbone: Backbone, images: Sequence[ImageFile]
) -> list[tuple[FeatureStore, ImageFile, float]]:
    """How far each stored vector is from a fresh one, relative in norm."""
    from features.frozen import FrozenBackbone
    from features.images import ImageConfig, decoded_batches

    fields = stores[0].fingerprint
    config = ImageConfig(fields["image_size"], fields["resize"], fields["truncated"])
    frozen = FrozenBackbone(backbone, [store.fingerprint["cut"] for store in stores])
    errors = []
    with progress("recomputing", len(images)) as advance:
        for positions, pixels in decoded_batches(images, config, frozen.images_per_pass):
            fresh = frozen(pixels)
            here = [images[position] for position in positions]
            for store in stores:
                stored = store.read([image.digest for image in here]).astype(np.float32).reshape(len(here), -1)
                expected = fresh[store.fingerprint["cut"]].reshape(len(here), -1)
                norms = np.linalg.norm(expected, axis=1) + np.finfo(np.float32).tiny
                relative = np.linalg.norm(stored - expected, axis=1) / norms
                errors += [(store, image, float(error)) for image, error in zip(here, relative, strict=True)]
            advance(len(positions))
    return errors
