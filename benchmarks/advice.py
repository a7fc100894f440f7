"""`headstart advise`, checked by doing: python -m benchmarks.advice PHOTOS FOLDER [--inception WEIGHTS]

PHOTOS is a folder of two class folders. Five tasks are made in FOLDER: photographs; the demo's drawings; the
photographs in grey and blurred; chirps, as in a spectrogram; and counts of drawn shapes. For each, `advise` judges two
networks at five cuts. A head is then trained on each, and EfficientNet-Lite0 is fine-tuned. All of them are scored on
the test split, which `advise` never sees.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from headstart.pipeline.demo.drawing import draw_demo
from PIL import Image, ImageDraw, ImageFilter

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
