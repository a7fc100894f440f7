"""Phase 1 as a run: cached features in, a run folder with a trained head out."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.features.backbones.backbone import MAP, block_of, split_cuts
from headstart.features.config import FeatureConfig
from headstart.features.errors import OptionError
from headstart.features.terminal import console
from headstart.pipeline.data.copies import tell_conflicts
from headstart.pipeline.data.examples import require_trainable
from headstart.pipeline.featured import CachedExamples, ScanCheck, cache_features
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.head import TrainedHead, train_head
from headstart.pipeline.runs import Run, list_digests, new_run, versions


@dataclass(frozen=True)
class HeadResult:
    """What `train_run` did; `val` has `accuracy` and `loss` at the best epoch, which counts from 1."""

    run: str
    epochs: int
    best_epoch: int
    seconds: float
    val: dict[str, float]


def train_run(
    data: Path,
    path: Path,
    features: FeatureConfig,
    head: HeadConfig,
    overwrite: bool = False,
    seed: int = 0,
    check: ScanCheck | None = None,
    **origin: Any,
) -> HeadResult:
    """Train a head on the train split of `data` and write it to the run folder `path`.

    Features that the store lacks are extracted first.

    Args:
        check: as of `cache_features`.
        origin: what else `config.json` is to say.
        seed: of the head's weights, dropout and order, and of the split where `data` has no split folders.

    Raises:
        OptionError: a cut that is a map.
        DataError: `data` can't be trained on.
        RunError: `path` exists and `overwrite` is false, or it is not a run.
    """
    refuse_maps(features.cut)
    start = time.perf_counter()
    with new_run(path, overwrite) as run:
        cached = cache_features(data, features, seed, check)
        require_trainable(cached.examples, cached.class_names, data)
        if cached.rejects:
            console.print(f"{len(cached.rejects)} images rejected: {features.store}/rejects.csv says why")
        tell_conflicts([*cached.of("train"), *cached.of("val")], cached.class_names)
        train, val = (cached.arrays(cached.of(split)) for split in ("train", "val"))
        head = head.for_examples(len(train[1]))
        views = cached.view_arrays(cached.of("train"))
        trained = train_head(
            train, val, len(cached.class_names), head, seed, run.logs, views, cached.reduced, cached.widths
        )
        _write(run, data, seed, cached, head, trained)
        run.update(run.config_file, **origin)
    return HeadResult(str(path), head.epochs, trained.best_epoch, time.perf_counter() - start, trained.val)


def refuse_maps(cuts: Sequence[str]) -> None:
    """Make sure that a head can take features at `cuts`.

    Raises:
        OptionError: one is a map.
    """
    maps = [cut for cut in split_cuts(cuts) if cut.endswith(MAP)]
    if maps:
        averaged = block_of(maps[0])
        raise OptionError(f"--cut: a head takes features averaged over space, {averaged!r}. Received: {maps[0]!r}")


def _write(run: Run, data: Path, seed: int, cached: CachedExamples, head: HeadConfig, trained: TrainedHead) -> None:
    from headstart.pipeline.classifier import save_for_inference

    save_for_inference(trained.model, run.head_file)
    run.write_examples(cached.examples, cached.class_names)
    run.write_history({"phase": "head", "epoch": epoch, **row} for epoch, row in enumerate(trained.history, 1))
    settings: dict[str, Any] = asdict(cached.config)
    settings["store"] = str(cached.config.store.absolute())
    several = "+" in settings["backbone"]
    weights = settings["weights"].split("+") if several else [settings["weights"]]
    known = ("imagenet", "random")
    settings["weights"] = "+".join(name if name in known else str(Path(name).absolute()) for name in weights)
    run.update(
        run.metrics_file,
        head={"best_epoch": trained.best_epoch, "seconds": trained.seconds, "val": trained.val},
    )
    run.update(
        run.config_file,
        data=str(data.absolute()),
        seed=seed,
        class_names=cached.class_names,
        features=settings,
        head=asdict(head),
        weights_digest=cached.weights_digest(),
        fingerprints=cached.fingerprints(),
        examples=list_digests(cached.examples, cached.class_names),
        versions=versions(),
    )
