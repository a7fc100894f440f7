"""A run that was moved, alone or with its project: what is found, in which order, and what is never made."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import RunError, WeightsError
from headstart.pipeline.evaluate.evaluate import evaluate
from headstart.pipeline.featured import load_examples
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import train_run
from headstart.pipeline.locating import run_data, run_store
from headstart.pipeline.places import NetworkPlaces, Places
from headstart.pipeline.predict.networks import networks_of
from headstart.pipeline.runs import Run
from headstart.pipeline.runs.paths import with_absolute_paths, with_relative_paths
from headstart.tests.conftest import QUICK, SMALL

HEAD = HeadConfig(units=(), epochs=1)


@pytest.fixture(scope="module")
def made(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project: data, weights, a store, and a run. Tests only read it."""
    project = tmp_path_factory.mktemp("project") / "here"
    shutil.copytree(prepared, project / "data")
    features = FeatureConfig(**SMALL)
    store = ExtractionConfig(store=project / "store", **QUICK)
    train_run(project / "data", project / "random", features, store, HEAD)
    (network,) = networks_of(Run.open(project / "random"), NetworkPlaces())
    network.backbone.model.save_weights(project / "net.weights.h5")
    weights = replace(features, weights=str(project / "net.weights.h5"))
    train_run(project / "data", project / "runs" / "a", weights, store, HEAD)
    shutil.rmtree(project / "random")
    return project


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project after it was moved as a whole."""
    for kind in ("DATA", "STORE", "WEIGHTS"):
        monkeypatch.delenv(f"HEADSTART_{kind}", raising=False)
    there = tmp_path / "deeper" / "there"
    shutil.copytree(made, there)
    made.rename(made.with_name("away"))  # nothing may be read from the old place
    yield there
    assert not made.exists()
    made.with_name("away").rename(made)


def test_paths_are_relative_on_disk_and_absolute_in_memory(made: Path) -> None:
    written = json.loads((made / "runs" / "a" / "config.json").read_text())
    features = written["features"]
    assert (written["data"], features["store"], features["weights"]) == (
        "../../data", "../../store", "../../net.weights.h5"
    )  # fmt: skip
    assert str(made) not in json.dumps(written)
    assert Run.open(made / "runs" / "a").config()["data"] == str(made / "data")


@pytest.mark.slow
def test_a_project_that_is_moved_needs_no_option(headstart: Any, project: Path) -> None:
    run = project / "runs" / "a"
    assert headstart("evaluate", run)["n"] > 0
    assert headstart("finetune", run, "--epochs=1", "--batch-size=8")["best_epoch"] >= 0
    assert headstart("predict", run, project / "data" / "test" / "cat", "--max-rejects=1")["predictions"]
    assert headstart("evaluate", run)["finetuned"]
    assert headstart("compare", run)["runs"]


@pytest.mark.slow
def test_what_moved_alone_is_named_by_option_or_variable(
    headstart: Any, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, elsewhere = project / "runs" / "a", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name, kind in (("data", "data"), ("store", "store"), ("net.weights.h5", "weights")):
        there = elsewhere / kind / name  # no longer where the store remembers the weights
        there.parent.mkdir()
        (project / name).rename(there)
        said = headstart.error("evaluate", run)
        assert f"its {kind} {project / name} is gone; say with --{kind} or HEADSTART_{kind.upper()}" in said
        assert not (project / name).exists()
        assert headstart("evaluate", run, f"--{kind}", there)["n"] > 0
        monkeypatch.setenv(f"HEADSTART_{kind.upper()}", str(there))
        assert headstart("evaluate", run)["n"] > 0
    assert sorted(path.name for path in project.iterdir()) == ["runs"]
    assert (elsewhere / "store" / "store" / "rejects.csv").exists()


def test_the_order_is_option_then_own_place_then_variable(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(project / "runs" / "a")
    for name in ("data", "store"):
        shutil.copytree(project / name, tmp_path / name)
        monkeypatch.setenv(f"HEADSTART_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("HEADSTART_WEIGHTS", "random")
    assert (run_data(run), run_store(run)) == (project / "data", project / "store")
    assert networks_of(run, NetworkPlaces())[0].config.weights == str(project / "net.weights.h5")
    given = Places(data=tmp_path / "data", store=tmp_path / "new")
    assert (run_data(run, given), run_store(run, given)) == (given.data, given.store)
    shutil.rmtree(project / "data")
    shutil.rmtree(project / "store")
    assert (run_data(run), run_store(run)) == (tmp_path / "data", tmp_path / "store")
    (project / "net.weights.h5").unlink()
    assert networks_of(run, NetworkPlaces())[0].config.weights == "random"  # has the same digest


def test_what_is_gone_is_named(project: Path) -> None:
    for name, kind in (("data", "data"), ("store", "store"), ("net.weights.h5", "weights")):
        (project / name).rename(project / f"{name}.moved")
        with pytest.raises(RunError) as raised:
            load_examples(Run.open(project / "runs" / "a"))
        assert f"its {kind} {project / name} is gone; say with --{kind} or HEADSTART_{kind.upper()}" in str(
            raised.value
        )
        assert not (project / name).exists()
        (project / f"{name}.moved").rename(project / name)


def test_a_folder_that_is_no_store_is_not_written_to(project: Path) -> None:
    shutil.rmtree(project / "store")
    (project / "store").mkdir()
    with pytest.raises(RunError, match="does not hold its features; say with --store"):
        load_examples(Run.open(project / "runs" / "a"))
    assert list((project / "store").iterdir()) == []


@pytest.mark.parametrize("keys", [{}, {"mixed10": "../../x"}, {"mixed10": "*"}])
def test_a_run_whose_keys_are_no_hashes_names_no_store(project: Path, keys: dict[str, str]) -> None:
    config = json.loads((project / "runs" / "a" / "config.json").read_text())
    (project / "runs" / "a" / "config.json").write_text(json.dumps({**config, "fingerprints": keys}))
    with pytest.raises(RunError, match="does not hold its features"):
        run_store(Run.open(project / "runs" / "a"), Places())


@pytest.mark.slow
def test_weights_are_known_by_digest(project: Path, tmp_path: Path) -> None:
    run = Run.open(project / "runs" / "a")
    again = tmp_path / "any.weights.h5"
    shutil.copy(project / "net.weights.h5", again)
    assert networks_of(run, Places(weights=str(again)))[0].config.weights == str(again)
    (network,) = networks_of(run, NetworkPlaces())
    model = keras.models.clone_model(network.backbone.model)
    model.set_weights([2 * values for values in network.backbone.model.get_weights()])
    model.save_weights(again)
    digest = run.config()["weights_digest"][:8]
    with pytest.raises(
        RunError, match=rf"any\.weights\.h5 holds other weights \(\w+\.\.\.\) than .* \({digest}\.\.\.\)"
    ):
        networks_of(run, Places(weights=str(again)))
    with pytest.raises(WeightsError, match="no such file"):
        networks_of(run, Places(weights=str(tmp_path / "none.h5")))


def test_a_run_alone_has_its_networks(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "runs" / "a", tmp_path / "alone")
    shutil.rmtree(project / "store")
    shutil.rmtree(project / "data")
    weights = str(project / "net.weights.h5")
    (network,) = networks_of(Run.open(tmp_path / "alone"), Places(weights=weights))
    assert network.config.precision == "float32"
    assert np.isfinite(network.backbone.model.get_weights()[0]).all()
    assert not network.extraction.store.exists()


def config_of(**features: Any) -> dict[str, Any]:
    settings = {"backbone": "inception_v3", "weights": "imagenet", "cut": [], "store": "/p/store"} | features
    return {"data": "/p/data", "fingerprints": {"mixed10": "k"}, "features": settings}


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({}, {}),
        ({"store": "/p/runs/a/store"}, {"store": "./store"}),
        ({"store": "/else/store"}, {"store": "/else/store"}),  # only the root is common
        ({"weights": "/p/w+1.h5"}, {"weights": "../../w+1.h5"}),
        (
            {"backbone": "xception+resnet50_v2", "weights": "/p/a.h5+imagenet", "cut": ["xception/block2"]},
            {"weights": "../../a.h5+imagenet"},
        ),
        (
            {"backbone": "xception+resnet50_v2", "weights": "/p/a+1.h5+/p/b.h5"},
            {"weights": "/p/a+1.h5+/p/b.h5"},
        ),
        (
            {"backbone": "/p/n+1.keras+xception", "cut": ["/p/n+1.keras/conv", "xception/block2"]},
            {"backbone": "../../n+1.keras+xception", "cut": ["../../n+1.keras/conv", "xception/block2"]},
        ),
    ],
)  # fmt: skip
def test_paths_there_and_back(given: dict[str, Any], written: dict[str, Any]) -> None:
    config = config_of(**given)
    relative = with_relative_paths(config, Path("/p/runs/a"))
    expected = {"store": "../../store"} | written
    assert {name: relative["features"][name] for name in expected} == expected
    assert relative["data"] == "../../data"
    assert with_absolute_paths(relative, Path("/p/runs/a")) == config
    assert with_absolute_paths(config, Path("/q")) == config  # as earlier versions wrote it


def test_symlinks_and_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "big" / "runs").mkdir(parents=True)
    (tmp_path / "big" / "data").mkdir()
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "runs").symlink_to(tmp_path / "big" / "runs")
    (tmp_path / "project" / "photos").mkdir()
    config = config_of() | {"data": str(tmp_path / "project" / "photos")}
    through_link = with_relative_paths(config, tmp_path / "project" / "runs" / "a")
    assert through_link["data"] == "../../photos"
    assert with_absolute_paths(through_link, tmp_path / "project" / "runs" / "a") == config
    # `runs/..` is `big`, as the system reads it
    config = config_of() | {"data": str(tmp_path / "project" / "runs" / ".." / "data")}
    relative = with_relative_paths(config, tmp_path / "big" / "runs" / "a")
    assert relative["data"] == "../../data"
    found = with_absolute_paths(relative, tmp_path / "project" / "runs" / "a")
    assert os.path.samefile(found["data"], tmp_path / "big" / "data")
    monkeypatch.chdir(tmp_path / "big" / "runs")
    assert with_absolute_paths(relative, Path("a"))["data"] == str(tmp_path / "big" / "data")


@pytest.mark.slow
def test_a_copied_run_takes_no_other_projects_data_and_store(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(project / "data", other / "data")
    for path in (other / "data").rglob("*.*"):
        path.chmod(0o644)
        path.write_bytes(path.read_bytes() + b"other")
    (other / "store" / "inception_v3-mixed10-000000000000").mkdir(parents=True)
    (other / "store" / "inception_v3-mixed10-000000000000" / "fingerprint.json").write_text("{}")
    (other / "runs").mkdir()
    shutil.copytree(project / "runs" / "a", other / "runs" / "a")
    with pytest.raises(RunError, match="does not hold its features; say with --store"):
        evaluate(other / "runs" / "a")
    places = Places(store=tmp_path / "new", weights=str(project / "net.weights.h5"))
    with pytest.raises(RunError, match="holds under half of the images that it was trained on"):
        evaluate(other / "runs" / "a", places=places)
    assert not (other / "runs" / "a" / "predictions-test.csv").exists()


def test_weights_are_found_through_the_stores_memory(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "runs" / "a", tmp_path / "x" / "run")
    run, places = Run.open(tmp_path / "x" / "run"), NetworkPlaces(store=project / "store")
    (network,) = networks_of(run, places)
    assert network.config.weights == str(project / "net.weights.h5")
