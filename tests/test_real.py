"""InceptionV3 in full (`slow`), and on real photographs with trained weights (`real`)."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from headstart.features.backbones.weights import build_backbone
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.images.batches import decoded_batches
from headstart.features.images.columns.inspected import inspect_images
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile, Reject
from headstart.pipeline.check.check import check
from headstart.pipeline.check.config import CheckConfig
from headstart.pipeline.classifier import build_classifier
from headstart.pipeline.demo.drawing import draw_demo
from headstart.pipeline.featured import cache_features, load_examples
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.finetune import finetune
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import train_run
from headstart.pipeline.prepare.prepare import prepare
from headstart.pipeline.runs import Run
from headstart.pipeline.scoring.metrics import probabilities
from PIL import Image


def weights_by_place(classifier: keras.Model) -> dict[tuple[int, int, str], np.ndarray]:
    return {
        (index, number, variable.name): variable.numpy()
        for index, layer in enumerate(classifier.get_layer("inception_v3").layers)
        for number, variable in enumerate(layer.weights)
    }


@pytest.mark.slow
def test_inception_in_both_phases_changes_what_lies_above_249_only(tmp_path: Path) -> None:
    draw_demo(tmp_path / "drawn", images=40, seed=26)
    features = FeatureConfig(weights="random", precision="float32", image_size=96)
    extraction = ExtractionConfig(store=tmp_path / "s", max_rejects=1)
    data, run = tmp_path / "drawn", tmp_path / "run"
    train_run(data, run, features, extraction, HeadConfig())
    head = keras.models.load_model(run / "head.keras")
    kernel, bias = head.get_layer("logits").get_weights()
    head.get_layer("logits").set_weights([kernel, bias - 10])  # says cat to everything: one epoch must gain
    head.save(run / "head.keras")
    cached = load_examples(Run.open(run))
    joined = build_classifier(cached.network.backbone, cached.network.cuts, head)
    before = weights_by_place(joined)
    assert (
        cached.network.backbone.weights_digest == build_backbone("inception_v3", "random", image_size=96).weights_digest
    )
    result = finetune(run, FinetuneConfig(epochs=1, learning_rate=1e-5))
    assert result.best_epoch > 0, "the epoch was no better than the head: the test would show nothing"
    after = weights_by_place(keras.models.load_model(run / "classifier.keras"))
    for place, value in before.items():
        index, _, name = place
        trains = index >= 249 and name == "kernel"
        assert np.array_equal(value, after[place]) != trains, place


@pytest.fixture
def photographs(shared: Path, tmp_path: Path) -> Path:
    """20 real photographs of each class, as links."""
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for path in itertools.islice(sorted((shared / "data" / "dogs_vs_cats" / name).iterdir()), 20):
            (tmp_path / "photos" / name / path.name).symlink_to(path)
    return tmp_path / "photos"


@pytest.fixture
def real_features(shared: Path) -> FeatureConfig:
    weights = str(shared / "weights" / "inception_v3_notop.weights.h5")
    return FeatureConfig(weights=weights, rescale="unit", precision="float32")


@pytest.mark.real
@pytest.mark.parametrize(
    ("precision", "largest", "median"),
    [("float32", 0.001, 0.001), pytest.param("bfloat16", 0.05, 0.005, marks=pytest.mark.soak)],
)
def test_head_on_cached_features_equals_the_classifier_on_raw_files(
    photographs: Path, real_features: FeatureConfig, tmp_path: Path, precision, largest: float, median: float
) -> None:
    extraction = ExtractionConfig(store=tmp_path / "s")
    train_run(photographs, tmp_path / "run", replace(real_features, precision=precision), extraction, HeadConfig())
    cached = load_examples(Run.open(tmp_path / "run"))
    head = keras.models.load_model(tmp_path / "run" / "head.keras")
    vectors = cached.labelled(cached.examples).features
    expected = probabilities(head.predict(vectors, verbose=0))[:, 1]
    full = build_backbone("inception_v3", real_features.weights, "unit")
    classifier = build_classifier(full, cached.network.cuts, head)
    found = np.empty_like(expected)
    for positions, pixels in decoded_batches([example.image for example in cached.examples], cached.network.images, 32):
        found[positions] = probabilities(classifier.predict_on_batch(pixels))[:, 1]
    difference = np.abs(found - expected)
    print(f"{precision}: largest difference {difference.max():.6f}, median {np.median(difference):.6f}")
    assert difference.max() < largest
    assert np.median(difference) < median


@pytest.mark.real
def test_every_orientation_gives_the_same_pixels(shared: Path) -> None:
    folder = shared / "data" / "awkward" / "exif"
    images = [image for (image,) in inspect_images(sorted(folder.glob("Landscape_*.jpg")))]
    assert all(isinstance(image, ImageFile) for image in images)
    ((positions, pixels),) = decoded_batches(
        [image for image in images if isinstance(image, ImageFile)], ImageConfig(299), 9
    )
    assert len(positions) == 9
    upright = pixels[1].astype(int)
    for other in pixels:
        assert np.abs(other - upright).mean() < 3


@pytest.mark.real
def test_awkward_files_end_as_features_or_as_rejects(shared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(shared / "data" / "awkward", data)
    features = FeatureConfig(backbone="mobilenet_v3_small", weights="random", image_size=64)
    cached = cache_features(data, features, ExtractionConfig(store=tmp_path / "s", max_rejects=1))
    files = [path for path in data.rglob("*") if path.is_file() and path.name != "LICENSE"]
    assert len(cached.examples) + len(cached.rejects) == len(files)
    assert all(isinstance(reject, Reject) and reject.detail for reject in cached.rejects)
    assert {Path(reject.path).name: reject.reason for reject in cached.rejects} == {
        "broken.png": "corrupt",
        "broken_data_stream.png": "corrupt",
        "decompression_bomb.gif": "too-large",
        "truncated_end_chunk.png": "truncated",
        "truncated_image.png": "truncated",
        "truncated_jpeg.jpg": "truncated",
    }


@pytest.mark.real
def test_copies_in_another_split_are_found(photographs: Path, real_features: FeatureConfig, tmp_path: Path) -> None:
    prepare(photographs, tmp_path / "data")
    originals = sorted((tmp_path / "data" / "train").glob("*/*.jpg"))[::3]
    for number, path in enumerate(originals):
        target = tmp_path / "data" / ("val", "test")[number % 2] / path.parent.name / f"copy-{path.name}"
        with Image.open(path) as picture:
            scale = (0.5, 0.75, 1, 1.5)[number % 4]
            picture.resize([max(1, int(scale * side)) for side in picture.size]).save(target, quality=70)
    cache_features(tmp_path / "data", real_features, ExtractionConfig(store=tmp_path / "s"))
    found = check(tmp_path / "data", CheckConfig(store=tmp_path / "s")).near_duplicates
    assert found is not None
    true = [pair for pair in found if Path(pair.image.image.path).name == f"copy-{Path(pair.like.image.path).name}"]
    assert len(true) >= 0.9 * len(originals)
    assert len(found) - len(true) <= 1
