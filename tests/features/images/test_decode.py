import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from headstart.features.errors import OptionError
from headstart.features.images import decode as images
from headstart.features.images.augment import View
from headstart.features.images.batches import decoded_batches, why_undecodable
from headstart.features.images.decode import decode, decoder_of, pillow_pixels, reading_of
from headstart.features.images.opening import FORMATS
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile, inspect_image
from headstart.pipeline.demo.drawing import _STORED_AS
from PIL import Image


def gradient(width: int = 96, height: int = 64) -> Image.Image:
    """Asymmetric in both directions and smooth, so that JPEG and resizing hardly change it."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 200, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def write(path: Path, picture: Image.Image, orientation: int = 1, **options) -> ImageFile:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif, **options)
    (image,) = inspect_image(path)
    assert isinstance(image, ImageFile)
    return image


def pixels_of(config: ImageConfig, *images: ImageFile) -> np.ndarray:
    """All of `images` in one batch, int64 [N, size, size, 3]: each call builds a graph, which takes its time."""
    ((positions, pixels),) = decoded_batches(images, config, len(images))
    assert positions.tolist() == list(range(len(images)))
    assert pixels.dtype == np.uint8
    return pixels.astype(int)


def in_every_orientation(folder: Path, format: str, **options) -> list[ImageFile]:
    return [
        write(
            folder / f"{orientation}.{format.lower()}",
            gradient().transpose(_STORED_AS[orientation]) if orientation > 1 else gradient(),
            orientation,
            **options,
        )
        for orientation in range(1, 9)
    ]


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_every_orientation_comes_out_upright(tmp_path: Path, resize: str) -> None:
    pixels = pixels_of(ImageConfig(48, resize), *in_every_orientation(tmp_path, "PNG"))
    for orientation, turned in enumerate(pixels, 1):
        assert np.abs(turned - pixels[0]).max() <= 1, orientation


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "TIFF", "AVIF"])
def test_every_format_is_turned_upright_once(tmp_path: Path, format: str) -> None:
    if format not in FORMATS:
        pytest.skip(f"this Pillow can't read {format}")
    pixels = pixels_of(ImageConfig(48), *in_every_orientation(tmp_path, format, quality=95))
    for orientation, turned in enumerate(pixels, 1):
        assert np.abs(turned - pixels[0]).mean() < 2, orientation
        assert turned[0, -1, 0] > 200, orientation
        assert turned[-1, 0, 0] < 50, orientation


def test_stretch_keeps_the_edges_and_crop_does_not(tmp_path: Path) -> None:
    image = write(tmp_path / "x.png", gradient(128, 64))
    (stretched,) = pixels_of(ImageConfig(32), image)
    (cropped,) = pixels_of(ImageConfig(32, "crop"), image)
    assert stretched[:, 0, 0].max() < 10
    assert 50 < cropped[:, 0, 0].min() < 80


def saved(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def ycck(picture: Image.Image) -> bytes:
    """A JPEG of four components that says, in Adobe's marker, that the first three are YCC."""
    data = bytearray(saved(picture.convert("CMYK"), "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def half_transparent() -> Image.Image:
    picture = gradient().convert("RGBA")
    picture.putalpha(128)
    return picture


GREY = gradient().convert("L")
ON_WHITE = Image.blend(Image.new("RGB", gradient().size, "white"), gradient(), 128 / 255)
SIXTEEN_BITS = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)
BLACK_IS_NOTHING = Image.fromarray(np.where(np.asarray(GREY)[..., None] > 99, np.asarray(gradient()), 255).astype("u1"))


def with_black(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.where(np.asarray(GREY)[..., None] > 99, np.asarray(picture), 0).astype("u1"))


# What is in the file, the picture that it must give, and how far each value may be off.
STORED = {
    "JPEG": (saved(gradient(), "JPEG", quality=95), gradient(), 4),
    "progressive JPEG": (saved(gradient(), "JPEG", quality=95, progressive=True), gradient(), 4),
    "grey JPEG": (saved(GREY, "JPEG", quality=95), GREY, 4),
    "CMYK JPEG": (saved(gradient().convert("CMYK"), "JPEG", quality=95), gradient(), 6),
    "PNG": (saved(gradient(), "PNG"), gradient(), 0),
    "grey PNG": (saved(GREY, "PNG"), GREY, 0),
    "two-tone PNG": (saved(GREY.convert("1"), "PNG"), GREY.convert("1"), 0),
    "PNG of 16 bits": (saved(SIXTEEN_BITS, "PNG"), GREY, 0),
    "palette PNG": (saved(gradient().quantize(256), "PNG"), gradient().quantize(256), 0),
    "palette PNG with alpha": (
        saved(with_black(gradient()).quantize(256), "PNG", transparency=bytes([128]) * 256),
        Image.blend(
            Image.new("RGB", gradient().size, "white"), with_black(gradient()).quantize(256).convert("RGB"), 128 / 255
        ),
        2,
    ),
    "PNG with alpha": (saved(half_transparent(), "PNG"), ON_WHITE, 1),
    "grey PNG with alpha": (saved(half_transparent().convert("LA"), "PNG"), ON_WHITE.convert("L"), 1),
    "PNG with a transparent colour": (
        saved(with_black(gradient()), "PNG", transparency=(0, 0, 0)), BLACK_IS_NOTHING, 0,
    ),
    "GIF": (saved(gradient().quantize(256), "GIF"), gradient().quantize(256), 0),
    "animated GIF": (
        saved(gradient().quantize(256), "GIF", save_all=True, append_images=[Image.new("RGB", (96, 64))]),
        gradient().quantize(256), 0,
    ),
    "BMP": (saved(gradient(), "BMP"), gradient(), 0),
    "palette BMP": (saved(gradient().quantize(256), "BMP"), gradient().quantize(256), 0),
    "WebP": (saved(gradient(), "WEBP", lossless=True), gradient(), 0),
    "WebP with alpha": (saved(half_transparent(), "WEBP", lossless=True), ON_WHITE, 1),
    "animated WebP": (
        saved(gradient(), "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (96, 64))]),
        gradient(), 0,
    ),
    "TIFF": (saved(gradient(), "TIFF", compression="tiff_lzw"), gradient(), 0),
    "TIFF of 16 bits": (saved(SIXTEEN_BITS, "TIFF"), GREY, 0),
    "PPM": (saved(gradient(), "PPM"), gradient(), 0),
}  # fmt: skip


def test_every_format_gives_the_picture_whatever_the_name(tmp_path: Path) -> None:
    read, wanted = [], []
    for kind, (data, picture, _) in STORED.items():
        (tmp_path / f"{kind}.jpg").write_bytes(data)
        (image,) = inspect_image(tmp_path / f"{kind}.jpg")
        assert isinstance(image, ImageFile), kind
        read.append(image)
        wanted.append(write(tmp_path / f"{kind}.png", picture.convert("RGB")))
    both = pixels_of(ImageConfig(64), *read, *wanted)
    off = np.abs(both[: len(read)] - both[len(read) :]).max(axis=(1, 2, 3))
    for (kind, (data, picture, tolerance)), by in zip(STORED.items(), off, strict=True):
        assert by <= tolerance, kind
        assert np.abs(pillow_pixels(data).astype(int) - np.asarray(picture.convert("RGB"))).max() <= tolerance, kind


def test_ycck_is_decoded_as_pillow_does(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(ycck(gradient()))
    (image,) = inspect_image(tmp_path / "x.jpg")
    assert isinstance(image, ImageFile)
    wanted = Image.fromarray(pillow_pixels(ycck(gradient()))).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.abs(pixels_of(ImageConfig(32), image)[0] - np.asarray(wanted)).mean() < 4


def test_large_jpegs_are_decoded_smaller_but_no_smaller_than_needed(tmp_path: Path) -> None:
    sizes = {(99, 400): 1, (100, 400): 1, (199, 800): 1, (200, 230): 2, (400, 410): 4, (5000, 900): 8}
    config = ImageConfig(100)
    images = [write(tmp_path / f"{size}.jpg", gradient(*size), quality=95) for size in sizes]
    assert [2 ** decoder_of(image, config) for image in images] == list(sizes.values())
    for size, pixels in zip(sizes, pixels_of(config, *images), strict=True):
        exact = np.asarray(gradient(*size).resize((100, 100), Image.Resampling.BOX))
        assert np.abs(pixels - exact).mean() < 3, size


def test_what_shrinks_much_is_antialiased(tmp_path: Path) -> None:
    """Fine stripes become grey; without antialiasing, some are met and others missed."""
    stripes = Image.fromarray(np.tile(np.array([0, 255, 255, 0, 255], np.uint8), (300, 300)))  # 1500 wide
    images = [write(tmp_path / name, stripes) for name in ("x.jpg", "x.png")]
    for pixels in pixels_of(ImageConfig(100), *images):
        assert pixels.std() < 12
        assert abs(pixels.mean() - 0.6 * 255) < 5


def test_decoding_is_the_same_eagerly_and_inside_tf_data(tmp_path: Path) -> None:
    image = write(tmp_path / "x.jpg", gradient(), 6)
    config = ImageConfig(50)
    decoder, reading = tf.constant(decoder_of(image, config)), tf.constant(reading_of(image, config))
    eager = decode(tf.io.read_file(image.path), decoder, reading, config).numpy()
    np.testing.assert_array_equal(eager, pixels_of(config, image)[0])


def test_undecodable_images_are_left_out_and_the_rest_of_the_batch_kept(tmp_path: Path) -> None:
    images = [write(tmp_path / f"{number}.jpg", gradient(90 + number, 60)) for number in range(9)]
    config = ImageConfig(32)
    whole = np.concatenate([pixels for _, pixels in decoded_batches(images, config, 3)])
    for number in (1, 3, 4, 5):  # one of a batch, and all of one
        data = Path(images[number].path).read_bytes()
        Path(images[number].path).write_bytes(data[: len(data) // 2])
    batches = list(decoded_batches(images, config, 3))
    assert [positions.tolist() for positions, _ in batches] == [[0, 2], [6, 7, 8]]
    kept = np.concatenate([positions for positions, _ in batches])
    np.testing.assert_array_equal(np.concatenate([pixels for _, pixels in batches]), whole[kept])


def test_what_tensorflow_can_not_read_goes_to_pillow_in_its_place(tmp_path: Path) -> None:
    images = [write(tmp_path / f"{number}.png", gradient(90 + number, 60)) for number in range(7)]
    config = ImageConfig(32)
    whole = np.concatenate([pixels for _, pixels in decoded_batches(images, config, 3)])
    misled = [replace(image, format="JPEG") if number % 2 else image for number, image in enumerate(images)]
    batches = list(decoded_batches(misled, config, 3))
    assert np.concatenate([positions for positions, _ in batches]).tolist() == list(range(7))
    np.testing.assert_array_equal(np.concatenate([pixels for _, pixels in batches]), whole)


def test_good_images_are_decoded_once_and_without_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = [write(tmp_path / f"{number}.jpg", gradient(90 + number, 60)) for number in range(5)]
    good += [write(tmp_path / f"{number}.png", gradient(90 + number, 60)) for number in range(5)]
    bad = write(tmp_path / "bad.jpg", gradient())
    Path(bad.path).write_bytes(Path(bad.path).read_bytes()[:-200])
    seen: list[int] = []
    monkeypatch.setattr(images, "pillow_pixels", lambda data, *how: seen.append(len(data)) or pillow_pixels(data, *how))
    assert sum(len(positions) for positions, _ in decoded_batches([*good, bad], ImageConfig(32), 4)) == 10
    assert seen == [Path(bad.path).stat().st_size]


def test_undecodable_images_are_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 80).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:-3000])
    (image,) = inspect_image(tmp_path / "cut.jpg")
    assert isinstance(image, ImageFile)
    assert why_undecodable(image).reason == "truncated"
    assert list(decoded_batches([image], ImageConfig(32), 1)) == []
    assert pixels_of(ImageConfig(32, truncated="keep"), image).shape == (1, 32, 32, 3)
    (tmp_path / "cut.jpg").unlink()
    assert why_undecodable(image).reason == "vanished"


def test_a_tiny_size_is_refused() -> None:
    with pytest.raises(OptionError, match="from 32 to 4096"):
        ImageConfig(31)


def test_an_image_alone_has_the_pixels_that_it_has_among_others(tmp_path: Path) -> None:
    picture = Image.effect_noise((150, 90), 40).convert("RGB")
    images = [write(tmp_path / f"x.{suffix}", picture) for suffix in ("jpg", "png", "webp", "bmp")]
    view = View("standard", 0, 1)
    for one in (None, view):
        together = dict(_rows(images, one))
        for position, image in enumerate(images):
            ((_, pixels),) = _rows([image], one)
            np.testing.assert_array_equal(pixels, together[position])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((tmp_path / "x.jpg").read_bytes()[:-200])
    (found,) = inspect_image(broken)
    assert list(decoded_batches([found], ImageConfig(64), 1)) == []


def _rows(images: list[ImageFile], view: View | None) -> list[tuple[int, np.ndarray]]:
    parts = decoded_batches(images, ImageConfig(64), 8, view)
    return [(int(at), row) for positions, pixels in parts for at, row in zip(positions, pixels, strict=True)]
