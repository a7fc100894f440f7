import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from headstart.features.images.columns.inspected import inspect_images
from headstart.features.images.scan import ImageFile
from headstart.pipeline.data.similar import near_duplicate_groups
from PIL import Image, ImageEnhance

RNG_SEED = 5
Kind = Callable[[np.random.Generator], Iterator[Image.Image]]


def _inspected(paths: list[Path]) -> list[ImageFile]:
    return [image for images in inspect_images(paths) for image in images if isinstance(image, ImageFile)]


def smooth(rng: np.random.Generator, size: int, side: int = 120) -> np.ndarray:
    coarse = Image.fromarray(rng.standard_normal((size, size)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def photographs(rng: np.random.Generator) -> Iterator[Image.Image]:
    """Pictures that share nothing."""
    while True:
        yield Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)).resize((130, 110))


def x_rays(rng: np.random.Generator) -> Iterator[Image.Image]:
    """Smooth pictures that are mostly alike: a common mean, a little that is their own, and noise."""
    common = smooth(rng, 5)
    while True:
        pixels = 128 + 45 * (common + 0.25 * smooth(rng, 6)) + 6 * rng.standard_normal(common.shape)
        yield Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def documents(rng: np.random.Generator) -> Iterator[Image.Image]:
    """Lines of words on white pages."""
    while True:
        page = np.full((160, 110), 250, np.uint8)
        for top in range(12, rng.integers(60, 150), 8):
            words = np.repeat(rng.random(20) < 0.75, 5)[: rng.integers(30, 95)]
            page[top : top + 4, 8 : 8 + len(words)][:, words] = 60
        yield Image.fromarray(page)


def anew(picture: Image.Image, number: int, path: Path) -> Path:
    """Save a copy: smaller or larger, brighter or darker, cropped, as JPEG, PNG or WebP."""
    width, height = picture.size
    crop = (0, 0, 0, 0) if number % 2 else (number % 5, 2, width - 2, height - number % 3)
    changed = picture.crop(crop) if any(crop) else picture
    scale = (0.4, 0.8, 1.7)[number % 3]
    changed = changed.resize((round(changed.width * scale), round(changed.height * scale)), Image.Resampling.LANCZOS)
    path = path.with_suffix((".png", ".jpg", ".webp")[number % 3])
    ImageEnhance.Brightness(changed).enhance((1, 0.85, 1.1)[number // 3 % 3]).save(
        path, quality=(30, 60, 90)[number % 3]
    )
    return path


def named(groups: list[list[int]], files: list[ImageFile]) -> list[set[str]]:
    return [{Path(files[number].path).stem for number in group} for group in groups]


@pytest.mark.parametrize(("kind", "least"), [(photographs, 24), (x_rays, 23), (documents, 19)])
def test_copies_are_found_and_pictures_that_are_only_alike_are_not(kind: Kind, least: int, tmp_path: Path) -> None:
    pictures = kind(np.random.default_rng(RNG_SEED))
    paths = []
    for number in range(200):
        picture = next(pictures)
        picture.save(tmp_path / f"{number}.png", compress_level=1)
        paths.append(tmp_path / f"{number}.png")
        if number < 24:
            paths.append(anew(picture, number, tmp_path / f"{number}-copy"))
    groups = named(near_duplicate_groups(files := _inspected(paths)), files)
    planted = [{f"{number}", f"{number}-copy"} for number in range(24)]
    assert [group for group in groups if group not in planted] == []
    assert len(groups) >= least  # fine print is lost in small copies that were cropped, too


def test_a_copy_of_a_copy_joins_and_equal_files_alone_make_no_group(tmp_path: Path) -> None:
    pictures = photographs(np.random.default_rng(RNG_SEED))
    paths = []
    for number in range(40):
        next(pictures).save(tmp_path / f"{number}.png")
        paths.append(tmp_path / f"{number}.png")
    for number in range(40):  # one picture many times over, more than there are candidates
        with Image.open(paths[0]) as picture:
            paths.append(anew(picture.convert("RGB"), number * 3 + 1, tmp_path / f"many{number}"))
    paths += [
        Path(shutil.copy(paths[0], tmp_path / "equal.png")),
        Path(shutil.copy(paths[1], tmp_path / "1-equal.png")),
    ]
    Image.new("RGB", (50, 50), "red").save(tmp_path / "red.png")
    Image.new("RGB", (60, 60), "red").save(tmp_path / "red2.png")
    paths += [tmp_path / "red.png", tmp_path / "red2.png"]
    files = _inspected(paths)
    groups = near_duplicate_groups(files)
    assert named(groups, files) == [{"0", "equal", *(f"many{number}" for number in range(40))}]
    assert groups[0] == sorted(groups[0])


def test_features_may_name_the_candidates_and_pixels_decide(tmp_path: Path) -> None:
    rng = np.random.default_rng(RNG_SEED)
    pictures, paths = photographs(rng), []
    for number in range(60):
        next(pictures).save(tmp_path / f"{number}.png")
        paths.append(tmp_path / f"{number}.png")
    with Image.open(paths[0]) as picture:
        paths.append(anew(picture.convert("RGB"), 1, tmp_path / "copy"))
    features = rng.standard_normal((61, 300)).astype(np.float16)
    assert near_duplicate_groups(files := _inspected(paths), features) == []
    features[60] = features[0]
    features[2] = features[1]  # pictures that only a network takes for the same
    assert named(near_duplicate_groups(files, features), files) == [{"0", "copy"}]


def test_files_that_are_gone_or_broken_are_in_no_group(tmp_path: Path) -> None:
    pictures, paths = photographs(np.random.default_rng(RNG_SEED)), []
    for number in range(20):
        next(pictures).save(tmp_path / f"{number}.jpg")
        paths.append(tmp_path / f"{number}.jpg")
    with Image.open(paths[0]) as picture:
        paths.append(anew(picture, 1, tmp_path / "copy"))
    files = _inspected(paths)
    paths[1].unlink()
    paths[2].write_bytes(b"no image")
    assert near_duplicate_groups(files) == [[0, 20]]
    assert near_duplicate_groups(files[:1]) == near_duplicate_groups([]) == near_duplicate_groups(files[1:3]) == []


def test_pages_of_a_tiff_are_compared(tmp_path: Path) -> None:
    pictures = photographs(np.random.default_rng(RNG_SEED))
    pages = [next(pictures) for _ in range(30)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    pages[7].resize((100, 90)).save(tmp_path / "copy.jpg", quality=80)
    found = inspect_images([tmp_path / "copy.jpg", tmp_path / "x.tif"], pages="all")
    files = [image for images in found for image in images if isinstance(image, ImageFile)]
    assert [sorted(Path(files[at].path).name for at in group) for group in near_duplicate_groups(files)] == [
        ["copy.jpg", "x.tif#8"]
    ]
