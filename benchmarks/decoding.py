"""From JPEG files to pixels, against plain decode_jpeg and resize."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from headstart.features.images.batches import decoded_batches
from headstart.features.images.columns.inspected import inspect_images
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile
from PIL import Image

from benchmarks.extraction import BATCH, SIZE, keras_files
from benchmarks.timing import Row, in_turns, seconds


def large_jpegs(images: list[ImageFile], folder: Path, noise: float) -> list[ImageFile]:
    """JPEGs of 4000 x 3000 pixels at quality 90, made of some of `images`, with `noise` as of a sensor."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, image in enumerate(images[:: max(1, len(images) // 24)][:24]):
        with Image.open(image.path) as picture:
            pixels = np.asarray(picture.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC), np.float32)
        pixels = pixels + rng.normal(0, noise, (3000, 4000, 1)).astype(np.float32)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    return [
        image for found in inspect_images(sorted(folder.iterdir())) for image in found if isinstance(image, ImageFile)
    ]


def decoding_row(name: str, images: list[ImageFile]) -> Row:
    images = images * (max(1, 4000 // len(images)) if len(images) > 24 else 6)
    megabytes = sum(image.bytes for image in images) / len(images) / 1e6

    def drained(batches: tf.data.Dataset) -> None:
        for _ in batches:
            pass

    def ours() -> float:
        return len(images) / seconds(lambda: drained(decoded_batches(images, ImageConfig(SIZE), BATCH)))

    def theirs() -> float:
        return len(images) / seconds(lambda: drained(keras_files(images)))

    ours(), theirs()
    found = in_turns({"ours": ours, "theirs": theirs}, rounds=3)
    return Row(f"decoding {name} of {megabytes:.2f} MB", "images/s", "decode_jpeg + resize", **found)
