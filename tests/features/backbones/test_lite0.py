"""EfficientNet-Lite0 and the weights that come with headstart."""

from importlib import resources
from pathlib import Path

import keras
import numpy as np
import pytest
from headstart.features.backbones.lite0 import build_efficientnet_lite0
from headstart.features.backbones.shipped import reading
from headstart.features.backbones.shipped.reading import shipped_weights
from headstart.features.backbones.weights import build_backbone
from headstart.features.errors import WeightsError
from headstart.features.images.batches import decoded_batches
from headstart.features.images.decode import ImageConfig
from headstart.pipeline.data.examples import scan_all_sizes

IMAGENET_DOGS = range(151, 269)


def test_the_shipped_file_holds_the_whole_network_and_its_licence() -> None:
    weights = shipped_weights()  # compares the file with its digest
    model = build_efficientnet_lite0(weights=None)
    assert {f"{layer.name}/{variable.name}" for layer in model.layers for variable in layer.weights} == weights.keys()
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in weights.values())
    folder = resources.files("headstart.features.backbones") / "shipped"
    assert "Apache License" in (folder / "LICENSE-APACHE-2.0").read_text()
    assert "tpu/models/official/efficientnet/lite" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_imagenet_weights_need_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_, **__):
        raise AssertionError("asked for a download")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", fails)
    backbone = build_backbone("efficientnet_lite0")
    assert backbone.weights_digest[:12] == "4e763ae75327"
    assert backbone.shape(backbone.cuts()[-1]) == (1280,)


@pytest.mark.parametrize(
    ("content", "said"), [(None, "missing; install it again"), (b"PK damaged", "damaged; install it again")]
)
def test_a_damaged_or_missing_file_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, said: str
) -> None:
    if content:
        (tmp_path / "efficientnet_lite0_imagenet.npz").write_bytes(content)
    monkeypatch.setattr(reading.resources, "files", lambda _: tmp_path)
    with pytest.raises(WeightsError, match=said):
        shipped_weights()


@pytest.mark.real
def test_it_sees_imagenets_dogs_and_its_features_are_those_of_float32(shared: Path, tmp_path: Path) -> None:
    with np.load(shared / "weights" / "efficientnet_lite0_imagenet.npz") as file:
        full = {name: file[name] for name in file.files}
    images = [example.image for example in scan_all_sizes(tmp_path, shared / "data" / "dogs_vs_cats").examples]
    dogs = [image for image in images if "dog." in str(image.path)][:200]
    batches = decoded_batches(dogs, ImageConfig(224, "stretch", "reject"), 50)
    pixels = np.concatenate([batch for _, batch in batches]).astype(np.float32)
    model = build_efficientnet_lite0()
    pooled = keras.Model(model.input, keras.layers.GlobalAveragePooling2D()(model.output))
    features = pooled.predict((pixels - 127) / 128, verbose=0)
    top = (features @ full["fc/kernel"] + full["fc/bias"]).argmax(axis=1)
    assert np.mean(np.isin(top, IMAGENET_DOGS)) >= 0.95  # 0.966 of all 1,000
    for layer in model.layers:
        layer.set_weights([full[f"{layer.name}/{variable.name}"] for variable in layer.weights])
    exact = pooled.predict((pixels - 127) / 128, verbose=0)
    error = np.linalg.norm(features - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert 0 < error.max() < 1e-3
    assert np.mean(top == (exact @ full["fc/kernel"] + full["fc/bias"]).argmax(axis=1)) >= 0.99
