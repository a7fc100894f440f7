from pathlib import Path

import numpy as np
import pytest
from headstart.features.images.scan import inspect_image
from headstart.features.images.thumbnails import Mode, thumbnails
from PIL import Image


def small(
    picture: Image.Image, path: Path, mode: Mode = "RGB", keep_shape: bool = False, **settings: object
) -> Image.Image:
    picture.save(path, **settings)
    (made,) = thumbnails(inspect_image(path), mode, 16, keep_shape)
    assert made
    return made


@pytest.mark.parametrize("orientation", range(1, 9))
def test_thumbnails_are_upright(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("L", (60, 40))
    upright.paste(255, (30, 0, 60, 20))  # light at the top right
    turns = [(), (0,), (3,), (1,), (5,), (2,), (6,), (4,)]  # Image.Transpose: stored from upright
    stored = upright
    for turn in turns[orientation - 1]:
        stored = stored.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    made = small(stored, tmp_path / "x.jpg", keep_shape=True, exif=exif)
    assert made.size == (16, 11)
    corners = [made.getpixel(at)[0] > 128 for at in ((1, 1), (14, 1), (1, 9), (14, 9))]
    assert corners == [False, True, False, False]


def test_transparency_is_white_and_12_bits_keep_their_proportions(tmp_path: Path) -> None:
    assert small(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), tmp_path / "x.png").getpixel((8, 8)) == (255, 255, 255)
    deep = Image.fromarray(np.tile(np.arange(0, 4096, 16, dtype=np.uint16), (9, 1)))
    bright = np.asarray(small(deep, tmp_path / "deep.png", "F"))
    assert bright.shape == (16, 16)
    assert 3800 < bright[8, -1] < 4096
    assert small(deep, tmp_path / "deep.png").getpixel((15, 8))[0] > 230
    assert small(Image.new("P", (20, 20)), tmp_path / "p.png", "F").mode == "F"
    assert small(Image.new("CMYK", (20, 20)), tmp_path / "c.jpg", "F").getpixel((3, 3)) > 250
    assert small(Image.new("L", (3000, 1), 7), tmp_path / "thin.png", keep_shape=True).size == (16, 1)


def test_each_page_of_a_tiff_has_its_own_thumbnail(tmp_path: Path) -> None:
    pages = [Image.new("L", (20, 20), 60 * number) for number in range(1, 5)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    images = inspect_image(tmp_path / "x.tif", pages="all")
    made = list(thumbnails(images, "RGB", 16))
    assert [one and one.getpixel((3, 3)) for one in made] == [(60 * number,) * 3 for number in range(1, 5)]
