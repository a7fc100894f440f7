"""Draw the demo set: pictures of cats and dogs, which need neither a licence nor a download.

Colours, sizes, poses and backgrounds have the same distributions in both classes, so a thumbnail does not tell the
class. A cat has whiskers and slit pupils. A dog has a broad muzzle and often a tongue. Most cats have stripes and
pointed ears, and most dogs have spots and hanging ears. Some animals have a plain coat, or the ears of the other class.
A head often misclassifies these animals, so phase 2 has something to gain.
"""

import io
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.errors import DataError
from headstart.features.files import require_creatable, write_atomically
from headstart.features.terminal import progress
from headstart.pipeline.demo.config import DEMO_IMAGES
from PIL import Image, ImageDraw, ImageFilter

CLASS_NAMES = ("cat", "dog")
_ORIENTATION_TAG = 0x0112
# Maps EXIF's orientation to the transposition of the stored picture. Viewers undo the transposition.
_STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

_SCALE = (0.65, 1.0)  # of an animal, as a fraction of the picture's shorter side
_PLAIN_COATS = 0.3  # fraction of animals
_UNUSUAL_EARS = 0.06  # fraction of animals with the other class's ears
Colour = tuple[int, ...]  # red, green, blue
_Draw = ImageDraw.ImageDraw
_MARK = "cat/broken.empty.jpg"  # this empty file shows that a folder is a demo set


@dataclass(frozen=True)
class DemoResult:
    """The number of good images and of broken files that `draw_demo` wrote, and the folder that holds them."""

    images: int
    broken: int
    path: str

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return asdict(self)

    def lines(self) -> list[Any]:
        """Return the summary that is printed without `--json`."""
        return [f"drew {self.images} images and {self.broken} broken files in {self.path}"]


def draw_demo(folder: Path, images: int = DEMO_IMAGES, seed: int = 0) -> DemoResult:
    """Draw `images` JPEGs into `folder/cat/` and `folder/dog/`, half of them into each, and add a few broken files.

    The content of an image depends only on `seed` and on the image's own number, from 0. `folder` may hold an earlier
    demo set: drawings with the same names are replaced, and others stay. Raises DataError if `folder` holds anything
    else, or is a file. Raises OSError if `folder` can't be made.
    """
    if not _is_free(folder):
        raise DataError(f"{folder}: exists and holds something else than a demo set; name a new folder")
    if not folder.exists():
        require_creatable(folder)
    for name in CLASS_NAMES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    whole = _draw_jpeg(0, np.random.default_rng([seed, 2**31]))
    broken = {
        "empty": b"",
        "text": b"<html><body>404 Not Found</body></html>\n",
        "half": whole[: len(whole) // 2],
        "header": whole[:20],
        "zeros": bytes(4096),
        "tail": whole[: len(whole) * 9 // 10],
    }
    for number, (name, data) in enumerate(broken.items()):  # the first of them is `_MARK`
        write_atomically(folder / CLASS_NAMES[number % 2] / f"broken.{name}.jpg", data)
    with progress("drawing", images) as advance:
        for number in range(images):
            name = CLASS_NAMES[number % 2]
            drawn = _draw_jpeg(number % 2, np.random.default_rng([seed, number]))
            write_atomically(folder / name / f"{name}.{number // 2}.jpg", drawn)
            advance(1)
    return DemoResult(images=images, broken=len(broken), path=str(folder))


def _is_free(folder: Path) -> bool:
    """Return whether `folder` is missing, holds no file, or is a demo set. A user's own `cat.0.jpg` is no demo set."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    if not all(one.is_dir() and not one.is_symlink() and one.name in CLASS_NAMES for one in folder.iterdir()):
        return False
    mark = folder / _MARK
    return (mark.is_file() and not mark.stat().st_size) or not any(folder.glob("*/[!.]*"))


def _draw_jpeg(label: int, rng: np.random.Generator) -> bytes:
    width, height = rng.integers(150, 420, size=2).tolist()
    picture = _background(width, height, rng)
    animal = _animal(label, int(min(width, height) * rng.uniform(*_SCALE)), rng)
    corner = (int(rng.uniform(0, width - animal.width)), int(rng.uniform(0, height - animal.height)))
    picture.paste(animal, corner, animal)
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0))))
    exif = Image.Exif()
    if rng.random() < 0.2:
        orientation = int(rng.integers(2, 9))
        picture = picture.transpose(_STORED_AS[orientation])
        exif[_ORIENTATION_TAG] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(rng.integers(40, 96)), exif=exif)
    return buffer.getvalue()


def _colour(rng: np.random.Generator) -> Colour:
    return tuple(rng.integers(20, 236, size=3).tolist())


def _shade(colour: Colour, factor: float) -> Colour:
    return tuple(min(255, int(value * factor)) for value in colour)


def _background(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Draw a gradient between two colours, with a little noise and a few plain shapes."""
    start, end = np.array(_colour(rng), float), np.array(_colour(rng), float)
    angle = rng.uniform(0, 2 * math.pi)
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, width), np.linspace(-0.5, 0.5, height))
    blend = np.clip(0.5 + x * math.cos(angle) + y * math.sin(angle), 0, 1)[..., None]
    pixels = start * (1 - blend) + end * blend + rng.normal(0, rng.uniform(0, 10), (height, width, 1))
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 5))):
        left, top = rng.uniform(-0.2, 1.0) * width, rng.uniform(-0.2, 1.0) * height
        box = (left, top, left + rng.uniform(0.1, 0.4) * width, top + rng.uniform(0.1, 0.4) * height)
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=_colour(rng))
    return picture


def _animal(label: int, side: int, rng: np.random.Generator) -> Image.Image:
    """Draw a cat (label 0) or a dog (label 1): a tilted head and shoulders.

    The result is RGBA [side, side], with a transparent background.
    """
    size = 2 * side
    fur, marks, skin = _colour(rng), _colour(rng), _colour(rng)
    coat = Image.new("RGB", (size, size), fur)
    if rng.random() > _PLAIN_COATS:
        (_draw_stripes if label == 0 else _draw_spots)(ImageDraw.Draw(coat), size, marks, rng)
    shape = Image.new("L", (size, size))
    silhouette = ImageDraw.Draw(shape)
    silhouette.ellipse(_box(0.5, 0.95, 0.36, 0.34, size), fill=255)
    silhouette.ellipse(_box(0.5, 0.45, rng.uniform(0.26, 0.32), rng.uniform(0.24, 0.29), size), fill=255)
    animal = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(animal)
    pointed = (label == 0) != (rng.random() < _UNUSUAL_EARS)
    if pointed:
        _draw_pointed_ears(draw, size, fur, skin, rng)
    animal.paste(coat, (0, 0), shape)
    if not pointed:
        _draw_hanging_ears(draw, size, _shade(fur, rng.uniform(0.6, 1.4)), rng)
    (_draw_cat_face if label == 0 else _draw_dog_face)(draw, size, _shade(fur, 1.3), skin, rng)
    if rng.random() < 0.5:
        animal = animal.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = animal.rotate(float(rng.uniform(-25, 25)), Image.Resampling.BILINEAR)
    return turned.resize((side, side), Image.Resampling.BOX)


def _box(x: float, y: float, rx: float, ry: float, size: int) -> tuple[float, float, float, float]:
    """Return the bounding box of an ellipse, in pixels. The centre (x, y) and the radii are fractions of `size`."""
    return (x - rx) * size, (y - ry) * size, (x + rx) * size, (y + ry) * size


def _points(size: int, *points: tuple[float, float]) -> list[tuple[float, float]]:
    return [(x * size, y * size) for x, y in points]


def _draw_stripes(draw: _Draw, size: int, colour: Colour, rng: np.random.Generator) -> None:
    period, bend = rng.uniform(0.07, 0.12), rng.uniform(-0.1, 0.1)
    for x in np.arange(-0.2, 1.2, period):
        line = [(x + bend * math.sin(4 * y) + rng.normal(0, 0.004), y) for y in np.linspace(0, 1.2, 25)]
        draw.line(_points(size, *line), fill=colour, width=int(0.4 * period * size))


def _draw_spots(draw: _Draw, size: int, colour: Colour, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(25, 50))):
        radius = rng.uniform(0.02, 0.055)
        draw.ellipse(_box(rng.uniform(0, 1), rng.uniform(0, 1.2), radius, radius, size), fill=colour)


def _draw_pointed_ears(draw: _Draw, size: int, fur: Colour, skin: Colour, rng: np.random.Generator) -> None:
    tip = rng.uniform(0.0, 0.08)
    for sign in (-1, 1):
        outer = [(0.5 + sign * 0.08, 0.28), (0.5 + sign * 0.28, tip), (0.5 + sign * 0.29, 0.42)]
        centre = np.mean(outer, axis=0)
        inner = [tuple(centre + 0.55 * (np.array(point) - centre)) for point in outer]
        draw.polygon(_points(size, *outer), fill=fur)
        draw.polygon(_points(size, *inner), fill=skin)


def _draw_hanging_ears(draw: _Draw, size: int, fur: Colour, rng: np.random.Generator) -> None:
    length = rng.uniform(0.18, 0.26)
    for sign in (-1, 1):
        draw.ellipse(_box(0.5 + sign * 0.3, 0.32 + length, 0.085, length, size), fill=fur)


def _draw_eyes(draw: _Draw, size: int, iris: Colour, pupil_width: float) -> None:
    for sign in (-1, 1):
        x = 0.5 + sign * 0.11
        draw.ellipse(_box(x, 0.4, 0.045, 0.04, size), fill=iris)
        draw.ellipse(_box(x, 0.4, pupil_width, 0.035, size), fill=(10, 10, 10))


def _draw_cat_face(draw: _Draw, size: int, pale: Colour, skin: Colour, rng: np.random.Generator) -> None:
    _draw_eyes(draw, size, _colour(rng), 0.012)
    draw.polygon(_points(size, (0.47, 0.5), (0.53, 0.5), (0.5, 0.54)), fill=skin)
    for sign in (-1, 1):
        for drop in (-0.03, 0.01, 0.05):
            whisker = _points(size, (0.5 + sign * 0.06, 0.55), (0.5 + sign * 0.36, 0.55 + drop * 2))
            draw.line(whisker, fill=pale, width=max(1, size // 150))


def _draw_dog_face(draw: _Draw, size: int, pale: Colour, skin: Colour, rng: np.random.Generator) -> None:
    _draw_eyes(draw, size, _colour(rng), 0.03)
    draw.ellipse(_box(0.5, 0.58, 0.14, 0.11, size), fill=pale)
    draw.ellipse(_box(0.5, 0.52, 0.06, 0.04, size), fill=(15, 15, 15))
    if rng.random() < 0.6:
        draw.ellipse(_box(0.5, 0.68, 0.04, 0.07, size), fill=skin)
