"""`headstart advise`, checked by doing: python -m benchmarks.advice PHOTOS FOLDER INCEPTION

PHOTOS is a folder of two class folders. Five tasks are made in FOLDER: photographs; the demo's drawings; the
photographs in grey and blurred; chirps, as in a spectrogram; and counts of drawn shapes. For each, `advise` judges two
networks at five cuts. A head is then trained on each, and EfficientNet-Lite0 is fine-tuned from its best cut. All of
them are scored on the test split, which `advise` never sees.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.pipeline.advise.advise import advise
from headstart.pipeline.demo.drawing import draw_demo
from headstart.pipeline.evaluate.evaluate import evaluate
from headstart.pipeline.featured import cache_features
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.finetune import finetune
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.head import fit_head
from headstart.pipeline.head.run import train_run
from headstart.pipeline.scoring.baselines import logistic_regression
from headstart.pipeline.scoring.metrics import accuracy
from PIL import Image, ImageDraw, ImageFilter
from rich.console import Console
from rich.table import Table

SPLITS = {"train": 200, "val": 60, "test": 240}
Pictures = Iterator[tuple[str, Image.Image]]  # class and picture


def photographs(photos: Path, change: Callable[[Image.Image], Image.Image]) -> Pictures:
    """The photographs of each class in turn, in an order that the seed of the numbers decides."""
    folders = sorted(path for path in photos.iterdir() if path.is_dir())
    files = [np.random.default_rng(0).permutation(sorted(folder.glob("*.jpg"))) for folder in folders]
    for pair in zip(*files, strict=False):
        for folder, file in zip(folders, pair, strict=True):
            with Image.open(file) as image:
                yield folder.name, change(image.convert("RGB"))


def blurred(image: Image.Image) -> Image.Image:
    return image.convert("L").resize((224, 224)).filter(ImageFilter.GaussianBlur(4))


def drawn(folder: Path, count: int) -> Pictures:
    draw_demo(folder, count)
    for number in range(count):
        name = ("cat", "dog")[number % 2]
        with Image.open(folder / name / f"{name}.{number // 2}.jpg") as image:
            yield name, image.copy()


def chirps(seed: int) -> Pictures:
    """Three classes: a band that rises, one that falls, and one that does both, in noise."""
    rng = np.random.default_rng(seed)
    time, pitch = np.meshgrid(np.linspace(0, 1, 160), np.linspace(0, 1, 160))
    while True:
        for name in ("both", "falls", "rises"):
            power = rng.gamma(1.0, 0.35, time.shape)
            for _ in range(3):
                start, bend, width = rng.uniform(0.2, 0.8), rng.uniform(0.15, 0.45), rng.uniform(0.01, 0.03)
                course = np.abs(time - 0.5) * 2 - 0.5 if name == "both" else time - 0.5
                sign = {"rises": 1, "falls": -1, "both": rng.choice([-1, 1])}[name]
                power += rng.uniform(0.5, 1.0) * np.exp(-(((pitch - start - sign * bend * course) / width) ** 2))
            yield name, Image.fromarray((255 * np.clip(power / 2.5, 0, 1)).astype(np.uint8))


def counts(seed: int) -> Pictures:
    """Four classes: two to five shapes, each of its own form, size and colour."""
    rng = np.random.default_rng(seed)
    while True:
        for number in range(2, 6):
            image = Image.new("RGB", (192, 192), tuple(rng.integers(150, 256, 3).tolist()))
            draw = ImageDraw.Draw(image)
            for place in rng.choice(16, number, replace=False).tolist():
                x, y, size = (
                    *(48 * np.array(divmod(place, 4)) + rng.integers(4, 12, 2)).tolist(),
                    int(rng.integers(14, 34)),
                )
                colour = tuple(rng.integers(0, 140, 3).tolist())
                (draw.ellipse, draw.rectangle)[rng.integers(2)]((x, y, x + size, y + size), colour)
            yield f"shapes{number}", image


def make_task(pictures: Pictures, folder: Path) -> Path:
    """Write pictures into `folder/{train,val,test}/<class>/`, unless the folder is there."""
    if not folder.exists():
        for split, count in SPLITS.items():
            for number in range(count):
                name, picture = next(pictures)
                (folder / split / name).mkdir(parents=True, exist_ok=True)
                picture.save(folder / split / name / f"{number}.png")
    return folder


def make_tasks(photos: Path, folder: Path) -> dict[str, Path]:
    count = sum(SPLITS.values())
    made = {
        "photographs": photographs(photos, lambda image: image),
        "drawings": drawn(folder / "demo", count),
        "grey and blurred": photographs(photos, blurred),
        "chirps": chirps(0),
        "counts": counts(0),
    }
    return {name: make_task(pictures, folder / name.replace(" ", "-")) for name, pictures in made.items()}


def candidates(store: Path, inception: Path) -> list[tuple[FeatureConfig, ExtractionConfig]]:
    """The networks that are compared, each at five cuts. InceptionV3 gets small images, to save hours."""
    lite0 = ("b8_bn2", "b10_add", "b12_add", "b14_add", "top_act")
    v3 = ("mixed5", "mixed6", "mixed8", "mixed9", "mixed10")
    other: Any = {"backbone": "inception_v3", "weights": str(inception), "rescale": "unit", "image_size": 128}
    extraction = ExtractionConfig(store=store, max_rejects=1.0)
    return [
        (FeatureConfig(backbone="efficientnet_lite0", cut=lite0), extraction),
        (FeatureConfig(cut=v3, **other), extraction),
    ]


def measured(data: Path, configs: list[tuple[FeatureConfig, ExtractionConfig]]) -> dict[str, tuple[float, float]]:
    """Accuracy on test of the default head, and of logistic regression on train and val, by a fingerprint's key."""
    found = {}
    for config, extraction in configs:
        cached = cache_features(data, config, extraction)
        train, val, test = (cached.labelled(cached.of(split)) for split in SPLITS)
        for cut, store in cached.stores.items():
            here, held, apart = (part.at([cut]) for part in (train, val, test))
            head = fit_head(here, held, HeadConfig().for_examples(len(train)), seed=0).model
            both = np.concatenate([here.features, held.features]), np.concatenate([here.labels, held.labels])
            linear = logistic_regression(1e-2).fit(*both).score(apart.features, apart.labels)
            found[store.key] = accuracy(head(apart.features).numpy(), apart.labels), float(linear)
    return found


def tuned(data: Path, run: Path, cut: str, extraction: ExtractionConfig) -> tuple[float, float]:
    """Accuracy on test of a head on EfficientNet-Lite0 at `cut`, and after fine-tuning from there."""
    if not (run / "classifier.keras").exists():
        config = FeatureConfig(backbone="efficientnet_lite0", cut=(cut,))
        train_run(data, run, config, extraction, HeadConfig(), overwrite=True)
        finetune(run, FinetuneConfig(from_cache=True))
    result = evaluate(run)
    kept = result.finetuned or result.head  # without a better epoch on val, the head goes on answering
    return result.head["accuracy"], kept["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("inception", type=Path, help="weights of InceptionV3 in the range [0, 1]")
    asked = parser.parse_args()
    configs = candidates(asked.folder / "store", asked.inception)
    table = Table(
        "task",
        "advised",
        "probe",
        "head on test, of the best",
        "linear, of the best",
        "distance",
        "gain: expected",
        "measured",
        "sure",
    )
    for name, data in make_tasks(asked.photos, asked.folder / "tasks").items():
        scores = measured(data, configs)
        found = advise(data, configs[0][0], configs[0][1])
        lite0 = next(one for one in found.candidates if one.backbone == "efficientnet_lite0")
        before, after = tuned(data, asked.folder / "runs" / data.name, lite0.cut, configs[0][1])
        names = {one.fingerprint: f"{one.backbone} {one.cut}" for one in found.candidates}
        best = [max(scores, key=lambda key: scores[key][way]) for way in (0, 1)]
        table.add_row(
            name,
            names[found.best.fingerprint],
            f"{found.best.linear_probe:.3f}",
            *(
                f"{scores[found.best.fingerprint][way]:.3f} of {scores[best[way]][way]:.3f} ({names[best[way]]})"
                for way in (0, 1)
            ),
            f"{found.similarity.distance:.2f}" if found.similarity else "",
            f"{100 * found.prospect.expected_gain:+.1f}",
            f"{lite0.cut}: {before:.3f} -> {after:.3f}",
            f"{found.confidence:.0%}",
        )
        Console(width=180).print(table)


if __name__ == "__main__":
    main()
