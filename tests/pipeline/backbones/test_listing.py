"""`headstart backbones`."""

import json
from pathlib import Path

import pytest
from headstart.features.backbones.outlines import outline
from headstart.features.backbones.zoo import BACKBONES
from headstart.features.frozen import speeds

FIELDS = {
    "name",
    "image_size",
    "parameters",
    "multiply_adds",
    "cuts",
    "boundary",
    "weights",
    "images_per_second",
    "precision",
}


def test_every_network_is_listed_with_its_cost(headstart, tmp_path: Path) -> None:
    listed = headstart("backbones", "--store", tmp_path)["backbones"]
    assert [one["name"] for one in listed] == list(BACKBONES)
    assert all(one.keys() == FIELDS for one in listed)
    inception = listed[0]
    # 5.7 billion multiply-adds: arXiv:1512.00567, section 6.
    assert (inception["image_size"], inception["parameters"], inception["boundary"]) == (299, 21802784, 249)
    assert inception["multiply_adds"] == pytest.approx(5.7e9, rel=0.01)
    assert list(inception["cuts"]) == [f"mixed{number}" for number in range(11)]
    assert inception["images_per_second"] is None
    text = headstart.text("backbones", "--store", tmp_path)
    assert all(name in text for name in BACKBONES)


def test_it_tells_where_weights_are(headstart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / outline("xception").file).touch()
    weights = {one["name"]: one["weights"] for one in headstart("backbones")["backbones"]}
    assert (weights["efficientnet_lite0"], weights["xception"], weights["vgg16"]) == ("shipped", "cached", "download")


def test_one_network_is_shown_with_its_cuts(headstart) -> None:
    text = headstart.text("backbones", "mobilenet_v2")
    assert "block_16_project_BN 7 x 7 x 320" in " ".join(text.split())
    assert "from layer 125 on" in text
    assert "did you mean mobilenet_v2" in headstart.error("backbones", "mobilenetv2x", code=2)
    assert "no such file" in headstart.error("backbones", "gone.keras")


def test_the_speed_measured_on_this_machine_is_told(
    headstart, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speeds, "_LEAST_IMAGES", 10)
    store = tmp_path / "store"
    options = (
        "--backbone",
        "mobilenet_v3_small",
        "--weights",
        "random",
        "--image-size",
        "64",
        "--precision",
        "float32",
    )
    made = headstart("features", prepared, *options, "--batch-size", "8", "--max-rejects", "1", "--store", store)
    by_name = {one["name"]: one for one in headstart("backbones", "--store", store)["backbones"]}
    assert by_name["mobilenet_v3_small"]["images_per_second"] == pytest.approx(made["images_per_second"])
    assert by_name["mobilenet_v3_small"]["precision"] == "float32"
    assert "images/s here in float32" in headstart.text("backbones", "mobilenet_v3_small", "--store", store)
    kept = json.loads((store / "speeds.json").read_text())
    for other in ({**kept["mobilenet_v3_small"], "machine": "another"}, "damaged"):
        (store / "speeds.json").write_text(json.dumps({"mobilenet_v3_small": other}))
        assert headstart("backbones", "mobilenet_v3_small", "--store", store)["backbones"][0]["precision"] is None
