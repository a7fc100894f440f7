import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.errors import OptionError
from features.maintain import open_stores
from pipeline.cached import cache_features, load_backbone, stores_of
from pipeline.feature_config import FeatureConfig
from pipeline.recompute import verify_store
from tests.conftest import SMALL

pytest.importorskip("openvino")
pytest.importorskip("nncf")


@pytest.fixture
def int8(tmp_path: Path) -> FeatureConfig:
    return FeatureConfig(**{**SMALL, "store": tmp_path / "store", "precision": "int8", "max_rejects": 1})


def test_eight_bits_are_near_float32_and_their_own_features(
    prepared: Path, small: FeatureConfig, int8: FeatureConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    cached = cache_features(prepared, int8)
    said = capfd.readouterr()
    assert "quantising mobilenet_v3_small on 30 images" in said.err
    assert "on 10 other images features are off by" in said.err
    assert said.out == ""
    features, _ = cached.arrays(cached.examples)
    expected, _ = cache_features(prepared, small).arrays(cached.examples)
    error = np.mean(np.linalg.norm(features - expected, axis=1) / np.linalg.norm(expected, axis=1))
    assert 1e-3 < error < 0.5  # random weights, and so few images, take it badly
    (store,) = cached.stores
    assert store.form.dtype == np.float16
    assert store.fingerprint["calibration"]["images"] == 30
    (folder,) = (int8.store / "int8").iterdir()
    written = json.loads((folder / "calibration.json").read_text())
    digests = {example.image.digest for example in cached.examples}
    assert set(written["digests"]) < digests
    assert written["fidelity"]["top_activation"]["relative_error"] == pytest.approx(error, rel=0.5)

    again = cache_features(prepared, replace(int8, cut=("top_activation",)))
    assert (again.extracted, again.fingerprints()) == (0, cached.fingerprints())
    _, fresh = verify_store(int8.store, data=prepared, count=10, weights="random")
    assert (fresh.images, fresh.bad) == (10, ())


def test_a_quantised_network_serves_whatever_images_come(prepared: Path, drawn: Path, int8: FeatureConfig) -> None:
    first = cache_features(prepared, int8).fingerprints()
    backbone, cuts, config = load_backbone(int8)
    assert [store.key for store in stores_of(backbone, cuts, config)] == list(first.values())
    assert cache_features(drawn / ".." / "demo", int8).fingerprints() == first
    assert len(open_stores(int8.store)) == 1


def test_a_missing_extra_is_named(prepared: Path, int8: FeatureConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(OptionError, match=r"headstart\[int8\]"):
        cache_features(prepared, int8)
