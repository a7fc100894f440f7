"""Small data is told as such: simple models beside accuracies, cross-validation, and thresholds of two classes."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import RunError
from headstart.pipeline.demo.drawing import draw_demo
from headstart.pipeline.evaluate.config import FoldsConfig
from headstart.pipeline.evaluate.folds import cross_validate
from headstart.pipeline.evaluate.threshold import threshold_lines
from headstart.pipeline.featured import load_examples
from headstart.pipeline.head import head
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import train_run
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run, read_csv
from headstart.pipeline.runs.choice import choose_model
from headstart.pipeline.scoring.thresholds import Threshold
from headstart.tests.conftest import Cli
from PIL import Image


def chances(run: Path, split: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """The calibrated probability of `dog` and whether it is one, of each image that `evaluate` scored."""
    temperature = json.loads((run / "calibration.json").read_text())["head"]["temperature"]
    with (run / f"predictions-{split}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    logits = np.array([float(row["head:dog"]) for row in rows])
    return 1 / (1 + np.exp(-logits / temperature)), np.array([row["label"] == "dog" for row in rows])


def test_simple_models_stand_beside_every_accuracy(headstart: Cli, run: Path) -> None:
    found = headstart("evaluate", run)
    assert (found["largest_class"], found["largest_class_share"]) == ("cat", 0.5)
    logistic = found["logistic_regression"]
    low, high = logistic["accuracy_interval"]
    assert low <= logistic["accuracy"] <= high
    assert logistic["images"] == len(load_examples(Run.open(run)).of("train"))
    assert found["head"]["better_than_largest_class"] == (found["head"]["accuracy_interval"][0] > 0.5)
    text = " ".join(headstart.text("evaluate", run).split())
    assert f"always `cat` 0.5000, logistic regression {logistic['accuracy']:.4f}" in text
    assert ("not better than always saying `cat`" in text) is not found["head"]["better_than_largest_class"]
    assert f"{found['n']} images say little: `headstart evaluate {run} --folds 10`" in text


def test_head_shows_them_on_val(prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path) -> None:
    result = train_run(prepared, tmp_path / "new", small, extraction, HeadConfig(units=(), epochs=1))
    found = result.fields()
    low, high = found["accuracy_interval"]
    assert low <= found["val"]["accuracy"] <= high
    assert (found["val_images"], found["largest_class_share"]) == (10, 0.5)
    assert 0 <= found["logistic_regression"]["accuracy"] <= 1
    assert any("on 10 images of val: 95 % interval" in line for line in result.lines())
    assert any("val has 10 images, so the calibration is rough" in line for line in result.lines())
    assert found == json.loads(json.dumps(found))


def test_logistic_regression_is_left_out_without_the_training_images(
    headstart: Cli, run: Path, prepared: Path, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    data = tmp_path / "other"
    shutil.copytree(prepared / "test", data)
    found = headstart("evaluate", run, "--data", data, "--store", tmp_path / "fresh")
    assert found["logistic_regression"] is None
    assert found["largest_class_share"] == 0.5


@pytest.mark.slow
def test_folds_score_each_image_once_by_a_head_that_has_not_seen_it(
    run: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run / "head.keras").read_bytes()
    data = run.parent / "data"
    shutil.copytree(prepared, data)
    cat, other = sorted((data / "train" / "cat").glob("*.jpg"))[:2]
    shutil.copy(cat, data / "test" / "cat" / "copy.jpg")
    with Image.open(other) as picture:
        picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)).save(data / "val" / "cat" / "smaller.jpg")
    given: list[tuple[np.ndarray, np.ndarray]] = []

    def recorded(train: LabelledFeatures, val: LabelledFeatures, *settings: Any) -> head.TrainedHead:
        given.append((train.features, val.features))
        return fit(train, val, *settings)

    fit = head.fit_head
    monkeypatch.setattr(head, "fit_head", recorded)
    result = cross_validate(run, FoldsConfig(folds=3, repeats=2), Places(data=data))
    found = result.fields()
    assert (found["folds"], found["repeats"], found["n"], found["groups"]) == (3, 2, 42, 40)
    assert len(found["accuracies"]) == 6
    assert [sorted(np.concatenate(repeat.parts)) for repeat in result.repeats] == [list(range(42))] * 2
    cached = load_examples(Run.open(run), Places(data=data))
    features = cached.labelled(cached.examples).features
    for (train, val), (fold, parts) in zip(
        given, ((at, one.parts) for one in result.repeats for at in range(3)), strict=True
    ):
        assert np.array_equal(val, features[parts[(fold + 1) % 3]])
        assert {row.tobytes() for row in train} | {row.tobytes() for row in val} == {
            row.tobytes() for part in parts if part is not parts[fold] for row in features[part]
        }
        assert not {row.tobytes() for row in train} & {row.tobytes() for row in features[parts[fold]]}
    assert np.sum(found["confusion"]) == 2 * 42
    assert np.trace(found["confusion"]) / 84 == pytest.approx(found["accuracy"])
    low, high = found["accuracy_interval"]
    assert low <= found["accuracy"] <= high
    assert {name: one["support"] for name, one in found["per_class"].items()} == {"cat": 22, "dog": 20}
    assert 0 < found["logistic_regression"]["accuracy_interval"][0] < 1
    assert Run.open(run).metrics()["cross_validation"] == found
    assert (run / "head.keras").read_bytes() == before
    table, reference, *lines = result.lines()
    assert table.title == "42 images (40 that differ), 3 folds x 2"
    assert reference.startswith("always `cat` 0.5238, logistic regression")
    assert any("each trained on 1 of 3 folds; it does not score the run's own weights" in str(one) for one in lines)


@pytest.mark.slow
@pytest.mark.soak
def test_folds_are_the_same_again(headstart: Cli, run: Path) -> None:
    first, again, other = (headstart("evaluate", run, "--folds=4", f"--seed={seed}") for seed in (0, 0, 1))
    assert first == again
    assert (first["repeats"], other["repeats"]) == (3, 3)
    assert first["accuracies"] != other["accuracies"]


def test_other_data_are_not_cross_validated(headstart: Cli, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    draw_demo(other, 8, 5)
    line = headstart.error("evaluate", run, "--folds=3", f"--data={other}", code=2)
    assert f"--folds: {run} was trained on other images than those in {other}" in line
    assert "cross_validation" not in Run.open(run).metrics()


def test_folds_that_cannot_be_drawn_are_refused(headstart: Cli, run: Path) -> None:
    line = headstart.error("evaluate", run, "--folds=21")
    assert "--folds 21: class 'cat' has 20 images that differ" in line
    assert "give --folds 20" in line
    assert "at least 3, or 0. Received: 2" in headstart.error("evaluate", run, "--folds=2", code=2)
    assert "give --folds, too" in headstart.error("evaluate", run, "--repeats=2", code=2)
    line = headstart.error("evaluate", run, "--folds=5", "--split=val", "--cost=2:1", code=2)
    assert "leave --split and --cost out" in line


@pytest.mark.slow
def test_folds_build_no_layers_but_those_of_the_head(run: Path, headstart: Cli) -> None:
    settings = json.loads((run / "config.json").read_text())
    settings["head"]["units"] = [2**20]
    (run / "config.json").write_text(json.dumps(settings))
    assert "head.units is [1048576], the head has [16]" in headstart.error("evaluate", run, "--folds=5")
    settings["head"]["units"] = "many"
    (run / "config.json").write_text(json.dumps(settings))
    assert "head.units: Expected" in headstart.error("evaluate", run, "--folds=5")
    settings["head"] |= {"units": [16], "epochs": 10**9}
    (run / "config.json").write_text(json.dumps(settings))
    assert "--epochs must be from 1 to 100000" in headstart.error("evaluate", run, "--folds=5")


def test_a_threshold_decides_labels_and_is_kept(headstart: Cli, run: Path) -> None:
    plain = headstart("evaluate", run)
    of_dog, is_dog = chances(run)
    assert plain["positive"] == "dog"
    assert plain["head"]["threshold"] is None
    assert plain["head"]["sensitivity"] == np.mean(of_dog[is_dog] > 0.5)
    assert plain["head"]["specificity"] == np.mean(of_dog[~is_dog] <= 0.5)
    value = float(np.sort(of_dog)[2:4].mean())  # two or three are said to be cats
    found = headstart("evaluate", run, f"--threshold={value}")
    assert found["head"]["threshold"] == {"positive": "dog", "value": value, "chosen": "given by --threshold"}
    assert found["head"]["sensitivity"] == np.mean(of_dog[is_dog] > value)
    assert found["head"]["accuracy"] == np.mean((of_dog > value) == is_dog)
    assert (found["head"]["loss"], found["head"]["auc"]) == (plain["head"]["loss"], plain["head"]["auc"])
    low, high = found["head"]["specificity_interval"]
    assert low <= found["head"]["specificity"] <= high
    again = headstart("evaluate", run)  # it is kept
    assert again["head"] == found["head"]
    with (run / "predictions-test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] == "dog" for row in rows] == (of_dog > value).tolist()
    assert float(rows[0]["probability"]) == pytest.approx(of_dog[0] if of_dog[0] > value else 1 - of_dog[0])
    lines = threshold_lines("head", found["head"], "dog")
    assert f"head: `dog` is predicted above a probability of {value:.4g} (given by --threshold)" in lines


@pytest.mark.slow
def test_predict_uses_the_kept_threshold(headstart: Cli, run: Path, prepared: Path, tmp_path: Path) -> None:
    files = sorted((prepared / "test" / "cat").glob("cat*.jpg"))[:2]
    first = headstart("predict", run, *files)
    assert first["threshold"] is None
    likely = [one["probabilities"]["dog"] for one in first["predictions"]]
    value = np.mean(likely)
    headstart("evaluate", run, f"--threshold={value}")
    found = headstart("predict", run, *files)
    assert found["threshold"]["value"] == value
    assert [one["label"] for one in found["predictions"]] == ["dog" if one > value else "cat" for one in likely]
    said = [one if one > value else 1 - one for one in likely]
    assert [one["probability"] for one in found["predictions"]] == pytest.approx(said)
    assert "given by --threshold" in headstart.whole("predict", run, files[0], f"--threshold={value}")[1]
    over = headstart("predict", run, *files, "--threshold=0.000001")
    assert {one["label"] for one in over["predictions"]} == {"dog"}
    headstart("predict", run, *files, "--output", tmp_path / "x.csv")
    line = headstart.error("predict", run, *files, "--output", tmp_path / "x.csv", "--append", "--threshold=0.1")
    assert "not of this run, model and options" in line


@pytest.mark.slow
@pytest.mark.parametrize("positive", ["dog", "cat"])
def test_a_threshold_is_chosen_on_val(headstart: Cli, run: Path, positive: str) -> None:
    other = "cat" if positive == "dog" else "dog"
    few = {
        "sensitivity": (0.5, ""),
        "specificity": (0.95, f"val has 5 images of `{other}`; a specificity of 0.95 needs 19"),
    }
    for rate, (wanted, said) in few.items():
        code, out, told = headstart.whole(
            "evaluate", run, f"--{rate}={wanted}", f"--positive={positive}", "--split=val"
        )
        assert code == 0
        assert said in told
        found = json.loads(out)
        assert found["positive"] == found["head"]["threshold"]["positive"] == positive
        assert found["head"][rate] >= wanted
        assert f"{rate} {wanted} on val" == found["head"]["threshold"]["chosen"]
    found = headstart("evaluate", run, "--cost=1:1000", f"--positive={positive}", "--split=val")
    assert found["head"]["specificity"] == 1
    code, _, told = headstart.whole("evaluate", run, "--cost=1:1", "--split=val")
    assert (code, f"`{positive}` is positive, as in the threshold that the run keeps" in told) == (0, positive == "cat")


ERRORS = {
    ("--threshold=0.3", "--cost=2:1"): "--threshold and --cost: each sets the threshold",
    ("--threshold=1",): "--threshold must be over 0 and under 1",
    ("--sensitivity=nan",): "--sensitivity must be a finite number",
    ("--cost=2",): "--cost must be two numbers such as 10:1",
    ("--cost=0:1",): "--cost must be two finite numbers over 0",
    ("--cost=inf:1",): "--cost must be two finite numbers over 0",
    ("--sensitivity=0.9999999999999999",): "--sensitivity must be over 0 and at most 0.999999",
    ("--positive=fox",): "--positive must be cat or dog",
}


@pytest.mark.parametrize("options", ERRORS)
def test_wrong_thresholds_are_named(headstart: Cli, run: Path, options: tuple[str, ...]) -> None:
    assert ERRORS[options] in headstart.error("evaluate", run, *options, code=2)


def test_a_threshold_needs_two_classes_and_a_val_of_the_run(headstart: Cli, run: Path, prepared: Path) -> None:
    data = run.parent / "other"
    shutil.copytree(prepared / "test", data)
    line = headstart.error("evaluate", run, "--sensitivity=0.9", "--data", data, code=2)
    assert "--sensitivity: is chosen on val of the run's own data" in line
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"class_names": ["cat", "dog", "fox"]}))
    line = headstart.error("evaluate", run, "--threshold=0.3", code=2)
    assert "is for two classes" in line
    assert "has 3" in line
    assert "is for two classes" in headstart.error("predict", run, data, "--threshold=0.3", code=2)


def kept(value: object) -> Callable[[Path], None]:
    """Write a threshold into the metrics of a run's head."""

    def write(run: Path) -> None:
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["head"]["threshold"] = value
        (run / "metrics.json").write_text(json.dumps(metrics))

    return write


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"positive": "fox", "value": 0.3, "chosen": ""}, "threshold.positive is no class of two"),
        ({"positive": "dog", "value": 2, "chosen": ""}, "not between 0 and 1"),
        ({"positive": "dog", "value": "x", "chosen": ""}, "head.threshold.value: Expected `float`"),
        (3, "head.threshold: Expected"),
    ],
)
def test_a_damaged_threshold_is_named(run: Path, headstart: Cli, value: object, said: str) -> None:
    kept(value)(run)
    assert said in headstart.error("evaluate", run)


def test_a_new_training_drops_the_threshold_of_its_model(run: Path) -> None:
    opened, rule = Run.open(run), Threshold("cat", 0.3, "given")
    fresh = {"best_epoch": 1, "val": {"loss": 0.4, "accuracy": 0.8}, "before": {"loss": 0.5, "accuracy": 0.8}}
    opened.update(opened.metrics_file, finetune=fresh)
    opened.keep_thresholds({"head": rule, "finetuned": rule})
    assert opened.threshold("head") == opened.threshold("finetuned") == rule
    opened.classifier_file.touch()
    assert choose_model(opened, "finetuned").threshold == rule
    opened.update(opened.metrics_file, finetune=fresh)  # as `finetune` does
    assert opened.threshold("finetuned") is None
    assert opened.threshold("head") == rule
    opened.update(opened.metrics_file, finetune=fresh | {"best_epoch": 0})
    assert opened.threshold("finetuned") == rule  # it is the head
    opened.keep_thresholds({})
    assert opened.threshold("head") is None
    assert opened.metrics()["head"]["val"]
    kept({"positive": "fox", "value": 0.3, "chosen": ""})(run)
    with pytest.raises(RunError, match="no class of two"):
        opened.threshold("head")


@pytest.mark.slow
@pytest.mark.soak
def test_both_models_have_thresholds_of_their_own(headstart: Cli, run: Path, tuned_run: Path) -> None:
    shutil.copytree(tuned_run, run, dirs_exist_ok=True)
    plain = headstart("evaluate", run)
    found = headstart("evaluate", run, "--sensitivity=0.6")
    opened = Run.open(run)
    assert found["finetuned"]["threshold"] != found["head"]["threshold"]
    for model in ("head", "finetuned"):
        rule = opened.threshold(model)
        assert rule is not None
        assert found[model]["threshold"]["value"] == rule.value
        assert found[model]["auc"] == plain[model]["auc"]
        assert (
            headstart("predict", run, opened.config()["data"], f"--model={model}")["threshold"]["value"] == rule.value
        )
    logits = {row["path"]: float(row["finetuned:dog"]) for row in read_csv(opened.predictions_file("test"))}
    right = [(1 / (1 + np.exp(-one)) > rule.value) == (Path(path).parent.name == "dog") for path, one in logits.items()]
    assert found["finetuned"]["accuracy"] == np.mean(right)
