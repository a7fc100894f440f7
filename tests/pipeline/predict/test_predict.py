"""`headstart predict`: which model answers, from which files, and what can't be used."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from headstart.features.errors import DataError, OptionError, RunError
from headstart.features.images import batches
from headstart.features.store import store
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.finetune import finetune
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.predict import model, sources
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.predict import predict, predicting
from headstart.pipeline.runs import Run, read_calibration
from headstart.pipeline.scoring.metrics import probabilities
from PIL import Image


@pytest.mark.slow
def test_prediction_uses_the_fine_tuned_classifier_and_names_what_it_can_not_read(
    gaining_run: Path, drawn: Path
) -> None:
    run = gaining_run
    head = predict(run, [drawn / "cat" / "cat.0.jpg"]).predictions[0]
    finetune(run, FinetuneConfig(epochs=1, batch_size=8, learning_rate=1e-3))
    result = predict(run, [drawn / "cat" / "cat.0.jpg", drawn / "dog"], PredictConfig(model="finetuned"))
    assert result.predictions[0].path == head.path
    assert result.predictions[0].probabilities != head.probabilities
    assert len(result.predictions) == 21
    reasons = {Path(reject.path).name: reject.reason for reject in result.rejects}
    assert reasons == {
        "broken.text.jpg": "not-an-image",
        "broken.header.jpg": "truncated",
        "broken.tail.jpg": "truncated",
    }


def test_what_can_not_be_decoded_has_no_prediction(run: Path, drawn: Path, tmp_path: Path) -> None:
    whole, broken = drawn / "cat" / "cat.0.jpg", tmp_path / "broken.jpg"
    broken.write_bytes(whole.read_bytes()[:-200])
    head = keras.models.load_model(run / "head.keras")
    features = keras.Input(head.input_shape[1:])
    keras.Model(features, head(keras.ops.nan_to_num(features))).save(run / "head.keras")  # as relu on some processors
    result = predict(run, [broken, whole])
    assert [item.path for item in result.predictions] == [str(whole)]
    assert [(reject.path, reject.reason) for reject in result.rejects] == [(str(broken), "truncated")]
    with pytest.raises(DataError, match=r"broken\.jpg \(truncated\)"):
        predict(run, [broken])


def test_too_many_rejects_make_predict_fail_after_the_predictions(headstart, run: Path, drawn: Path) -> None:
    code, out, err = headstart.whole("predict", run, drawn / "dog")
    assert code == 1
    found = json.loads(out)  # one object, with all that could be predicted
    assert (len(found["predictions"]), len(found["rejects"])) == (20, 3)
    assert "3 of 23 images can't be used, over --max-rejects 0.05: " in err
    assert headstart("predict", run, drawn / "dog", "--max-rejects=0.2") == found
    assert "--max-rejects must be" in headstart.error("predict", run, drawn, "--max-rejects=2", code=2)


def test_prediction_does_not_need_the_store(run: Path, drawn: Path, tmp_path: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["features"]["store"] = str(tmp_path / "gone")
    (run / "config.json").write_text(json.dumps(config))
    assert len(predict(run, [drawn / "cat" / "cat.0.jpg"]).predictions) == 1
    assert not (tmp_path / "gone").exists()


def test_other_features_than_in_training_are_told(headstart, run: Path, drawn: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (name,) = config["fingerprints"]
    for key, told in ((config["fingerprints"][name], False), ("0" * 64, True)):
        (run / "config.json").write_text(json.dumps({**config, "fingerprints": {name: key}}))
        code, _, err = headstart.whole("predict", run, drawn / "cat" / "cat.0.jpg")
        assert (code, "not made as for training" in err) == (0, told)


def test_prediction_with_other_weights_is_refused(run: Path, drawn: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["features"]["weights_seed"] = 1
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="other weights"):
        predict(run, [drawn / "cat" / "cat.0.jpg"])


def test_nothing_to_predict_is_an_error(run: Path, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="no such file or folder"):
        predict(run, [tmp_path / "gone.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no file in it"):
        predict(run, [tmp_path / "empty"])
    with pytest.raises(DataError, match=r"broken\.text\.jpg \(not-an-image\)"):
        predict(run, [drawn / "dog" / "broken.text.jpg", drawn / "cat" / "broken.empty.jpg"])
    with pytest.raises(DataError, match=r"notes\.txt \(not-an-image\)"):
        predict(run, [tmp_path / "notes.txt"])
    with pytest.raises(RunError, match="not a run folder"):
        predict(tmp_path, [drawn])
    config = json.loads((run / "config.json").read_text())
    config["features"]["max_pixels"] = 100
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"cat\.0\.jpg \(too-large\)"):
        predict(run, [drawn / "cat" / "cat.0.jpg"])


def test_the_answers_are_those_of_the_head_on_features(run: Path, prepared: Path) -> None:
    """The features come from the fast form, in pieces and batches, or from the store."""
    from headstart.pipeline.featured import load_examples

    cached = load_examples(Run.open(run))
    test = cached.of("test")
    kept = read_calibration(Run.open(run), "head")
    assert kept
    logits = keras.models.load_model(run / "head.keras").predict(cached.labelled(test).features)
    expected = probabilities(logits / kept.temperature)
    paths = [Path(example.image.path) for example in test]
    for places in (NetworkPlaces(), NetworkPlaces(store=run / "absent")):
        found = predict(run, paths, places=places)
        assert [item.path for item in found.predictions] == list(map(str, paths))
        chances = [list(item.probabilities.values()) for item in found.predictions]
        np.testing.assert_allclose(chances, expected, atol=1e-4)
    assert not (run / "absent").exists()


def test_features_in_the_store_are_not_computed_again(
    run: Path, prepared: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = []

    def counted(frozen, images, *more):
        passed.extend(image.path for image in images)
        return through(frozen, images, *more)

    through = model._passed
    monkeypatch.setattr(model, "_passed", counted)
    known = sorted((prepared / "test" / "cat").glob("cat.*.jpg"))[:2]
    new = run / "new.png"
    with Image.open(drawn / "cat" / "cat.0.jpg") as picture:
        picture.save(new)
    found = predict(run, [known[0], new, known[1]])
    assert passed == [str(new)]
    monkeypatch.setattr(sources, "_FIRST_PIECE", 1)
    monkeypatch.setattr(sources, "_LARGEST_PIECE", 1)
    read: list[Path] = []
    digests = store.read_digests
    monkeypatch.setattr(store, "read_digests", lambda *given: (read.append(given[0]), digests(*given))[1])
    predict(run, known)
    assert len(read) == len(set(read))  # each shard is read once, not once per piece
    assert [item.path for item in found.predictions] == list(map(str, [known[0], new, known[1]]))


@pytest.mark.slow
def test_the_store_keeps_the_fast_form_of_a_classifier(
    run: Path, tuned_run: Path, extraction, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tuned_run, run, dirs_exist_ok=True)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(
        json.dumps({**config, "features": {**config["features"], "store": str(extraction.store)}})
    )
    asked = [drawn / "cat" / "cat.0.jpg"], PredictConfig(model="finetuned")
    shutil.rmtree(extraction.store / "frozen", ignore_errors=True)  # other tests keep networks there
    first = predict(run, *asked).predictions
    (kept,) = (extraction.store / "frozen").glob("classifier-*")
    loaded = list[Path]()
    load = Run.load_model
    monkeypatch.setattr(
        Run, "load_model", lambda self, file, *given: (loaded.append(file), load(self, file, *given))[1]
    )
    assert predict(run, *asked).predictions == first
    assert loaded == []
    (kept / "model.bin").write_bytes(b"damaged")
    assert predict(run, *asked).predictions == first
    classifier = keras.models.load_model(run / "classifier.keras")
    classifier.set_weights([weight * 0.5 for weight in classifier.get_weights()])
    classifier.save(run / "classifier.keras")
    assert predict(run, *asked).predictions != first
    assert len(loaded) == 2


@pytest.mark.slow
def test_the_model_that_was_best_on_val_answers(run: Path, tuned_run: Path, drawn: Path, headstart) -> None:
    cat = drawn / "cat" / "cat.0.jpg"
    for file in (*run.glob("reference-*.npy"), run / "calibration.json"):  # the models have calibrations of their own
        file.unlink()
    head = headstart("predict", run, cat)
    assert (head["model"], head["reason"]) == ("head", "nothing was fine-tuned")
    assert "headstart finetune" in headstart.error("predict", run, cat, "--model=finetuned")
    own = shutil.ignore_patterns("reference-*.npy", "calibration.json")
    shutil.copytree(tuned_run, run, ignore=own, dirs_exist_ok=True)
    metrics = json.loads((run / "metrics.json").read_text())

    def answers(best_epoch: int, before: float, after: float, *options: str) -> dict:
        figures = {"best_epoch": best_epoch, "before": {"loss": before, "accuracy": 0.5}}
        metrics["finetune"] = {"val": {"loss": after, "accuracy": 0.5}, **figures}
        (run / "metrics.json").write_text(json.dumps(metrics))
        return headstart("predict", run, cat, *options)

    tuned = answers(1, 0.5, 0.25)
    assert tuned["model"] == "finetuned"
    assert tuned["reason"] == "fine-tuning gained on val (loss 0.2500 fine-tuned, 0.5000 of the head)"
    assert answers(0, 0.5, 0.5)["model"] == "head"
    assert answers(1, 0.5, 0.25, "--model=head")["predictions"] == head["predictions"]
    assert answers(0, 0.5, 0.5, "--model=finetuned")["predictions"] == tuned["predictions"]
    config = json.loads((run / "config.json").read_text())
    own = {**config["features"], "backbone": str(run / "gone.keras"), "weights": "imagenet"}
    (run / "config.json").write_text(json.dumps({**config, "features": own}))
    alike = answers(0, 0.5, 0.5)
    assert (alike["model"], alike["predictions"]) == ("finetuned", tuned["predictions"])
    assert "values of the head" in alike["reason"]
    assert "gone.keras" in headstart.error("predict", run, cat, "--model=head")
    assert "absent.keras" in headstart.error("predict", run, cat, f"--weights={run}/absent.keras")
    with pytest.raises(AssertionError, match=r"gone\.keras"):
        answers(1, 0.25, 0.5)  # the classifier is worse than the head, and another
    classifier = keras.models.load_model(run / "classifier.keras")
    from headstart.features.images.batches import decoded_batches
    from headstart.features.images.pixels import ImageConfig
    from headstart.features.images.scan import inspect_image

    ((_, pixels),) = decoded_batches(inspect_image(cat), ImageConfig(64), 1)
    expected = probabilities(classifier.predict_on_batch(pixels))[0]
    assert list(tuned["predictions"][0]["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-4)


def test_views_are_averaged(run: Path, drawn: Path) -> None:
    paths = [drawn / "cat" / f"cat.{number}.jpg" for number in range(3)]

    def chances(views: int, seed: int = 0) -> np.ndarray:
        found = predict(run, paths, PredictConfig(views=views), seed=seed).predictions
        return np.array([list(item.probabilities.values()) for item in found])

    plain, two, other = chances(1), chances(2), chances(2, seed=1)
    assert not np.allclose(plain, two)
    assert not np.allclose(two, other)
    np.testing.assert_array_equal(two, chances(2))
    np.testing.assert_allclose(two.sum(axis=1), 1)
    second = 2 * two - plain  # of the augmented view alone
    assert (second > -1e-9).all()


@pytest.mark.slow
def test_views_take_turns(run: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network serves one stream at a time: two would use the same passes at once."""
    streams: list[object] = []

    def alone(frozen, *given):
        assert not streams
        streams.append(frozen)
        yield from through(frozen, *given)
        streams.pop()

    through = model._passed
    monkeypatch.setattr(model, "_passed", alone)
    monkeypatch.setattr(model, "_IMAGES_AT_ONCE", 40)
    paths = [drawn / "cat" / f"cat.{number % 20}.jpg" for number in range(60)]
    config, places = PredictConfig(views=2), NetworkPlaces(store=run / "none")
    found = [item.probability for item in predict(run, paths, config, places).predictions]
    assert found == pytest.approx(found[:20] * 3, abs=1e-6)
    assert not streams


def test_likeliest_classes(run: Path, drawn: Path, headstart) -> None:
    cat = drawn / "cat" / "cat.0.jpg"
    (found,) = headstart("predict", run, cat, "--top=2")["predictions"]
    assert [one["label"] for one in found["top"]] == sorted(
        found["probabilities"], key=lambda name: -found["probabilities"][name]
    )
    assert found["top"][0] == {"label": found["label"], "probability": found["probability"]}
    assert headstart.text("predict", run, cat, "--top=2").count("(0.") == 2
    assert "--top must be at least 1" in headstart.error("predict", run, cat, "--top=0", code=2)
    assert "--top must be at most 2" in headstart.error("predict", run, cat, "--top=3", code=2)


def test_lines_are_shown_as_they_come(run: Path, drawn: Path) -> None:
    begun = predicting(run, [drawn / "cat"], PredictConfig())
    assert begun.predicted == 0
    lines = begun.lines()
    assert next(lines).startswith(f"{drawn}/cat/broken") or begun.predicted == 1
    assert begun.predicted + len(begun.rejects) == 1
    assert len(list(lines)) + 1 == begun.predicted + len(begun.rejects)


def test_a_lack_of_memory_is_no_fault_of_an_image(run: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*given):
        raise MemoryError

    monkeypatch.setattr(batches, "decode", decode)
    with pytest.raises(MemoryError):
        predict(run, [drawn / "cat" / "cat.0.jpg"], places=NetworkPlaces(store=run / "none"))


def test_values_that_are_not_finite_are_an_error(run: Path, drawn: Path) -> None:
    head = keras.models.load_model(run / "head.keras")
    head.set_weights([np.full_like(weight, 1e38) for weight in head.get_weights()])
    head.save(run / "head.keras")
    with pytest.raises(RunError, match=r"not finite, for \S+cat\.0\.jpg"):
        predict(run, [drawn / "cat" / "cat.0.jpg"])


@pytest.mark.slow
def test_a_batch_size_changes_no_answer(run: Path, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [drawn / "cat" / f"cat.{number}.jpg" for number in range(5)]
    one, other = (
        predict(run, paths, PredictConfig(batch_size=size), NetworkPlaces(store=run / "none")) for size in (2, 8)
    )
    for first, second in zip(one.predictions, other.predictions, strict=True):
        assert first.probability == pytest.approx(second.probability, abs=1e-5)
    assert capsys.readouterr().err.count("none: no such folder, so no stored features are used") == 2
    with pytest.raises(OptionError, match="--batch-size"):
        PredictConfig(batch_size=-1)
