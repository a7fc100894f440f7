"""Predictions and scores by Ray's workers on this machine, compared with those of one process."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headstart.features.cluster import crew
from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.probe import NodeError
from headstart.features.errors import OptionError
from headstart.pipeline.evaluate.evaluate import evaluate
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.predict.classifying.by_ray import PredictJob, predict_task
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.predict import predict_to_file, predicting
from headstart.pipeline.runs import Run
from headstart.tests.features.cluster.scan_workers import DEADLY, DeadlyPredictor
from headstart.tests.ray_nodes import two_ray_nodes

TWO = ClusterConfig(ray="auto", ray_cpus=1)


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[None]:
    """Two nodes of one CPU, besides a head without any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        with two_ray_nodes():
            yield


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def same(one: list[dict[str, str]], two: list[dict[str, str]]) -> bool:
    """Whether all columns agree; numbers to 1e-5, as in other batches."""
    for left, right in zip(one, two, strict=True):
        for name, value in left.items():
            try:
                agree = np.isclose(float(value), float(right[name]), rtol=1e-4, atol=1e-5)
            except ValueError:
                agree = value == right[name]
            if not agree:
                pytest.fail(f"{name}: {value} and {right[name]}")
    return True


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("model", ["head", "finetuned"])
def test_workers_predict_as_one_process_does(
    two_nodes: None, tiny_tuned_run: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    monkeypatch.chdir(drawn.parent)
    listed = tmp_path / "list.txt"
    listed.write_text("no/such.jpg\n")
    # A store that is not there: each image is decoded.
    places = NetworkPlaces(store=tmp_path / "no store")
    settings: dict[str, Any] = {"model": model, "listed": listed, "max_rejects": 1.0}
    alone = PredictConfig(output=tmp_path / "alone.csv", **settings)
    shared = PredictConfig(output=tmp_path / "shared.csv", **settings)
    first = predict_to_file(tiny_tuned_run, [Path(drawn.name)], alone, places)
    second = predict_to_file(tiny_tuned_run, [Path(drawn.name)], shared, places, by_ray=TWO)
    assert (second.written, second.rejected, second.skipped) == (first.written, first.rejected, 0)
    assert first.rejected > 1
    found = rows(tmp_path / "shared.csv")
    assert same(rows(tmp_path / "alone.csv"), found)
    if model == "finetuned":
        return
    lines = (tmp_path / "shared.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "shared.csv").write_bytes(b"".join(lines[:20]))
    more = PredictConfig(append=True, output=shared.output, **settings)
    third = predict_to_file(tiny_tuned_run, [Path(drawn.name)], more, places, by_ray=TWO)
    assert third.skipped == 19
    assert same(found, rows(tmp_path / "shared.csv"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_workers_score_as_one_process_does(two_nodes: None, tiny_tuned_run: Path, tmp_path: Path) -> None:
    run = Run.open(tiny_tuned_run)
    alone = evaluate(tiny_tuned_run, "val")
    before = rows(run.predictions_file("val"))
    shared = evaluate(tiny_tuned_run, "val", by_ray=TWO)
    assert same(before, rows(run.predictions_file("val")))
    assert shared.finetuned is not None
    assert alone.finetuned is not None
    assert shared.finetuned["accuracy"] == alone.finetuned["accuracy"]
    assert shared.finetuned["precision"] == alone.finetuned["precision"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.soak
def test_an_image_that_kills_its_workers(
    two_nodes: None, tiny_tuned_run: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "Worker", DeadlyPredictor)
    folder = tmp_path / "cat"
    folder.mkdir()
    whole = sorted((drawn / "cat").glob("*.jpg"), key=lambda file: -file.stat().st_size)  # some others are broken
    for name, image in zip(("1.jpg", Path(DEADLY).name), whole, strict=False):
        shutil.copyfile(image, folder / name)
    config = PredictConfig(output=tmp_path / "out.csv", max_rejects=1.0, model="head")
    done = predict_to_file(tiny_tuned_run, [folder], config, by_ray=TWO)
    assert (done.written, done.rejected) == (1, 1)
    one, two = rows(tmp_path / "out.csv")
    assert (one["path"], one["rejected"]) == (str(folder / "1.jpg"), "")
    assert (two["path"], two["rejected"]) == (str(tmp_path / DEADLY), "crashed")


def test_predictions_by_workers_need_a_file(trained_run: Path, drawn: Path) -> None:
    with pytest.raises(OptionError, match="--output"):
        predict_to_file(trained_run, [drawn], PredictConfig(), by_ray=ClusterConfig(ray="local"))


@pytest.mark.slow
def test_a_node_with_another_store_or_model_is_refused(trained_run: Path, drawn: Path, tmp_path: Path) -> None:
    config = PredictConfig(output=tmp_path / "out.csv")
    begun = predicting(trained_run, [drawn / "cat"], config)
    task = predict_task(begun.answers, config, NetworkPlaces(), 0, 10**6, "first")
    met = PredictJob(task).meet()
    task.require_same(met)
    with pytest.raises(NodeError, match="another model"):
        task.require_same(("head 0123", met[1]))
    with pytest.raises(NodeError, match="does not see the store"):
        task.require_same((met[0], []))
