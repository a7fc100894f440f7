import hashlib
from pathlib import Path

import numpy as np
import pytest
from headstart.features.errors import DataError
from headstart.features.images.scan import ImageFile, inspect_image
from headstart.pipeline.demo.drawing import draw_demo
from PIL import Image, ImageOps
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    draw_demo(folder, images=160)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*/*")}


def good_files(demo: Path) -> list[Path]:
    return [path for path in sorted(demo.glob("*/*.jpg")) if "broken" not in path.name]


def accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return float(cross_val_score(model, features, labels, cv=5).mean())


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first, again = draw_demo(tmp_path / "a", 10), draw_demo(tmp_path / "b", 10)
    draw_demo(tmp_path / "c", 10, seed=1)
    assert (first.images, first.broken) == (again.images, again.broken) == (10, 6)
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "c")
    assert len(content(tmp_path / "a")) == 16


def test_more_images_leave_the_first_as_they_are(tmp_path: Path) -> None:
    draw_demo(tmp_path / "a", 10)
    draw_demo(tmp_path / "b", 12)
    assert content(tmp_path / "a").items() <= content(tmp_path / "b").items()


def test_images_are_varied(demo: Path) -> None:
    images = [image for path in good_files(demo) for image in inspect_image(path)]
    assert all(isinstance(image, ImageFile) for image in images)
    assert len({(image.width, image.height) for image in images}) > 140
    assert {image.orientation for image in images} == set(range(1, 9))
    assert len({image.digest for image in images}) == 160


def test_classes_are_not_told_apart_by_thumbnail_colour_or_size(demo: Path) -> None:
    paths = good_files(demo)
    labels = np.array([path.parent.name == "dog" for path in paths])
    upright = [ImageOps.exif_transpose(Image.open(path)) for path in paths]
    thumbnails = [np.asarray(image.resize((8, 8), Image.Resampling.BOX), np.float32).ravel() for image in upright]
    assert accuracy(np.array(thumbnails), labels) < 0.75
    plain = [
        [path.stat().st_size, np.log(path.stat().st_size), *np.asarray(image).mean(axis=(0, 1))]
        for path, image in zip(paths, upright, strict=True)
    ]
    assert accuracy(np.array(plain), labels) < 0.75


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="holds something else"):
        draw_demo(tmp_path / "photos", 4)


def test_photographs_that_are_named_like_drawings_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    draw_demo(tmp_path / "photos", 2)  # folders without files are no obstacle
    draw_demo(tmp_path / "photos", 4)
    (tmp_path / "photos" / "cat" / "broken.empty.jpg").unlink()
    mine = tmp_path / "photos" / "cat" / "cat.0.jpg"
    mine.write_bytes(b"a photograph")
    with pytest.raises(DataError, match="holds something else"):
        draw_demo(tmp_path / "photos", 4)
    assert mine.read_bytes() == b"a photograph"


def test_a_link_to_photographs_is_left_alone(tmp_path: Path) -> None:
    draw_demo(tmp_path / "drawn", 2)
    mine = tmp_path / "mine"
    (tmp_path / "drawn" / "dog").rename(mine)
    (tmp_path / "drawn" / "dog").symlink_to(mine)
    before = content(tmp_path / "drawn")
    with pytest.raises(DataError, match="holds something else"):
        draw_demo(tmp_path / "drawn", 4, seed=1)
    assert content(tmp_path / "drawn") == before
