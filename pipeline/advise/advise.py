"""`headstart advise`: recommend a network and a cut, and say whether to fine-tune."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from headstart.features.backbones.cuts import chosen_backbones, chosen_cuts, require_averaged
from headstart.features.backbones.outlines import outline
from headstart.features.backbones.used import Used, used_with
from headstart.features.backbones.zoo import BACKBONES
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError, StoreError
from headstart.features.options import flags
from headstart.features.store.fingerprint import Fingerprint
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import progress
from headstart.pipeline.advise.candidates import Candidates, find_candidates, settings_of
from headstart.pipeline.advise.choice import choose
from headstart.pipeline.advise.config import AdviseConfig
from headstart.pipeline.advise.probe import Judged, gain_of_doubling, judge, make_folds
from headstart.pipeline.advise.prospect import expected_gain, prospect
from headstart.pipeline.advise.result import Advice, Candidate
from headstart.pipeline.advise.similarity import Similarity, can_compare, compare_with_imagenet
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import Scan
from headstart.pipeline.data.trainable import require_few_rejects, require_trainable
from headstart.pipeline.featured import scan_with_store
from headstart.pipeline.scoring.folds import Fold
from headstart.pipeline.scoring.metrics import wilson_interval
from headstart.pipeline.scoring.simple_models import SimpleModels

_DEFAULT = FeatureConfig()


def advise(
    data: Path,
    config: FeatureConfig,
    extraction: ExtractionConfig,
    asked: AdviseConfig = AdviseConfig(),
    seed: int = 0,
    reading: DataConfig = DataConfig(),
) -> Advice:
    """Recommend a network and a cut for `data`, and say whether fine-tuning is worthwhile.

    Two kinds of networks are judged: the networks to try, and the networks with features in the store. All of them are
    judged on train and val, never on test. Each network to try extracts the features of a sample of the images.

    Args:
        config: the settings of the networks to try. If `asked` names no network and the store has no features of the
            images, the backbone of `config` is tried.
        asked: the networks to try, and the size of the sample.
        seed: decides the sample, the folds and, if `data` has no split folders, the splits.

    Raises DataError if no head can be trained on `data`, or if `data` has too few images. Raises OptionError if
    `config` names several backbones, or a cut that is a map. For other errors, see `featured.cache_features`.
    """
    if len(chosen_backbones(config)) > 1:
        raise OptionError(f"--backbone {config.backbone}: networks are judged one by one; name each by --try")
    require_averaged(chosen_cuts(config))
    scanned = scan_with_store(data, seed, config, extraction, reading, labelled=True)
    require_few_rejects(scanned.rejects, len(scanned.examples) + len(scanned.rejects), extraction.max_rejects)
    require_trainable(scanned.examples, scanned.class_names, data, needs_val=False)
    found = find_candidates(scanned, config, extraction, asked, seed)
    if len(np.unique(found.examples.labels)) < len(scanned.class_names):
        raise DataError(
            f"{data}: a class has no images with features in all of {len(found.stores)} folders of {extraction.store}; "
            "run `headstart features` for each network, or raise --sample"
        )
    return _advice(data, scanned, found, extraction, seed)


def _advice(data: Path, scanned: Scan, found: Candidates, extraction: ExtractionConfig, seed: int) -> Advice:
    labels, classes = found.examples.labels.astype(np.int64), len(scanned.class_names)
    folds = make_folds(found.examples, data, seed)
    judged, similarity = _judged(found, labels, folds, classes)
    usual = [row for row, store in enumerate(found.stores) if _is_last(store.fingerprint)]
    choice, right = choose(judged, folds, usual, seed), [float(one.probe.mean()) for one in judged]
    store = found.stores[choice.row]
    train, val = scanned.examples.of_split("train"), len(scanned.examples.of_split("val"))
    gains = expected_gain(1 - right[choice.row], len(train), similarity, _too_deep(found.stores, right, choice.row))
    known = {one.digest: one for one in used_with(extraction.store)}
    scored = [_scored(one.fingerprint, each, known) for one, each in zip(found.stores, judged, strict=True)]
    guessing = SimpleModels.of(labels, scanned.class_names, None)
    better = guessing.is_beaten_by(scored[choice.row].linear_probe_interval)
    return Advice(
        data=str(data),
        images=len(labels),
        candidates=[scored[row] for row in choice.order],
        alike=len(choice.alike),
        by_default=choice.by_default,
        options=_options(store.fingerprint, extraction.store),
        confidence=choice.confidence if better else 0.0,
        guessing=guessing,
        gain_of_doubling=gain_of_doubling(_read(store, found), labels, folds, classes),
        prospect=prospect(store.fingerprint, extraction, train, val, classes, gains, better),
        similarity=similarity,
        notes=found.notes,
    )


def _judged(
    found: Candidates, labels: np.ndarray, folds: Sequence[Fold], classes: int
) -> tuple[list[Judged], Similarity | None]:
    """Return the judgements of all stores, and the similarity of the images to ImageNet's images.

    The similarity is None if it is unknown.
    """
    judged, similarity = list[Judged](), None
    with progress("judging features", len(found.stores), "cuts") as advance:
        for store in found.stores:
            features = _read(store, found)
            judged.append(judge(features, labels, folds, classes))
            if similarity is None and can_compare(store):
                similarity = compare_with_imagenet(features)
            advance(1)
    return judged, similarity


def _read(store: FeatureStore, found: Candidates) -> np.ndarray:
    """Return the features of the images in `found`, float32 [N, D]. `store` holds the features."""
    return store.read(found.examples.digests).astype(np.float32, copy=False)


def _too_deep(stores: Sequence[FeatureStore], right: Sequence[float], chosen: int) -> float:
    """Return the accuracy at the best cut minus the accuracy at the deepest cut.

    Both cuts are cuts of the network whose features are in `stores[chosen]`.
    """
    weights = stores[chosen].fingerprint.weights
    same = [row for row, store in enumerate(stores) if store.fingerprint.weights == weights]
    return max(right[row] for row in same) - right[max(same, key=lambda row: _depth(stores[row].fingerprint))]


def _depth(fingerprint: Fingerprint) -> int:
    """Return a number that grows with the depth of the cut. Numbers of different networks can't be compared."""
    blocks = list(outline(fingerprint.backbone).cuts) if fingerprint.backbone in BACKBONES else []
    return blocks.index(fingerprint.cut) if fingerprint.cut in blocks else fingerprint.shape[0]


def _is_last(fingerprint: Fingerprint) -> bool:
    """Return whether the backbone of `fingerprint` is in `BACKBONES`, and the cut is the default: the last cut."""
    return fingerprint.backbone in BACKBONES and fingerprint.cut == list(outline(fingerprint.backbone).cuts)[-1]


def _scored(fingerprint: Fingerprint, judged: Judged, known: dict[str, Used]) -> Candidate:
    probe, knn = int(judged.probe.sum()), int(judged.knn.sum())
    count = len(judged.probe)
    return Candidate(
        backbone=_name(fingerprint, known),
        cut=fingerprint.cut,
        fingerprint=fingerprint.key,
        linear_probe=probe / count,
        linear_probe_interval=wilson_interval(probe, count),
        knn=knn / count,
        knn_interval=wilson_interval(knn, count),
        loss=judged.loss,
        logme=judged.logme,
    )


def _name(fingerprint: Fingerprint, known: dict[str, Used]) -> str:
    """Return the value of `--backbone` for `fingerprint`'s network. `known` maps digests of weights to backbones."""
    return known[fingerprint.weights].backbone if fingerprint.weights in known else fingerprint.backbone


def _options(fingerprint: Fingerprint, store: Path) -> str:
    """Return the command-line options that give the features of `fingerprint`.

    If `store` has no record of the network's weights, only the store, the backbone and the cut are named.
    """
    try:
        config = settings_of(fingerprint, store)
        known = [f"--backbone={config.backbone}", *flags(replace(config, backbone=_DEFAULT.backbone, cut=_DEFAULT.cut))]
    except StoreError:
        known = [f"--backbone={fingerprint.backbone}"]
    return shlex.join([f"--store={store}", *known, f"--cut={fingerprint.cut}"])
