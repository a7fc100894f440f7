"""How often the intervals of `headstart study` hold: python -m benchmarks.study [--photos PHOTOS] [--draws 20]

First on images whose learning curve is known (`known_law.py`): 600 in train, 1,000 in val. Then, with --photos, on a
folder of two class folders of 1,000 photographs each, with features of EfficientNet-Lite0 at two cuts: a study of 400
photographs with 200 in val forecasts the accuracy with 1,600, which is then measured on val alone, and on val and the
200 others.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from headstart.benchmarks.known_law import draw_images, true_accuracy
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.pipeline.featured import cache_features
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.study.config import StudyConfig
from headstart.pipeline.study.curve import measure_curve
from headstart.pipeline.study.forecast import Estimate
from headstart.pipeline.study.result import StudyResult
from headstart.pipeline.study.study import study_features
from rich.console import Console

FEW, ALL, VAL = 400, 1600, 200
NAMES = ["one", "other"]


def study_of(train: LabelledFeatures, val: LabelledFeatures, seed: int, more: int) -> StudyResult:
    return study_features(train, val, list(map(str, range(len(train)))), NAMES, StudyConfig(more=more), seed)


def holds(found: Estimate, truth: float) -> bool:
    return found.low <= truth <= found.high


def known(seed: int) -> list[bool]:
    """Whether the study is right about 1,200 and 2,400 images, and about the gain from 1,000 more."""
    draw = np.random.default_rng(seed)
    result = study_of(draw_images(600, draw), draw_images(1000, draw), seed, 1000)
    expected = {size.images: size.figure for size in result.forecast}
    gained = true_accuracy(1600) - true_accuracy(600)
    right = [holds(expected[images], true_accuracy(images)) for images in (1200, 2400)]
    return [*right, holds(result.gain, gained)]


def photographs(whole: LabelledFeatures, draws: int) -> Iterator[tuple[float, ...]]:
    """For each draw, whether each measured accuracy is held, the expected one, the width, and the measured ones."""
    for seed in range(draws):
        rows = np.random.default_rng(seed).permutation(len(whole))
        train, val, others = (whole.take(part) for part in np.split(rows, [ALL, ALL + VAL]))
        result = study_of(train.take(slice(FEW)), val, seed, ALL - FEW)
        found = next(size.figure for size in result.forecast if size.images == ALL)
        scored = [
            1 - measure_curve(train, part, range(ALL), [ALL], 1, "accuracy", seed).errors[0, 0]
            for part in (val, others)
        ]
        both = (scored[0] * len(val) + scored[1] * len(others)) / (len(val) + len(others))
        measured = scored[0], both
        yield *(holds(found, one) for one in measured), found.value, found.high - found.low, *measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--store", type=Path, help="of features that are there already")
    parser.add_argument("--draws", type=int, default=20)
    asked = parser.parse_args()
    console = Console()
    held = np.sum([known(seed) for seed in range(asked.draws)], axis=0)
    console.print(f"known law, {asked.draws} draws: held at 1,200, at 2,400, gain of 1,000 more: {held}")
    with tempfile.TemporaryDirectory() as folder:
        for cut in ("top_act", "b10_add") if asked.photos else ():
            settings = FeatureConfig(backbone="efficientnet_lite0", cut=(cut,))
            cached = cache_features(asked.photos, settings, ExtractionConfig(store=asked.store or Path(folder)))
            found = np.array(list(photographs(cached.labelled(cached.examples), asked.draws)))
            on_val, on_all = (
                f"{found[:, at].sum():.0f} ({found[:10, at].sum():.0f} of the first ten)" for at in (0, 1)
            )
            expected, width, *measured = (f"{mean:.4f}" for mean in found[:, 2:].mean(axis=0))
            console.print(f"{cut}, {len(found)} draws: held on val {on_val}, on val and the others {on_all}")
            console.print(
                f"means: expected {expected}, width of the interval {width}, measured {' and '.join(measured)}"
            )


if __name__ == "__main__":
    main()
