import io
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from headstart.features.images.batches import decoded_batches
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile
from headstart.pipeline.export import preprocess
from headstart.pipeline.export.preprocess import pixels
from headstart.pipeline.predict.sources import find_files, inspected
from PIL import Image

DRAW = np.random.default_rng(0)


def noise(height: int, width: int, *channels: int) -> np.ndarray:
    return DRAW.integers(0, 256, (height, width, *channels), dtype=np.uint8)


def save_all(folder: Path) -> None:
    """Files of each kind that decoders treat in a way of its own, at sizes around those where resizing changes."""
    folder.mkdir()
    for number, (height, width) in enumerate(
        [(1, 1), (3, 300), (64, 64), (63, 130), (128, 129), (129, 128), (520, 700)]
    ):
        picture = Image.fromarray(noise(height, width, 3))
        picture.save(folder / f"{number}.jpg", quality=90, subsampling=number % 3)
        picture.save(folder / f"{number}.png")
        picture.save(folder / f"{number}.webp", lossless=True)
    for mode, channels in (("RGBA", (4,)), ("LA", (2,)), ("L", ())):
        Image.fromarray(noise(150, 130, *channels), mode).save(folder / f"{mode}.png")
    Image.fromarray(noise(150, 130, 4), "RGBA").save(folder / "RGBA.webp", lossless=True)
    Image.fromarray(noise(150, 130)).save(folder / "grey.jpg")
    Image.fromarray(noise(150, 130) > 127).save(folder / "bit.png")
    palette = Image.fromarray(noise(150, 130, 3)).quantize(16)
    for suffix in ("png", "gif"):
        palette.save(folder / f"palette.{suffix}")
        palette.save(folder / f"transparent.{suffix}", transparency=3)
    Image.fromarray(noise(150, 130, 3)).save(folder / "colour.png", transparency=(1, 2, 3))
    for bits in (9, 12, 16):
        grey = Image.fromarray(DRAW.integers(0, 1 << bits, (150, 130)).astype(np.uint16))
        grey.save(folder / f"{bits}.png")
        grey.save(folder / f"{bits}.tif")
    Image.fromarray(np.zeros((40, 50), np.uint16)).save(folder / "black.png")
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        for suffix in ("jpg", "png", "tif"):
            Image.fromarray(noise(80, 150, 3)).save(folder / f"turn{orientation}.{suffix}", exif=exif)
    Image.fromarray(noise(150, 130, 4), "CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(noise(300, 330, 3)).save(folder / "progressive.jpg", progressive=True)
    pages = [Image.fromarray(noise(90, 100, 3)) for _ in range(3)]
    for name in ("pages.tif", "moving.png", "moving.webp", "moving.gif"):
        pages[0].save(folder / name, save_all=True, append_images=pages[1:])
    pages[0].save(folder / "several.jpg", format="MPO", save_all=True, append_images=pages[1:])
    (folder / "cut.jpg").write_bytes((folder / "6.jpg").read_bytes()[:-2000])


def images_in(*folders: Path) -> list[ImageFile]:
    found = find_files(folders, None, True, distinct=False)
    pieces = [piece for _, _, piece in inspected(found, 100_000_000, "all", lambda path: False)]
    return [one for piece in pieces for one in piece if isinstance(one, ImageFile)]


def apart(images: list[ImageFile], config: ImageConfig) -> dict[str, float]:
    """The largest difference of each image that headstart decodes, in grey levels."""
    found, settings = {}, (config.size, config.resize, config.truncated, config.bits)
    for positions, batch in decoded_batches(images, config, 16):
        for position, expected in zip(positions, batch, strict=True):
            image = images[position]
            own = pixels(image.file, *settings, page=image.page)
            assert (own.dtype, own.shape) == (np.uint8, (config.size, config.size, 3))
            found[image.path] = float(np.abs(own.astype(int) - expected).max())
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("awkward") / "images"
    save_all(folder)
    return folder


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_the_script_makes_the_pixels_of_headstart(saved: Path, resize: str) -> None:
    images = images_in(saved)
    found = apart(images, ImageConfig(64, resize))
    assert len(found) == len(images) - 1  # the JPEG that ends early
    assert {path: levels for path, levels in found.items() if levels} == {}
    with pytest.raises(OSError, match="truncated"):
        pixels(saved / "cut.jpg", 64)


def test_a_jpeg_that_ends_early_can_be_kept(saved: Path) -> None:
    cut = [image for image in images_in(saved) if image.path.endswith("cut.jpg")]
    assert list(apart(cut, ImageConfig(64, truncated="keep")).values()) == [0]


def test_bits_of_all_files_can_be_given(saved: Path) -> None:
    grey = [image for image in images_in(saved) if image.bits]
    assert set(apart(grey, ImageConfig(64, bits="12")).values()) == {0}


def test_bytes_are_read_like_files_and_large_images_refused(saved: Path) -> None:
    file = saved / "6.png"
    assert np.array_equal(pixels(file.read_bytes(), 64), pixels(file, 64))
    assert np.array_equal(pixels(str(file), 64), pixels(file, 64))
    with pytest.raises(ValueError, match="700 x 520 pixels, over 1000"):
        pixels(file, 64, most_pixels=1000)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_images_take_little_memory(mode: str) -> None:
    Image.new(mode, (1000, 1000)).save(data := io.BytesIO(), "PNG")
    tracemalloc.start()
    pixels(data.getvalue(), 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 1000 * 1000


def test_broken_exif_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    Image.fromarray(noise(80, 80, 3)).save(file, exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x12\x01")
    assert apart(images_in(tmp_path), ImageConfig(64)) == {str(file): 0}


def test_a_pillow_that_lacks_formats_reads_the_others(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    assert pixels(saved / "6.jpg", 64).shape == (64, 64, 3)
    with pytest.raises(OSError, match="cannot identify image file"):
        pixels(b"no image at all", 64)


@pytest.mark.parametrize("name", ["float.tif", "integer.tif", "float.pfm"])
def test_images_with_32_bits_per_sample_are_refused(name: str, tmp_path: Path) -> None:
    kind = np.int32 if name.startswith("integer") else np.float32
    Image.fromarray(np.full((40, 50), 7, kind)).save(tmp_path / name, "PPM" if name.endswith("pfm") else "TIFF")
    assert not images_in(tmp_path)
    with pytest.raises(ValueError, match="32 bits per sample"):
        pixels(tmp_path / name, 64)


@pytest.mark.parametrize("damage", ["cut chunk", "cut pixels", "broken pixels"])
def test_damaged_pngs_are_refused(damage: str, saved: Path) -> None:
    data = (saved / "6.png").read_bytes()
    end = len(data) - 12  # of the pixels
    broken = {
        "cut chunk": data[:end] + b"\0\0\x76\x4eIDAT" + bytes(20),
        "cut pixels": data[: end // 2],
        "broken pixels": data[: end // 2] + bytes(1000) + data[end // 2 + 1000 :],
    }[damage]
    with pytest.raises((OSError, ValueError, SyntaxError)):
        pixels(broken, 64)


@pytest.mark.real
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_awkward_photographs(shared: Path, resize: str) -> None:
    found = apart(images_in(shared / "data" / "awkward"), ImageConfig(224, resize))
    assert len(found) > 90
    assert max(found.values()) <= 1


def test_a_program_tells_of_files_that_it_cannot_read_and_answers_for_the_rest(tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(
        '"""Classify images: `python example.py cat.jpg`."""\n'
        "import sys\n"
        "from preprocess import images\n"
        "for path, pixels in images(sys.argv[1:], size=8):\n"
        "    print(path, pixels.shape)\n"
    )
    shutil.copy(preprocess.__file__, tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    Image.new("RGB", (20, 10)).save(tmp_path / "good.png")

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        command = [sys.executable, str(program), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr.splitlines()

    code, answers, told = run("gone.jpg", "broken.jpg", ".", "good.png")
    assert (code, answers) == (1, "good.png (8, 8, 3)\n")
    assert [line.partition(": ")[0] for line in told] == ["gone.jpg", "broken.jpg", "."]
    assert run("good.png") == (0, "good.png (8, 8, 3)\n", [])
    assert run() == (1, "", ["Classify images: `python example.py cat.jpg`."])
