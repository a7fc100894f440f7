"""Find the candidates of `headstart advise`. A candidate is a network at one cut, with a store of its features."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.backbones.cuts import Cut, chosen_backbones, chosen_cuts, require_averaged, restricted
from headstart.features.backbones.outlines import default_resize, is_own, outline
from headstart.features.backbones.used import used_with
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.digests import HexDigests
from headstart.features.errors import OptionError, StoreError
from headstart.features.frozen.network import Network, load_network
from headstart.features.store.fingerprint import Fingerprint
from headstart.features.store.maintain import open_stores
from headstart.features.store.store import FeatureStore
from headstart.pipeline.advise.config import AdviseConfig
from headstart.pipeline.data.examples import Examples, Scan
from headstart.pipeline.data.trainable import require_few_rejects
from headstart.pipeline.extracting import extract_all
from headstart.pipeline.featured import networks_for
from headstart.pipeline.memory.limits import rows_in_memory

_MOST_CUTS = 5  # of a network that is tried
_COPIES = 6  # of the features, of 4 bytes each, while LogME is computed
_OF_EACH = 10  # the least number of images per class in a sample, on average
_FEWEST = 3  # the least number of images per class in a sample that memory limits, on average


@dataclass(frozen=True)
class Candidates:
    """The stores of all candidates, and the examples on which the candidates are judged.

    Each store has features of every example.
    """

    stores: list[FeatureStore]
    examples: Examples  # of train and val
    notes: list[str]  # a line for each store with features of too few images, and for options without effect


def find_candidates(
    scanned: Scan, config: FeatureConfig, extraction: ExtractionConfig, advise: AdviseConfig, seed: int
) -> Candidates:
    """Find the candidates, and draw a sample of the train and val images in `scanned`.

    The candidates are the existing stores that can be judged (see `_stored`), and the networks that `--try` names. If
    there are neither, the candidates are the networks that `--backbone` names. With each network, the features of the
    sample are extracted into a store.

    The sample holds only images that have features in all stores, and no more than memory has room for. Raises
    DataError if too many images can't be used, and OptionError if memory has room for too few images. For other
    errors, see `featured.cache_features`.
    """
    examples = _sample(scanned.examples[~scanned.examples.splits.is_("test")], advise.sample, seed)
    stores, notes = _stored(examples, extraction)
    tried = advise.tried or (() if stores else tuple(chosen_backbones(config)))
    if config.cut and not {_named(name) for name in tried}.intersection(chosen_backbones(config)):
        notes.append(f"--cut has no effect, for {config.backbone} is not tried; --try {config.backbone} judges the cut")
    if tried:
        examples, more = _extracted(replace(scanned, examples=examples), tried, config, extraction)
        stores += [store for store in more if store.key not in [known.key for known in stores]]
    lacking = np.zeros(len(examples), bool)
    for store in stores:
        lacking |= store.lacking(examples.digests)
    examples = examples[~lacking]
    widest = max((store.form.shape[0] for store in stores), default=1)
    if (most := max(1, rows_in_memory(_COPIES * widest, extraction.memory))) < len(examples):
        if (of_each := most // len(np.unique(examples.labels))) < _FEWEST:
            raise OptionError(f"--memory: holds the features of {most} images, too few to judge on; raise it")
        sample = _sample(examples, most, seed, min(_OF_EACH, of_each))
        notes.append(f"judged on {len(sample):,} of {len(examples):,} images, for memory holds no more; raise --memory")
        examples = sample
    return Candidates(stores, examples, notes)


def _sample(examples: Examples, count: int, seed: int, of_each: int = _OF_EACH) -> Examples:
    """Return a stratified random sample of `count` examples. If `count` is 0, return all `examples`.

    If there are many classes, the sample is larger than `count`: `of_each` examples per class on average.
    """
    labels = examples.labels
    if not count or (count := max(count, of_each * len(np.unique(labels)))) >= len(examples):
        return examples
    order = np.random.default_rng(seed).permutation(len(examples))
    place = np.empty(len(examples))  # the position of an example within its class, from 0 to 1
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
        place[rows[:of_each]] = 0  # a rare class is in the sample, too
    return examples[np.sort(np.argsort(place, kind="stable")[:count])]


def _stored(examples: Examples, extraction: ExtractionConfig) -> tuple[list[FeatureStore], list[str]]:
    """Return the stores with features of enough `examples`, and a note on each store with too few."""
    if not any(extraction.store.glob("*/fingerprint.json")):
        return [], []
    digests = set(HexDigests(examples.digests))
    stores, left_out = [], []
    for store in open_stores(extraction.store):
        if len(store.fingerprint.shape) > 1 or store.fingerprint.view:
            continue
        present = len(digests) - len(store.missing(digests))
        if present >= (1 - min(extraction.max_rejects, 0.5)) * len(digests):
            stores.append(store)
        elif present:
            left_out.append(f"{store.folder.name} has features of {present} of {len(digests)} images, and is left out")
    return stores, left_out


def _extracted(
    scanned: Scan, tried: Sequence[str], config: FeatureConfig, extraction: ExtractionConfig
) -> tuple[Examples, list[FeatureStore]]:
    """Extract the features of some networks. Return the examples that could be decoded, and the stores.

    `tried` holds the names of the networks.
    """
    configs = [_of_one(name, replace(config, views=0)) for name in dict.fromkeys(tried)]
    networks = [network for one in configs for network in networks_for(scanned, one, extraction)]
    found, _, stores, _ = extract_all(scanned, networks)
    require_few_rejects(found.rejects, len(scanned.examples) + len(scanned.rejects), extraction.max_rejects)
    return found.examples, list(stores.values())


def _named(network: str) -> str:
    """Return the name of the backbone for `network`, a value of `--try`.

    Raises OptionError if `network` is not a known backbone, or stands for several backbones.
    """
    (name, *others) = chosen_backbones(FeatureConfig(backbone=network))
    if others:
        raise OptionError(f"--try: names one network; repeat it for more. Received: {network}")
    return name


def _of_one(name: str, config: FeatureConfig) -> FeatureConfig:
    """Return the settings for extracting the features of the network `name` alone, at the cuts to try."""
    plain = replace(config, backbone=name, weights="imagenet", rescale="auto", tokens="mean", cut=())
    name = _named(name)
    if name not in chosen_backbones(config):
        return replace(plain, cut=tuple(cut.name for cut in _cuts(name)))
    given = [cut for cut in chosen_cuts(config) if cut.backbone == name] if config.cut else []
    require_averaged(given)
    return restricted(config, given or _cuts(name))


def _cuts(backbone: str) -> list[Cut]:
    """Return the cuts to try: at most five cuts of `backbone`, spread evenly from its middle to its last block."""
    blocks = list(outline(backbone).cuts)
    places = np.linspace(len(blocks) // 2, len(blocks) - 1, _MOST_CUTS)
    return [Cut(backbone, blocks[place]) for place in sorted({int(place) for place in np.rint(places)})]


def settings_of(fingerprint: Fingerprint, store: Path) -> FeatureConfig:
    """Return the settings that made the features of `fingerprint`.

    Raises StoreError if `store` has no record of the network's weights.
    """
    known = next((one for one in reversed(used_with(store)) if one.digest == fingerprint.weights), None)
    if known is None:
        raise StoreError(f"{store}: does not know the weights of {fingerprint.folder_name}")
    own = is_own(known.backbone)
    usual = not own and fingerprint.image_size == outline(known.backbone).image_size
    settings: dict[str, Any] = {
        "backbone": known.backbone,
        "weights": "imagenet" if own else known.weights,
        "weights_seed": known.weights_seed,
        "rescale": known.rescale,
        "tokens": fingerprint.tokens or "mean",
        "cut": (fingerprint.cut,),
        "precision": fingerprint.precision,
        "image_size": 0 if usual else fingerprint.image_size,
        "truncated": fingerprint.truncated,
        "resize": "auto" if fingerprint.resize == default_resize(known.backbone) else fingerprint.resize,
        "bits": fingerprint.bits or "auto",
    }
    return FeatureConfig(**settings)


def network_of(fingerprint: Fingerprint, extraction: ExtractionConfig) -> Network:
    """Load the network that made the features of `fingerprint`. An int8 network is loaded in float32.

    Raises StoreError if the store has no record of the network's weights, or if the weights have changed since the
    features were made. Raises WeightsError if the weights are missing.
    """
    config = settings_of(fingerprint, extraction.store)
    network = load_network(replace(config, precision="float32") if config.precision == "int8" else config, extraction)
    if network.backbone.weights_digest != fingerprint.weights:
        raise StoreError(f"{config.weights}: holds other weights than those of {fingerprint.folder_name}")
    return network
