"""A fine-tuned run for tests that look at its result, and a run on a tiny network for those that train it anew."""

import json
import shutil
from pathlib import Path

import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.tests import conftest

QUICK = FinetuneConfig(epochs=2, batch_size=8, learning_rate=1e-3, augment="none")


@pytest.fixture(scope="session")
def tuned_run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `trained_run` after phase 2 with `QUICK`. Tests only read it, and its store."""
    from headstart.pipeline.finetune.finetune import finetune

    path = tmp_path_factory.mktemp("tuned") / "run"
    shutil.copytree(trained_run, path)
    finetune(path, QUICK)
    return path


@pytest.fixture(scope="session")
def tiny_project(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of phase 1 on a network of four convolutions, which is traced in a tenth of the time, and its store.

    Tests only read them.
    """
    from headstart.pipeline.head.config import HeadConfig
    from headstart.pipeline.head.run import train_run

    folder = tmp_path_factory.mktemp("tiny")
    features = FeatureConfig(backbone=conftest.tiny_network(folder), rescale="unit", precision="float32")
    extraction = ExtractionConfig(store=folder / "store", **conftest.QUICK)
    train_run(prepared, folder / "run", features, extraction, HeadConfig(units=(16,), epochs=3, learning_rate=1e-3))
    return folder


@pytest.fixture
def tiny_run(tiny_project: Path, tmp_path: Path) -> Path:
    """A copy of the run of `tiny_project` to change, with a store of its own."""
    path, store = tmp_path / "tiny run", tmp_path / "tiny store"
    shutil.copytree(tiny_project / "run", path)
    shutil.copytree(tiny_project / "store", store)
    config = json.loads((path / "config.json").read_text())
    config["features"] |= {"store": str(store), "backbone": str(tiny_project / "tiny.keras")}
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="session")
def tiny_tuned_run(tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `tiny_project` after a phase 2 that gained. Tests only read it."""
    from headstart.features.tensorflow import keras
    from headstart.pipeline.finetune.finetune import finetune

    path = tmp_path_factory.mktemp("tiny-tuned") / "run"
    shutil.copytree(tiny_project / "run", path)
    config = json.loads((path / "config.json").read_text())
    config["features"] |= {"store": str(tiny_project / "store"), "backbone": str(tiny_project / "tiny.keras")}
    (path / "config.json").write_text(json.dumps(config))
    head = keras.models.load_model(path / "head.keras")
    kernel, bias = head.get_layer("logits").get_weights()
    head.get_layer("logits").set_weights([kernel, bias - 5])  # says cat to everything: any epoch gains
    head.save(path / "head.keras")
    assert finetune(path, QUICK).best_epoch > 0
    return path


@pytest.fixture(scope="session")
def photographs_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with features of all real photographs, at two cuts. Tests may add to it."""
    from headstart.pipeline.featured import cache_features

    store = tmp_path_factory.mktemp("photographs") / "store"
    features = FeatureConfig(backbone="efficientnet_lite0", cut=("top_act", "b10_add"))
    cache_features(conftest.shared_folder() / "data" / "dogs_vs_cats", features, ExtractionConfig(store=store))
    return store


@pytest.fixture
def gaining_run(tiny_run: Path, tiny_tuned_run: Path) -> Path:
    """The run of `tiny_tuned_run` before phase 2, to change. Any epoch gains."""
    shutil.copy(tiny_tuned_run / "head.keras", tiny_run)
    return tiny_run
