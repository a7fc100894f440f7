"""What class weights and --choose-by do for a rare class: python -m benchmarks.imbalance PHOTOS

PHOTOS is a folder of two class folders without splits. For each of five split seeds, the second class is cut to 100
random images. Heads are scored on the images of the test split together with the images that were cut away, so that the
rare class has some 900 of them. Balanced accuracy counts both classes alike.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import Example
from headstart.pipeline.evaluate.evaluate import evaluate
from headstart.pipeline.featured import FeaturedExamples, cache_features
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.finetune import finetune
from headstart.pipeline.head.config import ClassWeight, HeadConfig
from headstart.pipeline.head.head import fit_head
from headstart.pipeline.head.run import train_run
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.places import Places
from headstart.pipeline.scoring.choosing import ChooseBy
from headstart.pipeline.scoring.metrics import score
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.leaderboard import ranked
from headstart.pipeline.sweep.processes import search
from headstart.pipeline.sweep.space import CutChoice, Space, read_choices
from headstart.pipeline.sweep.study import Study
from headstart.pipeline.sweep.trials import SearchData
from optuna.trial import FixedTrial
from rich.console import Console
from rich.table import Table

KEPT, SEEDS = 100, 5
RARE = 1  # label of the class that is cut
WAYS: tuple[tuple[ClassWeight, ChooseBy], ...] = (
    ("none", "loss"),
    ("none", "balanced_accuracy"),
    ("none", "f1"),
    ("balanced", "loss"),
    ("balanced", "balanced_accuracy"),
)
Splits = tuple[list[Example], list[Example], list[Example]]


def imbalanced(cached: FeaturedExamples, seed: int) -> Splits:
    """The examples of train, val and test, with `KEPT` of the rare class. Those that are cut away are of test."""
    rare = [one for one in cached.examples if one.label == RARE]
    kept = {rare[row].image.path for row in np.random.default_rng(seed).permutation(len(rare))[:KEPT]}
    train, val, test = list[Example](), list[Example](), list[Example]()
    for one in cached.examples:
        cut = one.label == RARE and one.image.path not in kept
        (test if cut else {"train": train, "val": val, "test": test}[one.split]).append(one)
    return train, val, test


def trained_head(parts: list[LabelledFeatures], seed: int, config: HeadConfig) -> dict[str, float]:
    train, val, test = parts
    model = fit_head(train, val, config.for_examples(len(train)), seed).model
    return figures(score(model.predict(test.features, verbose=0, batch_size=1024), test.labels, ["0", "1"]))


def winner(
    parts: list[LabelledFeatures], cuts: CutChoice, seed: int, trials: int, way: tuple[ClassWeight, ChooseBy]
) -> HeadConfig:
    train, val, _ = parts
    both = LabelledFeatures(
        np.concatenate([train.features, val.features]), np.concatenate([train.labels, val.labels]), 2, train.columns
    )
    space = Space(read_choices(None, way[0]), cuts, way[1])
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder) / "study.db", space, "tpe", seed)
        study.enqueue_first(space.nearest_to(HeadConfig().for_examples(len(train))))
        search(study, SearchData(both, [(slice(0, len(train)), slice(len(train), None))]), SweepConfig(trials=trials))
        config, _ = space.suggest(FixedTrial(ranked(study.finished())[0].params))
    return config


def fine_tuned(
    splits: Splits, names: list[str], features: FeatureConfig, store: Path, seed: int, config: HeadConfig
) -> dict[str, float]:
    """Figures of a fine-tuned run, or of its head where no epoch is better."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "list.csv"
        with data.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "split"])
            for split, examples in zip(("train", "val", "test"), splits, strict=True):
                writer.writerows((Path(one.image.path).absolute(), names[one.label], split) for one in examples)
        run, reading = Path(folder) / "run", DataConfig(allow_outside=True)
        train_run(
            data, run, features, ExtractionConfig(store=store, max_rejects=1.0), config, seed=seed, reading=reading
        )
        finetune(run, FinetuneConfig(), seed=seed)
        result = evaluate(run, places=Places())
        return figures(result.finetuned or result.head)


def figures(metrics: dict[str, float]) -> dict[str, float]:
    """Balanced accuracy, and the recall of each class."""
    recalls: list[float] = [one["recall"] for one in metrics["per_class"].values()]  # type: ignore[attr-defined]
    return {"balanced accuracy": metrics["balanced_accuracy"], "rare": recalls[RARE], "other": recalls[1 - RARE]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--finetune", action="store_true")
    asked = parser.parse_args()
    start = time.perf_counter()
    found: dict[tuple[str, ClassWeight, ChooseBy], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store, features = asked.store or Path(folder), FeatureConfig(backbone=asked.backbone)
        for seed in range(SEEDS):
            cached = cache_features(asked.photos, features, ExtractionConfig(store=store, max_rejects=1.0), seed)
            splits = imbalanced(cached, seed)
            parts = [cached.labelled(examples) for examples in splits]
            for way in WAYS:
                config = HeadConfig(class_weight=way[0], choose_by=way[1])
                found.setdefault(("head", *way), []).append(trained_head(parts, seed, config))
                if asked.trials:
                    best = winner(parts, CutChoice.of(features), seed, asked.trials, way)
                    found.setdefault(("sweep", *way), []).append(trained_head(parts, seed, best))
                if asked.finetune:
                    tuned = fine_tuned(splits, cached.class_names, features, store, seed, config)
                    found.setdefault(("fine-tuned", *way), []).append(tuned)
    show(found, cached.class_names[RARE], asked.trials, time.perf_counter() - start)


def show(
    found: dict[tuple[str, ClassWeight, ChooseBy], list[dict[str, float]]], rare: str, trials: int, seconds: float
) -> None:
    title = f"{rare} cut to {KEPT}; means of {SEEDS} seeds, in brackets the lowest; sweep of {trials} trials"
    table = Table("", "--class-weight", "--choose-by", "balanced accuracy", f"recall of {rare}", "other", title=title)
    for (model, *way), rows in sorted(found.items(), key=lambda item: item[0][0]):
        cells = []
        for name in rows[0]:
            values = [row[name] for row in rows]
            cells.append(f"{np.mean(values):.4f} ({min(values):.4f})")
        table.add_row(model, *way, *cells)
    console = Console(width=140)
    console.print(table)
    console.print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main()
