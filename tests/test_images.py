import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from features.errors import OptionError
from features.image_files import ImageFile, inspect_image
from features.images import ImageConfig, decode, decoded_batches, why_undecodable
from pipeline.demo import _STORED_AS


def gradient(width: int = 96, height: int = 64) -> Image.Image:
    """Asymmetric in both directions and smooth, so that JPEG and resizing hardly change it."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 200, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def write(path: Path, picture: Image.Image, orientation: int = 1, **options) -> ImageFile:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif, **options)
    image = inspect_image(path)
    assert isinstance(image, ImageFile)
    return image


def pixels_of(image: ImageFile, config: ImageConfig) -> np.ndarray:
    ((positions, pixels),) = decoded_batches([image], config, 4)
    assert positions.tolist() == [0]
    return pixels[0]


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_every_orientation_comes_out_upright(tmp_path: Path, orientation: int, resize: str) -> None:
    config = ImageConfig(48, resize)
    upright = pixels_of(write(tmp_path / "1.png", gradient()), config)
    stored = gradient().transpose(_STORED_AS[orientation])
    turned = pixels_of(write(tmp_path / "n.png", stored, orientation), config)
    assert np.abs(turned.astype(int) - upright).max() <= 1


def test_stretch_keeps_the_edges_and_crop_does_not(tmp_path: Path) -> None:
    image = write(tmp_path / "x.png", gradient(128, 64))
    stretched = pixels_of(image, ImageConfig(32))
    cropped = pixels_of(image, ImageConfig(32, "crop"))
    assert stretched[:, 0, 0].max() < 10
    assert 50 < cropped[:, 0, 0].min() < 80


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "P"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.png" if mode == "P" else "x.jpg")
    image = write(path, gradient().convert(mode), **({} if mode == "P" else {"quality": 95}))
    pixels = pixels_of(image, ImageConfig(64))
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 20


def test_decoding_is_the_same_eagerly_and_inside_tf_data(tmp_path: Path) -> None:
    image = write(tmp_path / "x.jpg", gradient(), 6)
    config = ImageConfig(50)
    eager = decode(tf.io.read_file(image.path), tf.constant(6), config).numpy()
    np.testing.assert_array_equal(eager, pixels_of(image, config))


def test_undecodable_images_are_left_out_and_the_rest_of_the_batch_kept(tmp_path: Path) -> None:
    images = [write(tmp_path / f"{number}.jpg", gradient(90 + number, 60)) for number in range(7)]
    config = ImageConfig(32)
    whole = np.concatenate([pixels for _, pixels in decoded_batches(images, config, 3)])
    for number in (1, 4):
        data = Path(images[number].path).read_bytes()
        Path(images[number].path).write_bytes(data[: len(data) // 2])
    batches = list(decoded_batches(images, config, 3))
    positions = np.concatenate([positions for positions, _ in batches])
    assert positions.tolist() == [0, 2, 3, 5, 6]
    np.testing.assert_array_equal(np.concatenate([pixels for _, pixels in batches]), whole[positions])


def test_undecodable_images_are_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 80).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:-3000])
    image = inspect_image(tmp_path / "cut.jpg")
    assert isinstance(image, ImageFile)
    assert why_undecodable(image).reason == "truncated"
    assert list(decoded_batches([image], ImageConfig(32), 1)) == []
    assert pixels_of(image, ImageConfig(32, truncated="keep")).shape == (32, 32, 3)
    (tmp_path / "cut.jpg").unlink()
    assert why_undecodable(image).reason == "vanished"


def test_a_tiny_size_is_refused() -> None:
    with pytest.raises(OptionError, match="at least 32"):
        ImageConfig(31)
