"""Networks that a store keeps."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from headstart.features.frozen.engines import constant_bytes, converted, openvino_passes
from headstart.features.frozen.frozen import traced_model
from headstart.features.frozen.kept import KeptNetwork
from headstart.features.frozen.network import load_network
from headstart.features.tensorflow import keras

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    return keras.Model(pixels, keras.layers.Dense(4)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))))


def kept(store: Path, **fields: object) -> KeptNetwork:
    return KeptNetwork.of(store, "net", {"weights": "abc", "scale": (1.0, 2.0), "forward_version": 3, **fields})


def test_a_network_is_read_as_it_was_written(model: keras.Model, tmp_path: Path) -> None:
    graph = traced_model(model, 2, compiled=False)
    assert kept(tmp_path).read() is None
    kept(tmp_path).write(converted(graph))
    run, *_ = openvino_passes(kept(tmp_path).read(), 1, 8, 2, "f32")
    np.testing.assert_allclose(run(PIXELS)[0], model(PIXELS).numpy(), atol=1e-5)
    assert kept(tmp_path, weights="other").read() is None


def test_damage_and_other_versions(model: keras.Model, tmp_path: Path) -> None:
    converted_model = converted(traced_model(model, 2, compiled=False))
    first, other = kept(tmp_path), kept(tmp_path, weights="other")
    first.write(converted_model)
    other.write(converted_model)
    assert first.folder.exists()
    weights = first.folder / "model.bin"
    weights.write_bytes(bytes(weights.stat().st_size))
    assert first.read() is None
    (first.folder / "identity.json").write_text("[")
    assert first.read() is None
    first.write(converted_model)
    assert first.read() is not None
    kept(tmp_path, forward_version=4).write(converted_model)
    assert not first.folder.exists()
    assert not other.folder.exists()


def test_backbones_and_classifiers_are_kept_side_by_side(model: keras.Model, tmp_path: Path) -> None:
    converted_model = converted(traced_model(model, 2, compiled=False))
    backbone, classifier = kept(tmp_path), KeptNetwork.of(tmp_path, "classifier", {"classifier": "abc"})
    for one in (backbone, classifier, backbone):
        one.write(converted_model)
    assert backbone.folder.exists()
    assert classifier.folder.exists()


def test_no_store_is_made(model: keras.Model, tmp_path: Path) -> None:
    kept(tmp_path / "absent").write(converted(traced_model(model, 2, compiled=False)))
    assert list(tmp_path.iterdir()) == []


def test_a_nearly_full_disk_keeps_its_room(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = converted(traced_model(model, 2, compiled=False))
    size = constant_bytes(graph)
    assert 8 * 8 * 3 * 4 * 4 <= size < 4000  # the kernel in float32
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2 * size})())
    kept(tmp_path).write(graph)
    assert not kept(tmp_path).folder.exists()
    assert "the next command will build net again: [Errno 28] No space left on device" in capfd.readouterr().err


@pytest.mark.slow
def test_the_next_command_does_not_build_the_network(small, extraction, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.features.backbones import models
    from headstart.features.backbones.facts import KnownBackbones
    from headstart.features.frozen import frozen

    monkeypatch.undo()
    network = load_network(small, extraction)
    built = frozen._converted(frozen.folded_backbone(network.backbone), network.cuts, 8)
    network._kept(8).write(built)
    assert json.loads((network._kept(8).folder / "identity.json").read_text())["identity"]["batch_size"] == 8
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    (expected,) = network.freeze()(pixels).values()

    def refuse(*given: object) -> None:
        raise AssertionError("the network was built")

    monkeypatch.setattr(models, "filled", refuse)
    monkeypatch.setattr(frozen, "freeze", refuse)
    from headstart.features.frozen.network import load_networks

    (again,) = load_networks(small, extraction, KnownBackbones(extraction.store))
    (found,) = again.freeze()(pixels).values()
    np.testing.assert_array_equal(found, expected)
