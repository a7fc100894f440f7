"""How far an answer can be trusted: calibrated probabilities, `--abstain`, `--conformal`, and unlike images."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from headstart.features.errors import RunError
from headstart.pipeline.evaluate.trust import trust_lines
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.finetune import finetune
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.items import Layout, Scored
from headstart.pipeline.predict.predict import predict
from headstart.pipeline.predict.trust import Trust
from headstart.pipeline.runs import Run, origin_of_reference, read_calibration, read_reference
from headstart.pipeline.scoring.calibration import Calibration
from headstart.pipeline.scoring.unlike import Reference
from headstart.tests.pipeline.runs.hostile_runs import RUNS

NEW_FIELDS = {"unsure", "labels", "unlike", "distance"}
DAMAGED = [name for name in RUNS if name.startswith(("calibration", "reference")) and "width" not in name]


@pytest.fixture
def cats(prepared: Path) -> list[Path]:
    return sorted((prepared / "test" / "cat").glob("cat.*.jpg"))[:3]


def set_calibration(run: Path, **fields: object) -> None:
    values = json.loads((run / "calibration.json").read_text())
    values["head"] |= fields
    (run / "calibration.json").write_text(json.dumps(values))


def test_probabilities_are_those_at_the_temperature(run: Path, cats: list[Path]) -> None:
    chances = {}
    for temperature in (1.0, 2.0):
        set_calibration(run, temperature=temperature)
        chances[temperature] = np.array([list(one.probabilities.values()) for one in predict(run, cats).predictions])
    odds = {temperature: np.log(rows[:, 1] / rows[:, 0]) for temperature, rows in chances.items()}
    np.testing.assert_allclose(odds[1.0], 2 * odds[2.0], rtol=1e-4)


def test_the_calibration_error_of_many_images_is_shown() -> None:
    fields = {"calibration_error": {"before": 0.1, "after": None}, "at_coverage": [], "conformal": []}
    assert list(trust_lines({"head": fields}, "head", 499)) == []
    (line,) = trust_lines({"head": fields}, "head", 500)
    assert line.endswith("head 0.1000 (no temperature)")


def test_options_add_fields(headstart, run: Path, cats: list[Path]) -> None:
    plain = headstart("predict", run, *cats)["predictions"]
    assert all(NEW_FIELDS & one.keys() == {"unlike", "distance"} for one in plain)
    middle = sorted(one["distance"] for one in plain)[1]
    set_calibration(run, distance=middle)
    asked = ("predict", run, *cats, "--abstain=1", "--conformal=0.3")
    found = headstart(*asked)["predictions"]
    assert [one["probabilities"] for one in found] == [one["probabilities"] for one in plain]
    kept = read_calibration(Run.open(run), "head")
    assert kept
    threshold = kept.threshold_of_sets(0.3)
    for one in found:
        assert one["unsure"] == (one["probability"] < 1)
        assert one["labels"] == [
            name for name, chance in sorted(one["probabilities"].items(), key=lambda pair: -pair[1])
            if chance >= threshold
        ]  # fmt: skip
        assert one["unlike"] == (one["distance"] > middle)
    lines = headstart.text(*asked).splitlines()
    assert f": unsure ({found[0]['label']} {found[0]['probability']:.4f}); set: " in lines[0]
    assert [line.endswith("; unlike the training images") for line in lines] == [one["unlike"] for one in found]
    assert sum(one["unlike"] for one in found) == 1


def test_a_file_has_columns_for_what_is_asked(headstart, run: Path, cats: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    options = ("--abstain=0.9", "--conformal=0.3", "--output", file)
    headstart("predict", run, *cats[:2], *options)
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0])[-7:] == ["unsure", "labels", "unlike", "distance", "model", "rejected", "detail"]
    assert {row["unsure"] for row in rows} <= {"true", "false"}
    assert all(set(json.loads(row["labels"])) <= {"cat", "dog"} for row in rows)
    assert headstart("predict", run, *cats, *options, "--append")["written"] == 1
    for other in (("--abstain=0.8", *options[1:]), (options[0], "--conformal=0.4", *options[2:])):
        assert "--abstain, --conformal" in headstart.error("predict", run, *cats, *other, "--append")
    set_calibration(run, temperature=3.0)
    assert str(file) in headstart.error("predict", run, *cats, *options, "--append")


def test_wrong_options_are_told(headstart, run: Path, cats: list[Path]) -> None:
    assert "--abstain must be from 0 to 1" in headstart.error("predict", run, *cats, "--abstain=90", code=2)
    assert "--conformal must be" in headstart.error("predict", run, *cats, "--conformal=1", code=2)
    told = headstart.error("predict", run, *cats, "--conformal=0.001", code=2)
    assert "needs more val images than the" in told
    least = told.rsplit(" ", 1)[1]
    assert headstart("predict", run, cats[0], f"--conformal={least}")["predictions"][0]["labels"]


def test_a_set_needs_the_likeliest_label(headstart, run: Path, cats: list[Path]) -> None:
    asked = ("predict", run, cats[0], "--conformal=0.3")
    told = headstart.error(*asked, "--threshold=0.2", code=2)
    assert "--conformal 0.3: with a threshold, a label may lie outside its own set of labels" in told
    assert headstart(*asked, "--threshold=0.5")["predictions"][0]["labels"]


@pytest.mark.slow
def test_a_run_without_a_calibration_says_so(headstart, run: Path, cats: list[Path]) -> None:
    set_calibration(run, temperature=1.0)
    before = predict(run, cats).predictions
    (run / "calibration.json").unlink()
    (run / "reference-head.npy").unlink()
    code, out, err = headstart.whole("predict", run, *cats, "--abstain=0.9")
    assert (code, err.count("holds no calibration of its head; `headstart head`, with --overwrite")) == (0, 1)
    found = json.loads(out)["predictions"]
    assert [one["probability"] for one in found] == [one.probability for one in before]
    assert NEW_FIELDS & found[0].keys() == {"unsure"}
    assert "holds no calibration" in headstart.error("predict", run, *cats, "--conformal=0.1", code=2)
    evaluated = headstart("evaluate", run)["head"]
    assert (evaluated["temperature"], evaluated["calibration_error"]["after"], evaluated["conformal"]) == (
        None,
        None,
        [],
    )
    assert "calibration error" not in headstart.text("evaluate", run)  # of a few images, it says nothing


def test_evaluate_measures_what_predict_promises(headstart, run: Path) -> None:
    found = headstart("evaluate", run)["head"]
    assert found["calibration_error"].keys() == {"before", "after"}
    assert [row["coverage"] for row in found["at_coverage"]] == [1.0, 0.9, 0.8, 0.5]
    assert found["at_coverage"][0]["accuracy"] == found["accuracy"]
    assert [row["alpha"] for row in found["conformal"]] == [0.05, 0.1]
    with (run / "predictions-test.csv").open(newline="") as file:
        rows = {row["path"]: float(row["probability"]) for row in csv.DictReader(file)}
    for one in predict(run, [Path(path) for path in rows]).predictions:
        assert one.probability == pytest.approx(rows[one.path], abs=1e-3)


def read_all(run: Path) -> None:
    opened = Run.open(run)
    read_calibration(opened, "head")
    read_reference(opened, "head")


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_calibration_is_told(run: Path, name: str) -> None:
    RUNS[name](run)
    with pytest.raises(RunError, match="copy the run anew"):
        read_all(run)


def test_a_reference_of_another_model_is_told(headstart, run: Path, cats: list[Path]) -> None:
    RUNS["reference of another width"](run)
    assert "reference-head.npy: holds features of another model" in headstart.error("predict", run, cats[0])
    opened = Run.open(run)
    opened.update(opened.metrics_file, finetune={"best_epoch": 0})
    assert origin_of_reference(opened, "finetuned") == run / "reference-head.npy"


def test_a_set_may_be_empty_and_names_stay_text() -> None:
    trust = Trust(Calibration(1.0, [0.5], 0.5), Reference.of(np.ones((1, 2))), 0.9, 0.8)
    layout = Layout(["[red]", '"b"'], top=2, every=True, model="head", trust=trust)
    sure, unsure = Scored("a", np.array([0.05, 0.95]), 0.1), Scored("b", np.array([0.7, 0.3]), 0.7)
    assert layout.line(sure) == 'a: "b" (0.9500), [red] (0.0500); set: "b"'
    assert layout.line(unsure) == 'b: unsure ([red] 0.7000, "b" 0.3000); set: none; unlike the training images'
    assert layout.prediction(unsure)["labels"] == []
    assert json.loads(dict(zip(layout.columns(), layout.row(sure), strict=True))["labels"]) == ['"b"']


def require_fitting(run: Path, prepared: Path) -> None:
    """Val has the distances from which the limit was taken, so `predict` sees the features that `finetune` saw."""
    val = sorted((prepared / "val").rglob("*.jpg"))
    found = predict(run, val, PredictConfig(model="finetuned")).predictions
    kept = read_calibration(Run.open(run), "finetuned")
    assert kept
    assert np.quantile([one.distance for one in found], 0.99) == pytest.approx(kept.distance, rel=0.02)
    assert sum(bool(one.unlike) for one in found) <= 1


@pytest.mark.slow
def test_a_fine_tuned_classifier_has_a_calibration_of_its_own(
    tiny_run: Path, tiny_tuned_run: Path, prepared: Path
) -> None:
    head = read_calibration(Run.open(tiny_run), "head")
    shutil.copytree(tiny_tuned_run, tiny_run, dirs_exist_ok=True)
    opened = Run.open(tiny_run)
    assert read_calibration(opened, "head") == head != read_calibration(opened, "finetuned")
    require_fitting(tiny_run, prepared)
    diverging = FinetuneConfig(epochs=1, batch_size=8, learning_rate=1e4)
    assert finetune(tiny_run, diverging, overwrite=True).best_epoch == 0
    assert read_calibration(opened, "finetuned") == head
    assert not opened.reference_file("finetuned").exists()
    require_fitting(tiny_run, prepared)


@pytest.mark.slow
@pytest.mark.parametrize("views", [0, 2])
def test_a_classifier_trained_from_a_cache_is_calibrated(gaining_run: Path, prepared: Path, views: int) -> None:
    finetune(gaining_run, FinetuneConfig(epochs=1, batch_size=8, learning_rate=1e-3, from_cache=True, views=views))
    assert Run.open(gaining_run).reference_file("finetuned").exists()
    require_fitting(gaining_run, prepared)
