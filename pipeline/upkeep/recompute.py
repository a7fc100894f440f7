"""Compare the features in a store with the features of a fresh forward pass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from headstart.features.backbones.backbone import OWN, Backbone
from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.outlines import is_own
from headstart.features.backbones.used import used_with
from headstart.features.backbones.weights import build_backbone
from headstart.features.backbones.zoo import Rescaling
from headstart.features.config import Precision, Tokens
from headstart.features.errors import OptionError, StoreError, WeightsError
from headstart.features.frozen.frozen import freeze
from headstart.features.frozen.int8 import find_quantised
from headstart.features.frozen.network import FORWARD_VERSION
from headstart.features.images.augment import Augment, View
from headstart.features.images.batches import decoded_batches
from headstart.features.images.pixels import PIXELS_VERSION, ImageConfig
from headstart.features.images.scan import ImageFile
from headstart.features.store.fingerprint import Fingerprint
from headstart.features.store.maintain import Damage
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console, progress
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import scan_all_sizes
from headstart.pipeline.data.tars.naming import kind_of
from headstart.pipeline.upkeep.config import VerifyConfig

# Errors are norm(stored - fresh) / norm(fresh). Rounding on another machine can cause errors up to these limits.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "int8": 5e-2}
_Error = tuple[FeatureStore, ImageFile, float]  # the relative error of an image's features in a store


@dataclass(frozen=True)
class Recomputation:
    """The result of comparing stored features with fresh ones."""

    images: int  # number of compared images
    largest_error: float  # norm(stored - fresh) / norm(fresh)
    bad: tuple[Damage, ...]  # shards with features that differ too much


def recompute(
    stores: Sequence[FeatureStore], data: Path, config: VerifyConfig, seed: int = 0, reading: DataConfig = DataConfig()
) -> Recomputation:
    """Compare stored features of images of `data` with the features of a fresh forward pass.

    The stores are divided into groups. The stores of a group differ only in the cut. For each group, the features of up
    to `config.recompute` images are compared, and `seed` decides which images. If `data` is a list of images, `reading`
    decides how the list is read. If some of the groups can't be compared, the reasons are printed on the console.

    Raises StoreError if no group can be compared. Raises DataError if `data` has no images.
    """
    found = scan_all_sizes(stores[0].folder.parent, data, config=reading.of_every_image(kind_of(data)))
    images = {example.image.digest: example.image for example in found.examples}
    left_out: list[str] = []
    errors: list[_Error] = []
    for group in _grouped_by_backbone(stores):
        held = {digest for store in group for digest in images.keys() - set(store.missing(list(images)))}
        chosen = np.random.default_rng(seed).permutation(sorted(held))[: config.recompute]
        if not len(chosen):
            left_out.append(f"{group[0].folder}: no features of the images in {data}")
            continue
        try:
            backbone = _backbone_of(group[0].fingerprint, _with_used(group[0], config))
            errors += _errors(group, backbone, [images[digest] for digest in chosen])
        except (WeightsError, OptionError) as error:
            left_out.append(f"{group[0].folder}: {error}")
    if not errors:
        reasons = "; ".join(left_out) or f"the images in {data} changed since they were scanned"
        raise StoreError(f"nothing could be recomputed: {reasons}")
    for reason in left_out:
        console.print(f"not recomputed: {reason}")
    bad = {
        shard: Damage(str(shard), f"features of {image.path} are off by {error:.2g} of their norm")
        for store, image, error in errors
        if not error <= _TOLERANCE[store.fingerprint.precision]  # true for NaN, too
        for shard in [store.shard_of(image.digest)]
    }
    compared = {image.digest for _, image, _ in errors}
    return Recomputation(len(compared), max(error for _, _, error in errors), tuple(bad.values()))


def _grouped_by_backbone(stores: Sequence[FeatureStore]) -> list[list[FeatureStore]]:
    """Group stores whose fingerprints differ only in the cut. One forward pass serves a whole group."""
    groups: dict[str, list[FeatureStore]] = {}
    for store in stores:
        groups.setdefault(replace(store.fingerprint, cut="", shape=()).key, []).append(store)
    return list(groups.values())


def _with_used(store: FeatureStore, config: VerifyConfig) -> VerifyConfig:
    """Return a copy of `config` in which the weights that made `store` replace the weights `imagenet`.

    If `config.weights` is not `imagenet`, or if the weights that made `store` are not on this machine, return `config`
    unchanged.
    """
    used = [one for one in used_with(store.root) if one.digest == store.fingerprint.weights and one.is_at_hand()]
    if config.weights != "imagenet" or not used:
        return config
    weights = used[-1].backbone if is_own(used[-1].backbone) else used[-1].weights
    return replace(config, weights=weights, weights_seed=used[-1].weights_seed)


def _backbone_of(fingerprint: Fingerprint, config: VerifyConfig) -> Backbone:
    """Rebuild the backbone that made the features of `fingerprint`.

    Raises WeightsError or OptionError if the rebuilt backbone would give features other than the stored features.
    """
    if (fingerprint.pixels_version, fingerprint.forward_version) != (PIXELS_VERSION, FORWARD_VERSION):
        raise OptionError("another version of headstart made its features, in another way; they can't be compared")
    precision = cast(Precision, fingerprint.precision)
    size, seed = fingerprint.image_size, config.weights_seed
    if fingerprint.backbone == OWN:
        if not is_own(config.weights):
            raise OptionError("its features are of a .keras file; say which with --weights FILE.keras")
        tokens = cast(Tokens, fingerprint.tokens or "mean")
        backbone = build_backbone(config.weights, "imagenet", "none", size, precision, tokens=tokens)
    else:
        backbone = build_backbone(fingerprint.backbone, config.weights, "auto", size, precision, seed)
    if backbone.weights_digest != fingerprint.weights:
        raise WeightsError(f"its features are of other weights than {config.weights}; say which with --weights")
    return replace(backbone, rescaling=Rescaling.from_json(fingerprint.rescale))


def _errors(stores: Sequence[FeatureStore], backbone: Backbone, images: Sequence[ImageFile]) -> list[_Error]:
    shared = stores[0].fingerprint
    by_cut = {Cut.parse(backbone.name, store.fingerprint.cut): store for store in stores}
    config = ImageConfig(shared.image_size, cast(Any, shared.resize), cast(Any, shared.truncated), shared.bits or "16")
    view = View(cast(Augment, shared.augment), shared.seed or 0, shared.view) if shared.view else None
    if shared.calibration is None:
        frozen = freeze(backbone, list(by_cut), engine=shared.engine)
    else:
        frozen = find_quantised(stores[0].folder.parent, backbone, shared.calibration)
    errors = []
    with progress("recomputing", len(images)) as advance:
        for positions, fresh in frozen.stream(decoded_batches(images, config, frozen.images_per_pass, view)):
            batch = [images[position] for position in positions]
            for cut, store in by_cut.items():
                errors += _errors_of_batch(store, batch, fresh[cut])
            advance(len(positions))
    return errors


def _errors_of_batch(store: FeatureStore, batch: Sequence[ImageFile], fresh: np.ndarray) -> list[_Error]:
    """Return the relative errors of stored features of the images `batch`, compared with the features `fresh`."""
    lacking = set(store.missing([image.digest for image in batch]))
    rows = [row for row, image in enumerate(batch) if image.digest not in lacking and image.is_unchanged_since_read()]
    flat = len(rows), math.prod(store.form.shape)
    stored = store.read([batch[row].digest for row in rows]).astype(np.float32).reshape(flat)
    expected = fresh[rows].reshape(flat)
    norms = np.linalg.norm(expected, axis=1) + np.finfo(np.float32).tiny
    relative = np.linalg.norm(stored - expected, axis=1) / norms
    return [(store, batch[row], float(error)) for row, error in zip(rows, relative, strict=True)]
