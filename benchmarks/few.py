"""Accuracy of the default head by the number of photographs: python -m benchmarks.few PHOTOS [--backbone NAME]

PHOTOS is a folder of two class folders. For each number, five draws: as many photographs of each class in train, 100
others in val, the rest in test. Beside it, scikit-learn's logistic regression on the same standardised features. Then
the default split with five seeds, with val and test scored together.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.pipeline.featured import cache_features
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.head import fit_head
from headstart.pipeline.labelled import LabelledFeatures
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NUMBERS, DRAWS, VAL = (10, 20, 50, 100, 200, 500, 1000), 5, 100


def scores(train: LabelledFeatures, val: LabelledFeatures, test: LabelledFeatures, seed: int) -> tuple[float, float]:
    """Accuracies on test of the default head, and of logistic regression."""
    model: keras.Model = fit_head(train, val, HeadConfig().for_examples(len(train)), seed).model
    head = (model.predict(test.features, verbose=0, batch_size=1024)[:, 0] > 0) == test.labels
    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(train.features, train.labels)
    return float(head.mean()), plain.score(test.features, test.labels)


def drawn(whole: LabelledFeatures, number: int, draw: int) -> tuple[float, float]:
    rng = np.random.default_rng([number, draw])
    classes = [rng.permutation(np.flatnonzero(whole.labels == label)) for label in (0, 1)]
    each, held = number // 2, VAL // 2
    parts = [np.concatenate([rows[part] for rows in classes]) for part in (
        slice(each), slice(each, each + held), slice(each + held, None)
    )]  # fmt: skip
    return scores(*(whole.take(rng.permutation(rows)) for rows in parts), draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    asked = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        settings = FeatureConfig(backbone=asked.backbone), ExtractionConfig(store=Path(folder), max_rejects=1.0)
        cached = cache_features(asked.photos, *settings)
        whole = cached.labelled(cached.examples)
        for number in NUMBERS:
            head, plain = np.mean([drawn(whole, number, draw) for draw in range(DRAWS)], axis=0)
            console.print(f"{number} photographs: {head:.4f}; logistic regression {plain:.4f}")
        found = []
        for seed in range(5):
            cached = cache_features(asked.photos, *settings, seed)
            splits = [cached.labelled(cached.of(split)) for split in ("train", "val")]
            found.append(scores(*splits, cached.labelled([*cached.of("val"), *cached.of("test")]), seed))
        head, plain = np.mean(found, axis=0)
        console.print(f"default split, five seeds, val and test: {head:.4f}; logistic regression {plain:.4f}")


if __name__ == "__main__":
    main()
