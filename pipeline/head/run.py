"""`headstart head`: train a head on cached features, and write it to a run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.features.backbones.cuts import (
    KNOWN_WEIGHTS,
    chosen_backbones,
    chosen_cuts,
    chosen_weights,
    require_averaged,
)
from headstart.features.config import ExtractionConfig, FeatureConfig, configs_to_json
from headstart.features.frozen.network import Network, weights_digest
from headstart.features.terminal import console, progress
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.copies import tell_conflicts, unit_names
from headstart.pipeline.data.examples import Example, Scan
from headstart.pipeline.data.trainable import require_trainable
from headstart.pipeline.featured import FeaturedExamples, ScanCheck, cache_features
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.rare import tell_rare
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.memory.limits import rows_in_memory
from headstart.pipeline.runs import Run, example_digests, new_run, require_free, versions, write_calibration
from headstart.pipeline.scoring.calibration import calibrate
from headstart.pipeline.scoring.choosing import ChooseBy, as_json, titled
from headstart.pipeline.scoring.folds import stratified
from headstart.pipeline.scoring.metrics import interval_text, wilson_interval
from headstart.pipeline.scoring.simple_models import SimpleModels, score_simple_models
from headstart.pipeline.scoring.unlike import Reference, reference_rows

if TYPE_CHECKING:
    from headstart.pipeline.head.head import TrainedHead

_COPIES = 8  # of the logits, of 4 bytes each, while a head is calibrated
_FEW_TO_CALIBRATE = 50  # images of val


@dataclass(frozen=True)
class HeadResult:
    """A trained head: its run folder, its best epoch and its figures on val."""

    run: str
    epochs: int  # the requested number; training may end earlier
    best_epoch: int  # counts from 1
    seconds: float  # of extraction, training and writing together
    val: dict[str, float]  # `accuracy`, `loss` and the figure `choose_by` at the best epoch
    choose_by: ChooseBy = "loss"
    val_images: int = 0
    simple: SimpleModels | None = None  # on val; None without val

    @property
    def interval(self) -> list[float]:
        """Return the two ends of the 95 % confidence interval of the accuracy on val."""
        return list(wilson_interval(round(self.val["accuracy"] * self.val_images), self.val_images))

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "simple"}
        found = {**own, "val": as_json(self.val)}
        if self.simple is None:
            return found
        better = {"better_than_largest_class": self.simple.is_beaten_by(self.interval)}
        return {**found, "accuracy_interval": self.interval, **better, **self.simple.fields()}

    def lines(self) -> Iterator[str]:
        """Yield the summary that is printed without `--json`."""
        other = f", {titled(self.choose_by)} {self.val[self.choose_by]:.4f}" if len(self.val) > 2 else ""
        yield (
            f"val accuracy {self.val['accuracy']:.4f}, loss {self.val['loss']:.4f}{other} "
            f"(best epoch {self.best_epoch} of {self.epochs}, {self.seconds:.1f} s in all)"
        )
        if self.simple:
            yield f"on {self.val_images} images of val: 95 % interval {interval_text(self.interval)}; {self.simple}"
            yield from self.simple.verdict("head", self.interval)
        if 0 < self.val_images < _FEW_TO_CALIBRATE:
            yield f"val has {self.val_images} images, so the calibration is rough; {_FEW_TO_CALIBRATE} would do"
        yield f"the run is in {self.run}; next: {next_steps(self.run)}"


def next_steps(run: str) -> str:
    """Return text that names the next commands for the run at the path `run`.

    `headstart finetune` is among them only if the run has one backbone.
    """
    evaluate = f"headstart evaluate {run}"
    several = len(chosen_backbones(Run(Path(run)).feature_config())) > 1
    return evaluate if several else f"headstart finetune {run}, or {evaluate}"


def train_run(
    data: Path,
    path: Path,
    features: FeatureConfig,
    extraction: ExtractionConfig,
    head: HeadConfig,
    overwrite: bool = False,
    seed: int = 0,
    require: ScanCheck | None = None,
    reading: DataConfig = DataConfig(),
    folded: dict[str, float] | None = None,
    **origin: Any,
) -> HeadResult:
    """Extract features that the store lacks, train a head on the train split of `data`, and write it to `path`.

    Args:
        seed: decides the initial weights, dropout, the order of examples, and the split if `data` has no split folders.
        require, reading: see `cache_features`.
        folded: figures from cross-validation of heads with the same settings as `head`, under the names that
            `val_figures` uses. If `data` has no val split, `folded` must be given, and is reported as the figures on
            val. In this case, the best epoch is chosen on train.
        origin: additional fields for the run's `config.json`.

    Raises OptionError for a cut that is a map, or if the user's own head fails. Raises DataError if `data` can't be
    trained on, and DivergedError if no epoch has a finite loss on val. Raises RunError if something at `path` must not
    be replaced; see `require_free`.
    """
    require_averaged(chosen_cuts(features))
    start = time.perf_counter()
    require_free(path, overwrite)
    if head.own:
        head.own.require_code()

    def check(scanned: Scan, networks: list[Network]) -> None:
        require_trainable(scanned.examples, scanned.class_names, data, needs_val=folded is None)
        if require:
            require(scanned, networks)
        if head.own:  # an error in the user's code is raised early
            width = sum(network.backbone.shape(cut)[-1] for network in networks for cut in network.cuts)
            head.own.build(width, len(scanned.class_names))

    cached = cache_features(data, features, extraction, seed, check, reading)
    require_trainable(cached.examples, cached.class_names, data, needs_val=folded is None)
    if cached.rejects:
        console.print(f"{len(cached.rejects)} images rejected: {extraction.store}/rejects.csv says why")
    tell_conflicts([*cached.of("train"), *cached.of("val")], cached.class_names)
    tell_rare(cached.of("train"), cached.class_names, head)
    result = train_cached(cached, data, path, head, overwrite, seed, folded, **origin)
    return replace(result, seconds=time.perf_counter() - start)


def train_cached(
    cached: FeaturedExamples,
    data: Path,
    path: Path,
    head: HeadConfig,
    overwrite: bool = False,
    seed: int = 0,
    folded: dict[str, float] | None = None,
    **origin: Any,
) -> HeadResult:
    """Train a head on the examples of `cached`, whose features are in a store.

    For arguments and errors, see `train_run`.
    """
    start = time.perf_counter()
    of_train, of_val = cached.of("train"), cached.of("val")
    head = head.for_examples(len(of_train))
    both = cached.labelled([*of_train, *of_val], viewed=of_train)
    train = both.take(slice(len(of_train)))
    val = both.take(slice(len(of_train), None)) if of_val else None
    with new_run(path, overwrite) as run:
        trained = _fit(run, train, val, head, seed, folded, cached.extraction.memory)
        _write(run, cached, head, trained, data=str(data.absolute()), seed=seed, **origin)
    return HeadResult(
        run=str(path),
        epochs=head.epochs,
        best_epoch=trained.best_epoch,
        seconds=time.perf_counter() - start,
        val=trained.val,
        choose_by=head.choose_by,
        val_images=len(of_val),
        simple=_simple_models(of_train, train, val, cached.class_names) if val else None,
    )


def _simple_models(
    examples: Sequence[Example], train: LabelledFeatures, val: LabelledFeatures, class_names: Sequence[str]
) -> SimpleModels:
    """Score two simple models on `val`.

    One model always predicts the largest class, and the other model is logistic regression fitted to `train`.
    """
    trained = train.labels, unit_names(examples)
    return score_simple_models(trained, lambda rows: train.features[rows], val.features, val.labels, class_names)


def _fit(
    run: Run,
    train: LabelledFeatures,
    val: LabelledFeatures | None,
    head: HeadConfig,
    seed: int,
    folded: dict[str, float] | None,
    memory: float,
) -> TrainedHead:
    """Train the head. Without `val`, the best epoch is chosen on `train`, and no calibration is written."""
    from headstart.pipeline.head.head import TrainedHead, fit_head
    from headstart.pipeline.head.loop import logits_of, writing_curves

    # Without `val`, the figures of cross-validation are reported as those on val.
    figures = {} if val or not folded else {f"val_{name}": value for name, value in folded.items()}
    with (
        progress("training the head", head.epochs * len(train), "examples") as advance,
        writing_curves(run.logs / "head", head.learning_rate) as write,
    ):
        trained = fit_head(train, val or train, head, seed, advance, lambda at, row: write(at, {**row, **figures}))
    if val:
        reference = Reference.of(train.features[reference_rows(train.labels, train.features.shape[1])])
        distance = reference.usual_distance(val.features)
        some = _calibrating(val, memory)
        write_calibration(run, "head", calibrate(logits_of(trained.model, some), some.labels, distance), reference)
    history = [{**row, **figures} for row in trained.history]
    return TrainedHead(trained.model, history, trained.best_epoch, trained.seconds)


def _calibrating(val: LabelledFeatures, memory: float) -> LabelledFeatures:
    """Return the examples of `val` that calibrate a head: all, or a sample if memory can't hold the logits of all."""
    most = rows_in_memory(_COPIES * val.classes, memory)
    if len(val) <= most:
        return val
    console.print(f"the head is calibrated on {most:,} of {len(val):,} images of val, for memory holds no more logits")
    return val.take(stratified(val.labels, most))


def _write(run: Run, cached: FeaturedExamples, head: HeadConfig, trained: TrainedHead, **others: Any) -> None:
    """Write the head, its history and metrics, and all settings that are needed to train the head again."""
    from headstart.pipeline.classifier import save_for_inference

    save_for_inference(trained.model, run.head_file)
    run.write_history({"phase": "head", "epoch": epoch, **row} for epoch, row in enumerate(trained.history, 1))
    metrics = {"best_epoch": trained.best_epoch, "seconds": trained.seconds, "val": as_json(trained.val)}
    run.update(run.metrics_file, head=metrics)
    run.write_examples(cached.examples, cached.class_names)
    weights = list(chosen_weights(cached.config).values())
    if cached.config.weights in weights:  # one setting for all backbones
        weights = [cached.config.weights]
    files = [name if name in KNOWN_WEIGHTS else str(Path(name).absolute()) for name in weights]
    config = replace(cached.config, weights="+".join(files))
    extraction = replace(cached.extraction, store=cached.extraction.store.absolute())
    run.write_config(
        class_names=cached.class_names,
        features=configs_to_json(config, extraction),
        head=head.settings(),
        weights_digest=weights_digest(cached.networks),
        fingerprints=cached.fingerprints(),
        reading=asdict(cached.read_as),
        examples=example_digests(cached.examples, cached.class_names),
        versions=versions(),
        **others,
    )
