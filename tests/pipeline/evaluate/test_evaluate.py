import csv
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from headstart.features.errors import DataError, RunError
from headstart.pipeline.evaluate.evaluate import evaluate
from headstart.pipeline.featured import load_examples
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.finetune import finetune
from headstart.pipeline.places import Places
from headstart.pipeline.predict.predict import predict
from headstart.pipeline.runs import Run
from PIL import Image


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


def test_a_fine_tuned_run_is_scored_twice_and_the_head_as_before(run: Path, tuned_run: Path) -> None:
    before = evaluate(run, "val")
    seen = {"duplicates_in_train": 0, "near_duplicates_in_train": 0}
    assert before.fields() == {"split": "val", "n": before.n, **seen, "head": before.head}
    shutil.copytree(tuned_run, run, dirs_exist_ok=True)
    after = evaluate(run, "val")
    assert after.head == before.head
    assert after.finetuned is not None
    assert after.fields() == {**before.fields(), "finetuned": after.finetuned}
    said = Run.open(run).metrics()["finetune"]["val"]
    assert after.finetuned["loss"] == pytest.approx(said["loss"], rel=1e-3)
    assert after.finetuned["accuracy"] == pytest.approx(said["accuracy"])
    assert set(read_predictions(run, "val")[0]) == {"path", "digest", "label", "head:dog", "finetuned:dog"}


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
    evaluate(run, "test")
    rows = {row["path"]: row for row in read_predictions(run)}
    predicted = predict(run, [Path(path) for path in rows])
    for item in predicted.predictions:
        chance = 1 / (1 + np.exp(-float(rows[item.path]["head:dog"])))
        assert list(item.probabilities) == ["cat", "dog"] == Run.open(run).config()["class_names"]
        assert item.probabilities["dog"] == pytest.approx(chance, abs=1e-3)
        assert item.label == ("dog" if item.probabilities["dog"] > 0.5 else "cat")
        assert item.probability == max(item.probabilities.values())


def test_other_data_is_labelled_by_the_run_s_classes(run: Path, prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "other"
    for path in (prepared / "test" / "dog").iterdir():
        (data / "test" / "dog").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, data / "test" / "dog")
    result = evaluate(run, "test", data)  # only one class, whose index here is 0 and in the run 1
    evaluate(run, "test")
    expected = [float(row["head:dog"]) > 0 for row in read_predictions(run) if row["label"] == "dog"]
    assert result.head["accuracy"] == np.mean(expected)
    (data / "test" / "dog").rename(data / "test" / "fox")
    with pytest.raises(DataError, match="knows no class 'fox'"):
        evaluate(run, "test", data)


def test_leaks_are_told_of(run: Path, prepared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(run, "test")
    assert "are in train" not in capfd.readouterr().err
    data = tmp_path / "other"
    shutil.copytree(prepared / "train", data / "test")
    result = evaluate(run, "test", data)
    assert "images of test are in train too" in capfd.readouterr().err
    assert result.fields()["duplicates_in_train"] == result.n


def test_near_duplicates_of_training_images_are_counted(
    run: Path, prepared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "other"
    shutil.copytree(prepared / "test", data / "test")
    for source in sorted((prepared / "train" / "cat").iterdir())[:3]:
        with Image.open(source) as picture:
            picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)).save(data / "test" / "cat" / source.name)
    result = evaluate(run, "test", data)
    assert result.fields()["near_duplicates_in_train"] == 3
    assert result.fields()["duplicates_in_train"] == 0
    assert "3 images of test have a near-duplicate in train" in capfd.readouterr().err
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"data": str(tmp_path / "gone")}))
    assert evaluate(run, "test", data).fields()["near_duplicates_in_train"] is None
    assert "near_duplicates_in_train" not in evaluate(run, "train", Places(data=prepared)).fields()


def test_a_missing_split_is_an_error_where_it_is_asked_for(run: Path, prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "other"
    shutil.copytree(prepared / "val", data / "val")
    assert evaluate(run, "val", data).n > 0
    with pytest.raises(DataError, match="test split has no usable images"):
        evaluate(run, "test", data)


def test_a_damaged_run_is_named(run: Path) -> None:
    (run / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json: not JSON"):
        evaluate(run)


@pytest.mark.slow
def test_softmax_through_both_phases(tmp_path: Path, small, extraction) -> None:
    from headstart.pipeline.head.config import HeadConfig
    from headstart.pipeline.head.run import train_run
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
    train_run(
        tmp_path / "data", tmp_path / "run", small, extraction, HeadConfig(units=(64,), epochs=20, learning_rate=1e-3)
    )
    finetune(tmp_path / "run", FinetuneConfig(epochs=2, batch_size=8))
    result = evaluate(tmp_path / "run", "test")
    assert list(result.head["per_class"]) == names
    assert result.head["accuracy"] > 0.8  # chance is 0.2
    assert result.finetuned is not None
    assert result.finetuned["accuracy"] > 0.8
    columns = list(read_predictions(tmp_path / "run")[0])[3:]
    assert columns == [f"{model}:{name}" for model in ("head", "finetuned") for name in names]
    item = predict(tmp_path / "run", [tmp_path / "data" / "test" / "disc" / "0.jpg"]).predictions[0]
    assert sum(item.probabilities.values()) == pytest.approx(1)
    assert keras.models.load_model(tmp_path / "run" / "classifier.keras").output_shape == (None, 5)
