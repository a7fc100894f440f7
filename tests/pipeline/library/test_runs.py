"""Runs from Python: trained, loaded, used on images in memory, and taken away as a plain Keras model."""

import io
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import headstart
import numpy as np
import pytest
from headstart.features.images.batches import decoded_batches
from headstart.features.images.decode import pillow_pixels
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import inspect_image
from headstart.pipeline.library.pictures import on_disk
from headstart.tests.conftest import SMALL
from PIL import Image


@pytest.fixture
def files(prepared: Path) -> list[str]:
    return [str(file) for file in sorted(prepared.glob("test/*/[cd]*.jpg"))[:5]]


def chances(found: list[Any]) -> np.ndarray:
    return np.array([list(one.probabilities.values()) for one in found])


def test_a_head_is_trained_as_by_the_command(prepared: Path, filled_store: Path, tmp_path: Path) -> None:
    given = {"units": (16,), "epochs": 3, "learning_rate": 1e-3, "max_rejects": 1, "store": filled_store, **SMALL}
    run = headstart.train_head(prepared, tmp_path / "run", **given)
    again = headstart.train_head(prepared, tmp_path / "again", **given)
    assert run.history == again.history
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert run.class_names == ["cat", "dog"]
    assert run.metrics["head"]["best_epoch"] >= 1
    assert repr(run) == f"<run {tmp_path / 'run'}: cat, dog>"
    with pytest.raises(headstart.RunError, match="exists"):
        headstart.train_head(prepared, tmp_path / "run", **given)


def test_images_in_memory_go_the_way_of_files(
    trained_run: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = headstart.load(trained_run)
    wanted = headstart.predict(trained_run, [Path(file) for file in files]).predictions
    assert run.predict(files) == wanted
    assert run.predict([*files, files[0]])[-1].path == files[0]
    pictures = [Image.open(file) for file in files]
    found = run.predict(pictures)
    assert [one.path for one in found] == [f"image {at}" for at in range(5)]
    np.testing.assert_allclose(chances(found), chances(wanted), atol=0.05)  # decoders of JPEG differ
    arrays = [np.asarray(picture.convert("RGB")) for picture in pictures]
    np.testing.assert_allclose(chances(run.predict([arrays[1], files[2]])), chances(found)[1:3], atol=0.05)
    assert len(run.predict(arrays[0])) == len(run.predict(files[0])) == len(run.predict(pictures[0])) == 1
    assert len(run.predict(np.zeros((2, 40, 50, 3), np.uint8))) == 2
    assert run.predict([]) == []
    assert not any(tmp_path.glob("headstart-*"))  # nothing stays


def test_a_picture_of_any_mode_is_the_picture_as_a_file(trained_run: Path, files: list[str], tmp_path: Path) -> None:
    run, colours = headstart.load(trained_run), Image.open(files[0]).convert("RGB")
    for number, mode in enumerate(("1", "L", "LA", "P", "RGBA", "RGB")):
        file = tmp_path / f"{number}.png"
        colours.convert(mode).save(file)
        assert chances(run.predict(colours.convert(mode))) == pytest.approx(chances(run.predict(file)), abs=1e-6), mode
    assert chances(run.predict(colours.convert("CMYK"))) == pytest.approx(chances(run.predict(colours)), abs=0.05)
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[274] = 6
    colours.save(turned, exif=exif)
    with Image.open(turned) as opened:
        assert chances(run.predict(opened)) == pytest.approx(chances(run.predict(turned)), abs=1e-6)


def test_transparency_and_sixteen_bits_of_any_mode(tmp_path: Path) -> None:
    hidden, depth = np.zeros((4, 4, 4), np.uint8), np.arange(0, 4096, 256, np.uint16).reshape(4, 4)
    hidden[2:, :, 3], hidden[..., 0] = 255, 200  # the upper half is transparent
    colours = Image.fromarray(hidden)
    palette = colours.convert("RGB").convert("P").convert("PA")
    palette.putalpha(colours.getchannel("A"))
    grey, other = colours.convert("LA"), Image.frombytes("I;16B", (4, 4), depth.astype(">u2").tobytes())
    for picture, like in (
        (colours.convert("RGBa"), colours),
        (palette, palette.convert("RGBA")),
        (grey.convert("La"), grey),
        (other, Image.fromarray(depth)),
    ):
        mode, file = picture.mode, tmp_path / "like.png"
        like.save(file)
        with on_disk([picture]) as ((written,), _):
            found, wanted = (
                pillow_pixels(one.read_bytes(), inspect_image(str(one))[0].bits) for one in (written, file)
            )
        assert np.abs(found.astype(int) - wanted).max() <= 1, mode
        assert mode == "I;16B" or (wanted[:2] == 255).all(), mode


def test_several_threads_predict_with_one_run(trained_run: Path, files: list[str]) -> None:
    arrays = [np.asarray(Image.open(file).convert("RGB")) for file in files] * 3
    wanted = chances(headstart.load(trained_run).predict(arrays))
    run = headstart.load(trained_run)  # which has loaded no network yet
    with ThreadPoolExecutor(5) as pool:
        found = [one for each in pool.map(run.predict, arrays) for one in each]
    np.testing.assert_allclose(chances(found), wanted, atol=1e-5)  # the head rounds otherwise for more images


def test_an_array_of_paths(trained_run: Path, files: list[str]) -> None:
    run = headstart.load(trained_run)
    assert run.predict(np.array(files[:2])) == run.predict(files[:2])
    assert run.predict(np.array(files[0])) == run.predict(files[0])


def test_the_classifier_gives_the_answers_of_predict(trained_run: Path, files: list[str]) -> None:
    model = headstart.classifier(trained_run)
    assert model.input_shape == (None, 64, 64, 3)
    assert model.output_shape == (None, 2)
    images = [inspect_image(file)[0] for file in files]
    _, pixels = next(decoded_batches(images, ImageConfig(64), 8))
    found = chances(headstart.load(trained_run).predict(files))
    np.testing.assert_allclose(model(pixels).numpy(), found, atol=1e-4)
    logits = headstart.classifier(trained_run, logits=True)(pixels).numpy()
    assert logits.shape == (5, 1)
    assert np.array_equal(logits[:, 0] > 0, found[:, 1] > 0.5)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((3, 3, 3)), r"must be uint8 \[H, W, 3\], RGB from 0 to 255. Received: float64"),
        (np.zeros((3, 3, 4), np.uint8), r"Received: uint8 \[3, 3, 4\]"),
        (np.zeros((0, 3, 3), np.uint8), "has no pixels"),
        (3, "must be a path, a Pillow image or an array. Received: int"),
        (Image.new("F", (3, 3)), "mode F, whose range is not known; give the path of a file"),
        (Image.new("I", (3, 3)), "mode I, whose range is not known"),
        ("", "image 0 is empty; give a path"),
        (b"a.jpg", "Received: bytes"),
        ("absent.jpg", "absent.jpg: no such file"),
        (__file__, "not-an-image"),
    ],
)
def test_what_is_no_image_is_told_in_one_line(image: Any, said: str, trained_run: Path) -> None:
    with pytest.raises(headstart.HeadstartError, match=said):
        headstart.load(trained_run).predict(image if isinstance(image, str | bytes) else [image])


def test_wrong_options_and_runs(trained_run: Path, tmp_path: Path) -> None:
    with pytest.raises(headstart.RunError, match="not a run folder"):
        headstart.load(tmp_path)
    with pytest.raises(headstart.OptionError, match="did you mean top"):
        headstart.load(trained_run, topp=3)
    with pytest.raises(headstart.OptionError, match="output: is for files"):
        headstart.load(trained_run, output="x.csv")
    for name, value in {"top": 2, "max_rejects": 0.5, "probabilities": "all"}.items():
        with pytest.raises(headstart.OptionError, match=f"{name}: has no effect"):
            headstart.load(trained_run, **{name: value})
    for name, value in {"views": 3, "threshold": 0.5, "abstain": 0.9, "max_pixels": 9, "from": "files.txt"}.items():
        with pytest.raises(headstart.OptionError, match=f"{name}: has no effect on a classifier"):
            headstart.classifier(trained_run, **{name: value})
    with pytest.raises(headstart.OptionError, match="did you mean model"):
        headstart.classifier(trained_run, modle="head")


def test_a_truncated_picture_is_told_in_one_line(trained_run: Path, files: list[str]) -> None:
    picture = Image.open(io.BytesIO(Path(files[0]).read_bytes()[:800]))
    with pytest.raises(headstart.DataError, match="image 0: can't be decoded"):
        headstart.load(trained_run).predict(picture)


def test_an_image_in_memory_is_named_if_none_can_be_used(trained_run: Path) -> None:
    with pytest.raises(headstart.DataError, match="image 0") as error:
        headstart.load(trained_run, max_pixels=50).predict([np.zeros((90, 90, 3), np.uint8)] * 2)
    assert ".png" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"head": Path("heads.py")}, "head must be a function, or the text FILE.py:FUNCTION"),
        ({"data": ["a.jpg"]}, "data must be a folder, a list of images, or tars. Received: list"),
        ({"data": ""}, "data is empty"),
        ({"run": None}, "run must be the folder of the new run. Received: NoneType"),
        ({"run": ""}, "run is empty"),
        ({"store": ""}, "store: is empty"),
        ({"overwrite": "no"}, "overwrite must be True or False. Received: str no"),
        ({"seed": -1}, "seed must be a whole number from 0 to 2147483647. Received: int -1"),
    ],
)
def test_arguments_of_another_type(given: dict, said: str, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(headstart.OptionError, match=said):
        headstart.train_head(
            **{"data": prepared, "run": tmp_path / "run", "store": tmp_path / "store", **SMALL, **given}
        )


@pytest.mark.parametrize(
    ("run", "given", "said"),
    [
        (None, {}, "run must be the folder of a run. Received: NoneType"),
        (b"runs/a", {}, "run must be the folder of a run. Received: bytes"),
        ("", {}, "run is empty"),
        ("a\0", {}, "run holds a NUL"),
        (".", {"seed": "x"}, "seed must be a whole number from 0 to 2147483647. Received: str x"),
        (".", {"output": ""}, "output: is empty"),
    ],
)
def test_arguments_of_load_of_another_type(run: Any, given: dict, said: str) -> None:
    with pytest.raises(headstart.OptionError, match=said):
        headstart.load(run, **given)
