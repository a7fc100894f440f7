"""Weights given once to `features` serve the commands after it. `store explain` and `store export` need none."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from headstart.features.backbones.weights import build_backbone
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.pipeline.featured import cache_features

NETWORK = ("--backbone=mobilenet_v3_small", "--image-size=64", "--precision=float32", "--max-rejects=1")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    file = tmp_path / "w.weights.h5"
    build_backbone("mobilenet_v3_small", "random", image_size=64, weights_seed=3).model.save_weights(file)
    return file


@pytest.fixture
def few(prepared: Path, tmp_path: Path) -> Path:
    """Two images of each class in each split."""
    for folder in prepared.glob("*/*"):
        target = tmp_path / "few" / folder.relative_to(prepared)
        target.mkdir(parents=True)
        for image in sorted(folder.glob(f"{folder.name}.*.jpg"))[:2]:
            shutil.copy(image, target)
    return tmp_path / "few"


def features_of(run: Path) -> dict:
    return json.loads((run / "config.json").read_text())["features"]


@pytest.mark.slow
@pytest.mark.soak
def test_a_head_takes_the_weights_of_the_features(
    headstart, weights: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"--store={tmp_path / 'store'}"
    headstart("features", few, *NETWORK, store, f"--weights={weights}", "--rescale=unit")
    code, _, told = headstart.whole("head", few, *NETWORK, store, "--epochs=1", f"--run={tmp_path / 'run'}")
    assert code == 0, told
    assert f"--weights {weights} --rescale unit, as in the features of {tmp_path / 'store'}" in told
    chosen = features_of(tmp_path / "run")
    assert (chosen["weights"], chosen["rescale"]) == (f"../{weights.name}", "unit")
    verify = ("store", "verify", tmp_path / "store", f"--data={few}", "--recompute=2")
    assert headstart(*verify)["recomputed"] == 2
    again = headstart("features", few, *NETWORK, store)
    assert (again["extracted"], again["cached"]) == (0, 12)
    moved = weights.rename(tmp_path / "moved.weights.h5")
    assert headstart("features", few, *NETWORK, store, f"--weights={moved}")["extracted"] == 0
    assert headstart("features", few, *NETWORK, store, f"--weights={moved}", "--rescale=auto")["extracted"] == 12
    assert "say which" in headstart.error("features", few, *NETWORK, store, code=2)
    monkeypatch.setenv("HEADSTART_WEIGHTS", str(moved))
    monkeypatch.setenv("HEADSTART_RESCALE", "unit")
    assert headstart("features", few, *NETWORK, store)["extracted"] == 0


@pytest.mark.slow
def test_nothing_is_loaded_to_explain_or_export(
    headstart, weights: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    headstart("features", few, *NETWORK, f"--store={store}", f"--weights={weights}", "--rescale=unit")
    weights.unlink()
    monkeypatch.setattr("headstart.features.backbones.weights._model", None)
    explain = ("store", "explain", store, few, *NETWORK)
    (cut,) = headstart(*explain, f"--weights={weights}")["cuts"]
    assert (cut["present"], cut["others"]) == (12, [])
    (cut,) = headstart(*explain)["cuts"]
    assert set(cut["others"][0]["differs"]) == {"weights", "rescale"}
    told = headstart.text(*explain, "--weights=imagenet")
    assert "rescale: asked for inception, there unit" in told
    assert f"weights: asked for imagenet, which {store} does not know, there {weights} (" in told
    assert headstart("store", "export", store, few, tmp_path / "x.npz")["examples"] == 12


@pytest.mark.slow
def test_an_export_names_network_and_cut(
    headstart, few: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    cut = "expanded_conv_2_add"
    cache_features(few, replace(small, cut=(cut, f"{cut}:map")), extraction)
    export = ("store", "export", extraction.store, few, tmp_path / "x.npz")
    assert len(headstart(*export, f"--cut={cut}")["shape"]) == 2
    assert len(headstart(*export, f"--cut={cut}:map", "--backbone=mobilenet_v3_small")["shape"]) == 4
    cache_features(few, replace(small, cut=(cut,), rescale="unit"), extraction)
    line = headstart.error(*export, f"--cut={cut}", code=2)
    assert "(rescale inception); " in line
    assert "(rescale unit)" in line
    key = cache_features(few, replace(small, cut=(cut,)), extraction).fingerprints()[cut]
    assert headstart(*export, f"--fingerprint={key[:12]}")["fingerprint"] == key
    assert "none fit" in headstart.error(*export, "--cut=mixed10", code=2)
    assert "none fit" in headstart.error(*export, "--backbone=xception", code=2)


def test_the_merged_file_says_that_it_is_worth_nothing_alone(extraction: ExtractionConfig, tmp_path: Path) -> None:
    (merged,) = extraction.store.glob("*/features.h5")
    alone = shutil.copy(merged, tmp_path / "alone.h5")
    with h5py.File(alone) as file:
        assert np.isnan(file["features"][:]).all()
        assert "store export" in file.attrs["note"].decode()
