import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, RunError
from headstart.features.images.batches import decoded_batches
from headstart.pipeline.evaluate.evaluate import evaluate
from headstart.pipeline.evaluate.trust import abstain_limit, score_trust
from headstart.pipeline.featured import load_examples
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.finetune import finetune
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import train_run
from headstart.pipeline.places import Places
from headstart.pipeline.predict.predict import predict
from headstart.pipeline.runs import Run, read_csv, write_csv
from headstart.pipeline.runs.choice import Choice
from headstart.pipeline.scoring.metrics import score
from headstart.pipeline.scoring.simple_models import SimpleModels
from headstart.tests.conftest import tiny_network
from PIL import Image

COLUMNS = ["path", "digest", "label", "model", "predicted", "probability"]


def read_predictions(run: Path, split: str = "test") -> list[dict[str, str]]:
    with (run / f"predictions-{split}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_hold_every_example_and_agree_with_the_metrics(run: Path) -> None:
    result = evaluate(run, "test")
    rows = read_predictions(run)
    examples = load_examples(Run.open(run)).of("test")
    assert [row["path"] for row in rows] == [example.image.path for example in examples]
    assert [row["digest"] for row in rows] == [example.image.digest for example in examples]
    assert all(row["label"] == Path(row["path"]).parent.name for row in rows)
    assert result.n == len(rows)
    right = [(float(row["head:dog"]) > 0) == (row["label"] == "dog") for row in rows]
    assert result.head["accuracy"] == np.mean(right)
    assert result.finetuned is None
    assert Run.open(run).metrics()["evaluate"]["test"]["head"] == result.head


@pytest.mark.slow
def test_a_fine_tuned_run_is_scored_twice_and_the_head_as_before(gaining_run: Path, tiny_tuned_run: Path) -> None:
    run = gaining_run
    before = evaluate(run, "val")
    seen = {"duplicates_in_train": 0, "near_duplicates_in_train": 0}
    assert seen.items() <= before.fields().items()
    assert "finetuned" not in before.fields()
    shutil.copytree(tiny_tuned_run, run, dirs_exist_ok=True)
    after = evaluate(run, "val")
    assert after.head == before.head
    assert after.finetuned is not None
    assert after.fields()["finetuned"] == after.finetuned
    said = Run.open(run).metrics()["finetune"]["val"]
    assert after.finetuned["loss"] == pytest.approx(said["loss"], rel=1e-3)
    assert after.finetuned["accuracy"] == pytest.approx(said["accuracy"])
    assert list(read_predictions(run, "val")[0]) == [*COLUMNS, "head:dog", "finetuned:dog"]


def test_val_is_scored_as_training_said(run: Path) -> None:
    said = Run.open(run).metrics()["head"]["val"]
    result = evaluate(run, "val")
    assert result.head["accuracy"] == pytest.approx(said["accuracy"])
    assert result.head["loss"] == pytest.approx(said["loss"], rel=1e-4)


@pytest.mark.slow
def test_all_splits_together(run: Path) -> None:
    counts = [evaluate(run, split).n for split in ("train", "val", "test", "all")]
    assert sum(counts[:3]) == counts[3] == 40


def test_class_order_agrees_between_train_evaluate_and_predict(run: Path) -> None:
    temperature = evaluate(run, "test").head["temperature"]
    rows = {row["path"]: row for row in read_predictions(run)}
    predicted = predict(run, [Path(path) for path in rows])
    for item in predicted.predictions:
        chance = 1 / (1 + np.exp(-float(rows[item.path]["head:dog"]) / temperature))
        assert list(item.probabilities) == ["cat", "dog"] == Run.open(run).config()["class_names"]
        assert item.probabilities["dog"] == pytest.approx(chance, abs=1e-3)
        assert item.label == ("dog" if item.probabilities["dog"] > 0.5 else "cat")
        assert item.probability == max(item.probabilities.values())


def test_other_data_is_labelled_by_the_run_s_classes(run: Path, prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "other"
    for path in (prepared / "test" / "dog").iterdir():
        (data / "test" / "dog").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, data / "test" / "dog")
    result = evaluate(run, "test", Places(data=data))  # only one class, whose index here is 0 and in the run 1
    evaluate(run, "test")
    expected = [float(row["head:dog"]) > 0 for row in read_predictions(run) if row["label"] == "dog"]
    assert result.head["accuracy"] == np.mean(expected)
    (data / "test" / "dog").rename(data / "test" / "fox")
    with pytest.raises(DataError, match="knows no class 'fox'"):
        evaluate(run, "test", Places(data=data))


def test_leaks_are_told_of(run: Path, prepared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(run, "test")
    assert "are in train" not in capfd.readouterr().err
    data = tmp_path / "other"
    shutil.copytree(prepared / "train", data / "test")
    result = evaluate(run, "test", Places(data=data))
    assert "images of test of other are in train too" in capfd.readouterr().err
    assert result.fields()["duplicates_in_train"] == result.n


@pytest.mark.slow
def test_near_duplicates_of_training_images_are_counted(
    run: Path, prepared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "other"
    shutil.copytree(prepared / "test", data / "test")
    for source in sorted((prepared / "train" / "cat").iterdir())[:3]:
        with Image.open(source) as picture:
            picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)).save(data / "test" / "cat" / source.name)
    result = evaluate(run, "test", Places(data=data))
    assert result.fields()["near_duplicates_in_train"] == 3
    assert result.fields()["duplicates_in_train"] == 0
    assert "3 images of test of other have a near-duplicate in train" in capfd.readouterr().err
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"data": str(tmp_path / "gone")}))
    assert evaluate(run, "test", Places(data=data)).fields()["near_duplicates_in_train"] is None
    assert "near_duplicates_in_train" not in evaluate(run, "train", Places(data=prepared)).fields()


@pytest.mark.slow
def test_all_of_a_folder_without_splits_is_scored(
    headstart, run: Path, prepared: Path, drawn: Path, tmp_path: Path
) -> None:
    own = headstart("evaluate", run)
    assert (own["split"], own["scored"]) == ("test", "test")
    data = tmp_path / "my holdout="
    for name in ("cat", "dog"):
        shutil.copytree(prepared / "test" / name, data / name)
    found = headstart("evaluate", run, "--data", data)
    assert (found["n"], found["split"], found["scored"]) == (own["n"], "all", "all of my holdout= (no splits)")
    assert found["head"]["accuracy"] == own["head"]["accuracy"]
    assert found["near_duplicates_in_train"] == 0
    assert Path(found["predictions_file"]) == run / "predictions-my_holdout_-all.csv"
    assert Path(found["confusion_file"]).is_file()
    assert "so all of its" in headstart.whole("evaluate", run, "--data", data)[2]
    kept = Run.open(run).metrics()["evaluate"]
    assert set(kept) == {"test", f"all of {data}"}
    assert len(read_predictions(run)) == own["n"]
    assert headstart("evaluate", run, "--data", data, "--split=train")["n"] < own["n"]


@pytest.mark.slow
def test_two_folders_of_one_name_have_files_of_their_own(headstart, run: Path, prepared: Path, tmp_path: Path) -> None:
    def predictions_of(place: str, split: str) -> Path:
        data = tmp_path / place / "x"
        if not data.exists():
            shutil.copytree(prepared / split, data)
        return Path(headstart("evaluate", run, "--data", data)["predictions_file"])

    first, second = predictions_of("a", "test"), predictions_of("b", "val")
    assert first.name == "predictions-x-all.csv"
    assert second.name.startswith("predictions-x-")
    assert first != second
    assert first.read_text() != second.read_text()
    assert [predictions_of("a", "test"), predictions_of("b", "val")] == [first, second]


def test_the_run_s_own_data_at_another_place_are_its_own(headstart, run: Path, prepared: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(prepared, moved)
    found = headstart("evaluate", run, "--data", moved)
    assert (found["split"], found["scored"]) == ("test", "test")
    assert set(Run.open(run).metrics()["evaluate"]) == {"test"}
    assert Path(found["predictions_file"]).name == "predictions-test.csv"


def test_mistakes_come_first_if_asked(headstart, run: Path) -> None:
    shown = headstart("evaluate", run, "--split=all", "--sort=mistakes")
    rows = read_predictions(run, "all")
    assert list(rows[0]) == [*COLUMNS, "head:dog"]
    right = [row["predicted"] == row["label"] for row in rows]
    assert right == sorted(right)
    assert not all(right), "there is no mistake: the test would show nothing"
    chances = [float(row["probability"]) for row in rows]
    wrong = right.count(False)
    assert chances[:wrong] == sorted(chances[:wrong], reverse=True)
    assert chances[wrong:] == sorted(chances[wrong:])
    assert {row["model"] for row in rows} == {"head"} == {shown["better"]}
    for row, chance in zip(rows, chances, strict=True):
        odds = float(row["head:dog"]) * (1 if row["predicted"] == "dog" else -1)
        assert chance == pytest.approx(1 / (1 + np.exp(-odds / shown["head"]["temperature"])))
    plain = [row["path"] for row in rows]
    headstart("evaluate", run, "--split=all")
    assert sorted(plain) == sorted(row["path"] for row in read_predictions(run, "all"))


def test_the_summary_tells_a_person_how_good_it_is(headstart, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text, found = headstart.text("evaluate", run), headstart("evaluate", run)
    assert f"always `cat` {found['largest_class_share']:.4f}, logistic regression" in text
    low, high = found["head"]["per_class"]["dog"]["recall_interval"]
    assert f"{low:.3f} - {high:.3f}" in text
    assert {"balanced", "macro F1"} <= {word.strip() for word in text.replace("┃", "\n").splitlines()}
    assert found["mcnemar"] is None


@pytest.mark.slow
def test_what_was_not_fine_tuned_has_no_row(headstart, tiny_tuned_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_tuned_run, run)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["finetune"]["best_epoch"] = 0
    (run / "metrics.json").write_text(json.dumps(metrics))
    found = headstart("evaluate", run)
    assert "finetuned" not in found
    assert (found["better"], found["mcnemar"]) == ("head", None)
    text = headstart.text("evaluate", run)
    assert "no epoch of fine-tuning was better on val than the head" in text


@pytest.mark.slow
@pytest.mark.parametrize(("on_val", "answering"), [(0.1, "finetuned"), (0.9, "head")])
def test_details_are_of_the_model_that_answers(
    headstart, tiny_run: Path, tiny_tuned_run: Path, on_val: float, answering: str
) -> None:
    run = tiny_run
    shutil.copytree(tiny_tuned_run, run, dirs_exist_ok=True)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["finetune"] |= {"best_epoch": 1, "before": {"loss": 0.5}, "val": {"loss": on_val}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    found, text = headstart("evaluate", run), headstart.text("evaluate", run)
    assert found["answering"] == headstart("predict", run, read_predictions(run)[0]["path"])["model"] == answering
    assert {row["model"] for row in read_predictions(run)} == {answering}
    assert f"each class, by {answering}" in text
    assert (f"details are of {answering}, because `predict` answers with it" in text) == (found["better"] != answering)


@pytest.mark.slow
def test_both_models_are_scored_and_tested_against_each_other(tiny_tuned_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_tuned_run, run)
    result = evaluate(run)
    found, rows = result.fields(), read_predictions(run)
    right = {
        model: np.array([(float(row[f"{model}:dog"]) > 0) == (row["label"] == "dog") for row in rows])
        for model in ("head", "finetuned")
    }
    better = max(right, key=lambda model: (right[model].mean(), -found[model]["loss"]))
    assert (found["better"], found["mcnemar"]["first"]) == (better, better)
    other = right["finetuned" if better == "head" else "head"]
    assert found["mcnemar"]["only_first"] == (right[better] & ~other).sum()
    assert found["mcnemar"]["only_second"] == (other & ~right[better]).sum()
    assert {row["model"] for row in rows} == {found["answering"]}
    assert any("(McNemar), " in str(line) for line in result.lines())
    confused = read_csv(run / "confusion-test.csv")
    for model, marks in right.items():
        counts = [int(row["count"]) for row in confused if row["model"] == model and row["true"] == row["predicted"]]
        assert sum(counts) == marks.sum()

    saved, cached = keras.models.load_model(run / "classifier.keras"), load_examples(Run.open(run))
    images = [one.image for one in cached.of("test")]
    pixels = np.concatenate([batch for _, batch in decoded_batches(images, cached.network.images, 8)])
    expected = saved.predict(pixels, verbose=0)[:, 0]
    np.testing.assert_allclose([float(row["finetuned:dog"]) for row in rows], expected, atol=1e-4)
    assert np.abs(expected - [float(row["head:dog"]) for row in rows]).max() > 1e-2


@pytest.mark.slow
@pytest.mark.soak
def test_a_reduced_run_is_scored_in_its_precision(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    path = tmp_path / "reduced"
    train_run(prepared, path, replace(small, precision="bfloat16"), extraction, HeadConfig(units=(16,), epochs=3))
    finetune(path, FinetuneConfig(epochs=3, batch_size=8, learning_rate=1e-2, augment="none"))
    assert Run.open(path).metrics()["finetune"]["best_epoch"] > 0
    result = evaluate(path, "val")
    assert result.head["precision"] == "bfloat16"
    assert result.finetuned is not None
    assert result.finetuned["precision"] == "bfloat16"
    assert result.finetuned["loss"] == pytest.approx(Run.open(path).metrics()["finetune"]["val"]["loss"], rel=0.1)


def test_outputs_that_are_not_finite_are_an_error(run: Path) -> None:
    head = keras.models.load_model(run / "head.keras")
    head.set_weights([np.full_like(weight, 1e38) for weight in head.get_weights()])
    head.save(run / "head.keras")
    with pytest.raises(RunError, match=r"head\.keras: its outputs for .* are not finite"):
        evaluate(run)
    assert "evaluate" not in Run.open(run).metrics()


def test_names_that_are_formulas_are_safe_and_compare_reads_them(headstart, run: Path) -> None:
    evaluate(run)
    other = run.with_name("other")
    shutil.copytree(run, other)
    for path in (run, other):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"class_names": ["=cat", "dog"]}))
        file = path / "predictions-test.csv"
        rows = [{**row, "label": row["label"].replace("cat", "=cat")} for row in read_csv(file)]
        write_csv(file, list(rows[0]), [[*row.values()] for row in rows])
    assert ",'=cat," in (run / "predictions-test.csv").read_text()
    assert headstart("compare", run, other)["test"]["p"] == 1.0


def test_large_confusions_are_kept_apart(tmp_path: Path) -> None:
    from headstart.pipeline.evaluate.result import EvaluateResult

    def result(classes: int) -> EvaluateResult:
        rng, names = np.random.default_rng(0), [f"{label}" for label in range(classes)]
        logits, labels = rng.normal(size=(50, classes)), rng.integers(0, classes, 50)
        metrics = {**score(logits, labels, names), **score_trust(logits, labels, None), "precision": "float32"}
        files = {
            "predictions_file": tmp_path / "predictions-test.csv",
            "confusion_file": tmp_path / "confusion-test.csv",
        }
        simple, answering = SimpleModels("0", 0.1, None), Choice("head", "")
        return EvaluateResult("test", "test", 50, simple, metrics, None, "head", answering, None, False, **files)

    few, some, many = map(result, (30, 31, 101))
    assert few.kept_fields()["head"]["confusion"] == few.fields()["head"]["confusion"]
    assert some.fields()["head"]["confusion"] is not None
    assert some.kept_fields()["head"]["confusion"] is many.fields()["head"]["confusion"] is None
    assert some.kept_fields()["confusion_file"] == "confusion-test.csv"
    tables = [len(list(one.lines())) for one in (few, some, many)]
    assert tables == [6, 5, 5]


def test_a_missing_split_is_an_error_where_it_is_asked_for(run: Path, prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "other"
    shutil.copytree(prepared / "val", data / "val")
    assert evaluate(run, "val", Places(data=data)).n > 0
    with pytest.raises(DataError, match="test split has no usable images"):
        evaluate(run, "test", Places(data=data))


def test_a_damaged_run_is_named(run: Path) -> None:
    (run / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json: not JSON"):
        evaluate(run)


@pytest.mark.slow
def test_softmax_through_both_phases(tmp_path: Path, extraction: ExtractionConfig) -> None:
    from PIL import Image, ImageDraw

    names = ["bar", "cross", "disc", "ring", "square"]
    colours = ["red", "lime", "blue", "white", "black"]
    draw_one = {
        "bar": lambda draw, box, colour: draw.line(box, colour, 12),
        "cross": lambda draw, box, colour: draw.text(box[:2], "X", colour, font_size=60),
        "disc": lambda draw, box, colour: draw.ellipse(box, colour),
        "ring": lambda draw, box, colour: draw.ellipse(box, outline=colour, width=12),
        "square": lambda draw, box, colour: draw.rectangle(box, colour),
    }
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6), ("test", 6)):
        for name, colour in zip(names, colours, strict=True):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                x, y = (int(value) for value in rng.integers(0, 30, 2))
                picture = Image.effect_noise((96, 96), 20).convert("RGB")
                draw_one[name](ImageDraw.Draw(picture), (x, y, x + 60, y + 60), colour)
                picture.save(tmp_path / "data" / split / name / f"{number}.jpg")
    tiny = FeatureConfig(backbone=tiny_network(tmp_path), rescale="unit", precision="float32")
    train_run(
        tmp_path / "data", tmp_path / "run", tiny, extraction, HeadConfig(units=(64,), epochs=20, learning_rate=3e-3)
    )
    finetune(tmp_path / "run", FinetuneConfig(epochs=2, batch_size=8, learning_rate=1e-4, augment="none"))
    result = evaluate(tmp_path / "run", "test")
    assert list(result.head["per_class"]) == names
    assert result.head["accuracy"] > 0.8  # chance is 0.2
    assert result.finetuned is not None
    assert result.finetuned["accuracy"] > 0.8
    columns = list(read_predictions(tmp_path / "run")[0])[len(COLUMNS) :]
    assert columns == [f"{model}:{name}" for model in ("head", "finetuned") for name in names]
    item = predict(tmp_path / "run", [tmp_path / "data" / "test" / "disc" / "0.jpg"]).predictions[0]
    assert sum(item.probabilities.values()) == pytest.approx(1)
    assert keras.models.load_model(tmp_path / "run" / "classifier.keras").output_shape == (None, 5)


def test_a_limit_that_is_told_keeps_the_answers_that_it_is_of() -> None:
    told = {0.99996: "0.9999", 0.5: "0.5", 1.0: "1", 0.12345: "0.1234"}
    assert {probability: abstain_limit(probability) for probability in told} == told
