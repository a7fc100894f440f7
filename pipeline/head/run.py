"""`headstart head`: cached features in, a run folder with a trained head out."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from headstart.features.backbones.cuts import KNOWN_WEIGHTS, chosen_cuts, chosen_weights, require_averaged
from headstart.features.config import ExtractionConfig, FeatureConfig, configs_to_json
from headstart.features.terminal import console
from headstart.pipeline.classifier import save_for_inference
from headstart.pipeline.data.copies import tell_conflicts
from headstart.pipeline.data.examples import require_trainable
from headstart.pipeline.featured import FeaturedExamples, ScanCheck, cache_features
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.head import train_head
from headstart.pipeline.runs import Run, list_digests, new_run, require_free, versions


@dataclass(frozen=True)
class HeadResult:
    """The outcome of `headstart head`."""

    run: str
    epochs: int  # as many as were asked for
    best_epoch: int  # counts from 1
    seconds: float  # of extraction, training and writing together
    val: dict[str, float]  # `accuracy` and `loss` at the best epoch
    several_backbones: bool  # that the features are of

    def fields(self) -> dict[str, Any]:
        """The JSON object."""
        return {name: value for name, value in asdict(self).items() if name != "several_backbones"}

    def lines(self) -> list[str]:
        """The summary for a person."""
        return [
            f"val accuracy {self.val['accuracy']:.4f}, loss {self.val['loss']:.4f} "
            f"(best epoch {self.best_epoch} of {self.epochs}, {self.seconds:.1f} s)",
            f"the run is in {self.run}; next: {next_steps(self.run, self.several_backbones)}",
        ]


def next_steps(run: str, several_backbones: bool) -> str:
    """The commands that a new run is ready for. With features of several backbones it can't be fine-tuned."""
    evaluate = f"headstart evaluate {run}"
    return evaluate if several_backbones else f"headstart finetune {run}, or {evaluate}"


def train_run(
    data: Path,
    path: Path,
    features: FeatureConfig,
    extraction: ExtractionConfig,
    head: HeadConfig,
    overwrite: bool = False,
    seed: int = 0,
    require: ScanCheck | None = None,
    **origin: Any,
) -> HeadResult:
    """Train a head on the train split of `data` and write it to the run folder `path`.

    Features that the store lacks are extracted first. Raises OptionError for a cut that is a map, DataError where
    `data` can't be trained on, DivergedError where no loss was finite, and RunError where `require_free` does.

    Args:
        seed: of the head's weights, dropout and order, and of the split where `data` has no split folders.
        require: see `cache_features`.
        origin: further fields of `config.json`.
    """
    require_averaged(chosen_cuts(features))
    start = time.perf_counter()
    require_free(path, overwrite)
    cached = cache_features(data, features, extraction, seed, require)
    require_trainable(cached.examples, cached.class_names, data)
    if cached.rejects:
        console.print(f"{len(cached.rejects)} images rejected: {extraction.store}/rejects.csv says why")
    tell_conflicts([*cached.of("train"), *cached.of("val")], cached.class_names)
    train, val = cached.labelled(cached.of("train"), views=True), cached.labelled(cached.of("val"))
    head = head.for_examples(len(train))
    with new_run(path, overwrite) as run:
        trained = train_head(train, val, head, seed, run.logs)
        save_for_inference(trained.model, run.head_file)
        run.write_history({"phase": "head", "epoch": epoch, **row} for epoch, row in enumerate(trained.history, 1))
        metrics = {"best_epoch": trained.best_epoch, "seconds": trained.seconds, "val": trained.val}
        run.update(run.metrics_file, head=metrics)
        _write_settings(run, cached, head, data=str(data.absolute()), seed=seed, **origin)
    return HeadResult(
        run=str(path),
        epochs=head.epochs,
        best_epoch=trained.best_epoch,
        seconds=time.perf_counter() - start,
        val=trained.val,
        several_backbones=len(cached.parts) > 1,
    )


def _write_settings(run: Run, cached: FeaturedExamples, head: HeadConfig, **others: Any) -> None:
    """Write everything that is needed to make the same features and head again, with absolute paths."""
    run.write_examples(cached.examples, cached.class_names)
    weights = list(chosen_weights(cached.config).values())
    if cached.config.weights in weights:  # it serves every backbone
        weights = [cached.config.weights]
    files = [name if name in KNOWN_WEIGHTS else str(Path(name).absolute()) for name in weights]
    config = replace(cached.config, weights="+".join(files))
    extraction = replace(cached.extraction, store=cached.extraction.store.absolute())
    run.update(
        run.config_file,
        class_names=cached.class_names,
        features=configs_to_json(config, extraction),
        head=asdict(head),
        weights_digest=cached.weights_digest(),
        fingerprints=cached.fingerprints(),
        examples=list_digests(cached.examples, cached.class_names),
        versions=versions(),
        **others,
    )
