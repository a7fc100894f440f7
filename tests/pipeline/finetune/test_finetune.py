import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import headstart.features.backbones.models
import keras
import numpy as np
import pytest
from headstart.features.backbones.weights import build_backbone
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError, RunError
from headstart.features.frozen.frozen import FrozenBackbone
from headstart.features.images.batches import decoded_batches
from headstart.features.images.columns.inspected import inspect_images
from headstart.features.images.scan import ImageFile
from headstart.features.store.maintain import open_stores
from headstart.pipeline.classifier import build_classifier, build_streamed, build_top, unfreeze
from headstart.pipeline.featured import FeaturedExamples, cache_features, load_examples
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.epochs import _Keeper
from headstart.pipeline.finetune.finetune import finetune
from headstart.pipeline.finetune.model import FinetuneModel, _optimizer
from headstart.pipeline.finetune.state import FinetuneState
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import train_run
from headstart.pipeline.inputs import eval_dataset
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run
from headstart.pipeline.scoring.metrics import probabilities
from headstart.pipeline.training import Progress, compile_model, make_optimizer
from headstart.tests.conftest import Cli, tiny_network
from headstart.tests.pipeline.conftest import QUICK
from headstart.tests.pipeline.finetune.test_resuming import keep, settings_of


def backbone_weights(classifier: keras.Model, name: str = "mobilenet_v3_small") -> dict[str, np.ndarray]:
    """Every weight of the backbone inside a classifier, by its place."""
    return weights_of(classifier.get_layer(name))


def weights_of(backbone: keras.Model) -> dict[str, np.ndarray]:
    return {
        f"{index} {layer.name.split('_')[0]} {number} {variable.name}": variable.numpy()
        for index, layer in enumerate(backbone.operations)
        if isinstance(layer, keras.Layer)
        for number, variable in enumerate(layer.weights)
    }


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    assert before.keys() == after.keys() or len(before) == len(after)
    return {
        name for (name, old), new in zip(before.items(), after.values(), strict=True) if not np.array_equal(old, new)
    }


def joined_before(run: Path) -> keras.Model:
    """The classifier before fine-tuning."""
    cached = load_examples(Run.open(run))
    return build_classifier(cached.network.backbone, cached.network.cuts, keras.models.load_model(run / "head.keras"))


@pytest.mark.slow
def test_the_classifier_equals_the_head_on_cached_features(run: Path, prepared: Path) -> None:
    cached = load_examples(Run.open(run))
    features = cached.labelled(cached.examples).features
    expected = probabilities(keras.models.load_model(run / "head.keras").predict(features, verbose=0))
    images = [example.image for example in cached.examples]
    classifier = joined_before(run)
    for positions, pixels in decoded_batches(images, cached.network.images, 8):
        found = probabilities(classifier.predict_on_batch(pixels))
        np.testing.assert_allclose(found, expected[positions], atol=1e-3)


@pytest.mark.slow
def test_phase_1_changes_no_backbone_weight(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights_of(build_backbone("mobilenet_v3_small", "random", image_size=64).model)
    built, original = [], headstart.features.backbones.models.filled
    monkeypatch.setattr(
        headstart.features.backbones.models,
        "filled",
        lambda *settings: built.append(original(*settings)) or built[-1],
    )
    train_run(
        prepared, tmp_path / "r", small, replace(extraction, store=tmp_path / "new"), HeadConfig(units=(4,), epochs=1)
    )
    monkeypatch.undo()
    assert [changed(before, weights_of(model)) for model in built] == [set()]
    cached = cache_features(prepared, small, extraction)
    assert cached.fingerprints() == Run.open(tmp_path / "r").config()["fingerprints"]


@pytest.mark.parametrize("fixture", ["tiny_tuned_run", pytest.param("tuned_run", marks=pytest.mark.slow)])
def test_phase_2_trains_what_lies_above_the_boundary_and_nothing_else(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    run: Path = request.getfixturevalue(fixture)
    network = load_examples(Run.open(run)).network
    backbone, boundary = network.backbone, network.backbone.boundary(network.cuts)
    before = backbone_weights(joined_before(run), backbone.title)
    best_epoch = Run.open(run).metrics()["finetune"]["best_epoch"]
    assert best_epoch > 0, "no epoch was better than the head: the test would show nothing"
    after = backbone_weights(keras.models.load_model(run / "classifier.keras"), backbone.title)
    moved = changed(before, after)
    frozen = {
        name
        for name in before
        if int(name.split()[0]) < boundary
        or isinstance(backbone.model.operations[int(name.split()[0])], keras.layers.BatchNormalization)
    }
    assert any("moving_mean" in name for name in frozen)
    assert moved == before.keys() - frozen


@pytest.mark.slow
def test_thawed_batch_normalisation_trains_above_the_boundary_only(run: Path) -> None:
    cached = load_examples(Run.open(run))
    backbone = cached.network.backbone
    boundary = backbone.boundary(cached.network.cuts)
    head = keras.models.load_model(run / "head.keras")
    moved = {}
    for thaw in (False, True):
        unfreeze(backbone, boundary, thaw)
        top = build_top(backbone, boundary, cached.network.cuts, head)
        model = build_streamed(backbone, boundary, cached.network.cuts, top)
        compile_model(model, 2, make_optimizer("sgd", 1e-3))
        before, frozen = weights_of(backbone.model), [weight.numpy() for weight in model.get_layer("frozen").weights]
        examples = cached.of("train")[:8]
        (pixels, labels), *_ = eval_dataset(examples, cached.network.images, 8)
        model.train_on_batch(pixels, labels)
        moved[thaw] = changed(before, weights_of(backbone.model))
        assert all(map(np.array_equal, frozen, model.get_layer("frozen").weights))
    kinds = ("gamma", "beta", "moving_mean", "moving_variance")
    assert all(any(kind in name for name in moved[True]) for kind in kinds)
    assert not any(kind in name for name in moved[False] for kind in kinds)
    assert all(int(name.split()[0]) >= boundary for name in moved[True] | moved[False])


@pytest.mark.slow
def test_the_result_is_never_worse_than_the_head(tiny_run: Path) -> None:
    result = finetune(tiny_run, replace(QUICK, learning_rate=100.0))
    assert result.best_epoch == 0
    assert result.after == result.before
    cached = load_examples(Run.open(tiny_run))
    pixels = np.concatenate([batch for _, batch in decoded_batches(images_of(cached), cached.network.images, 8)])
    saved = keras.models.load_model(tiny_run / "classifier.keras")
    np.testing.assert_allclose(
        saved.predict(pixels, verbose=0), joined_before(tiny_run).predict(pixels, verbose=0), rtol=1e-4, atol=1e-5
    )


def images_of(cached: FeaturedExamples) -> list[ImageFile]:
    return [example.image for example in cached.of("val")]


@pytest.mark.slow
def test_the_best_epoch_is_what_is_saved(tiny_run: Path) -> None:
    result = finetune(tiny_run, replace(QUICK, epochs=3))
    rows = [row for row in Run.open(tiny_run).history() if row["phase"] == "finetune"]
    losses = [result.before["loss"], *(float(row["val_loss"]) for row in rows)]
    assert result.best_epoch == int(np.argmin(losses))
    assert result.after["loss"] == min(losses)
    classifier = keras.models.load_model(tiny_run / "classifier.keras")
    cached = load_examples(Run.open(tiny_run))
    pixels = np.concatenate([batch for _, batch in decoded_batches(images_of(cached), cached.network.images, 8)])
    labels = np.array([example.label for example in cached.of("val")])
    chances = probabilities(classifier.predict(pixels, verbose=0))
    assert -np.log(chances[np.arange(len(labels)), labels]).mean() == pytest.approx(min(losses), rel=1e-3)


@pytest.mark.slow
def test_one_seed_gives_one_result(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "again")
    config = replace(QUICK, augment="standard")
    known = Path(Run(tiny_run).config()["features"]["store"]) / "backbones.json"
    known.unlink(missing_ok=True)  # the first builds its network earlier
    first, again = finetune(tiny_run, config, seed=3), finetune(tmp_path / "again", config, seed=3)
    assert (first.before, first.after) == (again.before, again.after)
    assert Run(tiny_run).history() == Run(tmp_path / "again").history()


def wait_for(path: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.05)


MEASURED = ("seconds", "images_per_second")
OVERWRITE = ["--overwrite"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        pytest.param(signal.SIGINT, OVERWRITE, OVERWRITE, marks=pytest.mark.soak),
        (signal.SIGKILL, OVERWRITE, []),
    ],
)
def test_what_was_cut_off_ends_as_if_it_had_not_been(
    tiny_run: Path, tmp_path: Path, start_headstart, headstart: Cli, kind, first, second
) -> None:
    shutil.copytree(tiny_run, tmp_path / "whole")
    arguments = ["--epochs=3", "--batch-size=4", "--augment=flip", "--learning-rate=1e-4"]
    config = FinetuneConfig(epochs=3, batch_size=4, augment="flip", learning_rate=1e-4)
    process = start_headstart("finetune", tiny_run, *arguments, *first)
    wait_for(tiny_run / "finetune.partial" / "epoch-0001")
    os.kill(process.pid, kind)
    code = process.wait()
    assert code == (130 if kind == signal.SIGINT else -signal.SIGKILL)
    assert not (tiny_run / "classifier.keras").exists()
    assert "finetune" not in Run.open(tiny_run).config()
    with pytest.raises(RunError, match=r"other settings.*learning_rate 0\.0001"):
        finetune(tiny_run, replace(config, learning_rate=1e-3))
    code, _, told = headstart.whole("finetune", tiny_run, *arguments, *second)
    assert code == 0
    assert ("going on after epoch" in told) == (not second)
    finetune(tmp_path / "whole", config)
    resumed, whole = (Run(path).history() for path in (tiny_run, tmp_path / "whole"))
    assert [row["epoch"] for row in resumed] == [row["epoch"] for row in whole]
    for one, other in zip(resumed, whole, strict=True):
        assert float(one["val_loss"]) == pytest.approx(float(other["val_loss"]), rel=1e-4)
    assert not (tiny_run / "finetune.partial").exists()


@pytest.mark.slow
def test_a_file_that_changes_during_training_is_named(
    tiny_run: Path, prepared: Path, tmp_path: Path, monkeypatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    config = json.loads((tiny_run / "config.json").read_text())
    (tiny_run / "config.json").write_text(json.dumps({**config, "data": str(data)}))
    victim = sorted((data / "train" / "dog").glob("dog.*"))[0]
    keep = _Keeper.keep

    def keep_and_remove(keeper: _Keeper, number: int, logs: dict[str, float]) -> None:
        keep(keeper, number, logs)
        if keeper.course.done == 1:
            victim.unlink()

    monkeypatch.setattr(_Keeper, "keep", keep_and_remove)
    with pytest.raises(DataError, match=f"{victim}: gone or changed"):
        finetune(tiny_run, QUICK)
    assert not (tiny_run / "classifier.keras").exists()
    shutil.copy(prepared / "train" / "dog" / victim.name, victim)
    monkeypatch.undo()
    assert finetune(tiny_run, QUICK).epochs == 2


@pytest.mark.slow
def test_a_val_file_that_changes_before_the_first_epoch_is_named(
    tiny_run: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.pipeline.finetune import epochs

    data, figures = tmp_path / "data", epochs._figures
    shutil.copytree(prepared, data)
    victim = sorted((data / "val" / "dog").glob("dog.*"))[0]

    def figures_and_change(*given: Any) -> dict[str, float]:
        found = figures(*given)
        victim.write_bytes(b"changed")
        return found

    monkeypatch.setattr(epochs, "_figures", figures_and_change)
    with pytest.raises(DataError, match=f"{victim}: gone or changed"):
        finetune(tiny_run, QUICK, places=Places(data=data))
    assert not (tiny_run / "finetune.partial").exists()


def test_the_speed_of_training_leaves_out_validation_and_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 100.0, 102.0, 200.0, 204.0])  # the first end, and then begin and end of an epoch of one batch
    monkeypatch.setattr("headstart.pipeline.training.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    progress = Progress(lambda _: None, examples=8, batch_size=8)
    for epoch in range(3):
        progress.on_epoch_begin(epoch)
        progress.on_train_batch_end(0)
    assert progress.examples_per_second == pytest.approx(16 / 6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_size_of_a_state_is_known_before_it_is_written(tmp_path: Path, optimizer: str) -> None:
    model = keras.Sequential([keras.Input((500,)), keras.layers.Dense(1000)])
    settings = {"momentum": 0.9} if optimizer == "sgd" else {}
    compile_model(model, 2, make_optimizer(optimizer, 1e-3, **settings))
    model.optimizer.build(model.trainable_variables)
    built = FinetuneModel(cached=None, head=None, from_layer=0, model=model, scored=model, top=model, map_cut=None)
    built.save_latest(tmp_path)
    built.save_best(tmp_path)
    assert built.state_bytes == pytest.approx(sum(file.stat().st_size for file in tmp_path.iterdir()), rel=0.02)


def functional(*units: int, name: str, inputs: int) -> keras.Model:
    x = first = keras.Input((inputs,))
    for number in units:
        x = keras.layers.Dense(number)(x)
    return keras.Model(first, x, name=name)


def small_built(optimizer: str = "sgd") -> FinetuneModel:
    """A trained part on top of a frozen one, compiled as `build_finetune_model` does it, after one step."""
    pixels, top = keras.Input((3,)), functional(5, 1, name="top", inputs=4)
    model = keras.Model(pixels, top(functional(4, name="frozen", inputs=3)(pixels)))
    model.get_layer("frozen").trainable = False
    compile_model(model, 2, _optimizer(FinetuneConfig(optimizer=optimizer), 1))
    model.fit(np.ones((1, 3), np.float32), np.ones(1), verbose=0)
    return FinetuneModel(cached=None, head=None, from_layer=0, model=model, scored=model, top=top, map_cut=None)


def test_a_state_of_an_earlier_version_holds_the_whole_model(tmp_path: Path) -> None:
    earlier = small_built()
    earlier.model.save_weights(tmp_path / "best.weights.h5")
    (tmp_path / "backup").mkdir()
    earlier.model.fit(np.ones((1, 3), np.float32), np.ones(1), verbose=0)
    earlier.model.save_weights(tmp_path / "backup" / "latest.weights.h5")
    now = small_built()
    now.load_latest(tmp_path)
    for one, other in zip(earlier.model.weights, now.model.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(earlier.model.optimizer.variables, now.model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(now.model.optimizer.iterations.numpy()) == 2
    now.load_best(tmp_path)
    assert any(not np.array_equal(one, other) for one, other in zip(earlier.top.weights, now.top.weights, strict=True))
    assert int(now.model.optimizer.iterations.numpy()) == 2  # the best weights come without their optimizer


def test_a_state_holds_the_trained_part_and_the_optimizer(tmp_path: Path) -> None:
    one, other = small_built("adam"), small_built("adam")
    other.model.fit(np.zeros((1, 3), np.float32), np.zeros(1), verbose=0)
    one.save_latest(tmp_path)
    one.save_best(tmp_path)
    other.load_latest(tmp_path)
    for mine, theirs in zip(one.top.weights, other.top.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(one.model.optimizer.variables, other.model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def rates(config: FinetuneConfig, examples: int, steps: int) -> list[float]:
    schedule = _optimizer(config, examples)._learning_rate
    return [float(schedule(step) if callable(schedule) else schedule) for step in range(steps)]


def test_the_step_size_follows_the_schedule() -> None:
    config = FinetuneConfig(learning_rate=1.0, epochs=2, batch_size=3)  # 4 steps an epoch
    assert rates(config, 10, 2) == [1, 1]
    assert rates(replace(config, warmup=4), 10, 7) == [0, 0.25, 0.5, 0.75, 1, 1, 1]
    cosine = rates(replace(config, schedule="cosine"), 10, 9)
    np.testing.assert_allclose(cosine, [0.5 + 0.5 * np.cos(np.pi * step / 8) for step in range(9)], atol=1e-6)
    both = rates(replace(config, schedule="cosine", warmup=4), 10, 9)
    np.testing.assert_allclose(both[:5], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(both[4:], [0.5 + 0.5 * np.cos(np.pi * step / 4) for step in range(5)], atol=1e-6)
    with pytest.raises(OptionError, match="--warmup 8: must be under 8, the number of steps in 2 epochs"):
        _optimizer(replace(config, schedule="cosine", warmup=8), 10)


@pytest.mark.parametrize("classes", [2, 3])
def test_label_smoothing_is_in_the_loss_of_training(classes: int) -> None:
    labels, logits = np.array([0, 1, 1]), np.array([[0.5, -1.0, 2.0], [0.1, 0.2, 0.3], [-3.0, 1.0, 0.0]], np.float32)
    logits = logits[:, :1] if classes == 2 else logits
    model = functional(logits.shape[1], name="head", inputs=logits.shape[1])
    model.set_weights([np.eye(logits.shape[1]), np.zeros(logits.shape[1])])
    compile_model(model, classes, make_optimizer("sgd", 0.0), 0.3)
    loss = model.evaluate(logits, labels, verbose=0, return_dict=True)["loss"]
    target = 0.7 * np.eye(classes)[labels] + 0.3 / classes
    assert loss == pytest.approx(-(target * np.log(probabilities(logits))).sum(axis=1).mean(), rel=1e-5)


def test_a_disk_without_room_is_told_before_training(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match="No space left on device"):
        finetune(run, QUICK)
    assert not (run / "finetune.partial").exists()


def tuned_weights(run: Path) -> list[np.ndarray]:
    weights: list[np.ndarray] = keras.models.load_model(run / "classifier.keras").get_weights()
    return weights


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"optimizer": "adam", "class_weight": "balanced", "label_smoothing": 0.1, "clip_norm": 1.0, "warmup": 8},
        {"optimizer": "rmsprop", "from_cache": True, "augment": "flip", "views": 2, "choose_by": "f1"},
    ],
)
def test_more_epochs_in_a_second_call_equal_all_at_once(
    tiny_run: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    path = tmp_path / "whole"
    shutil.copytree(tiny_run, path)
    config = replace(QUICK, epochs=2, batch_size=4, augment="standard", patience=0)
    config = replace(config, **changed)
    finetune(tiny_run, replace(config, epochs=1))
    second, whole = finetune(tiny_run, config), finetune(path, config)
    assert Run(tiny_run).history() == Run(path).history()
    assert second.course == whole.course
    assert second.fields() == {**whole.fields(), **{name: second.fields()[name] for name in ("run", *MEASURED)}}
    for one, other in zip(tuned_weights(tiny_run), tuned_weights(path), strict=True):
        np.testing.assert_array_equal(one, other)
    columns = list(Run(tiny_run).history()[-1])[6:]
    assert columns == (["val_f1"] if config.choose_by == "f1" else [])
    kept = Run(tiny_run).config()["finetune"]
    assert (kept["epochs"], kept["choose_by"]) == (2, "loss" if config.choose_by == "auto" else config.choose_by)
    assert not (tiny_run / "finetune.partial").exists()


@pytest.mark.slow
@pytest.mark.soak
def test_a_kill_in_the_second_call_changes_nothing(
    tiny_run: Path, tmp_path: Path, start_headstart, headstart: Cli
) -> None:
    path = tmp_path / "whole"
    shutil.copytree(tiny_run, path)
    flags = ["--batch-size=4", "--augment=flip", "--learning-rate=1e-3", "--patience=0"]
    headstart("finetune", tiny_run, "--epochs=1", *flags)
    process = start_headstart("finetune", tiny_run, "--epochs=3", *flags)
    wait_for(tiny_run / "finetune.partial" / "epoch-0002")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tiny_run / "classifier.keras").exists()  # of the first call
    assert not (tiny_run / "finetune.state").exists()
    headstart("finetune", tiny_run, "--epochs=3", *flags)
    headstart("finetune", path, "--epochs=3", *flags)
    assert Run(tiny_run).history() == Run(path).history()
    for one, other in zip(tuned_weights(tiny_run), tuned_weights(path), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_training_stops_early_and_tells_each_epoch(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(QUICK, epochs=9, learning_rate=0.3, patience=2)
    result = finetune(tiny_run, config)
    assert result.stopped_early
    assert result.epochs_done == result.best_epoch + 2 < 9
    told = capsys.readouterr().err
    assert [f"epoch {number} of 9: train loss" in told for number in (1, 2, 9)] == [True, True, False]
    assert "epoch 0, the head alone: val loss" in told
    assert "9 epochs of" in told
    with pytest.raises(RunError, match="--patience 0 goes on"):
        finetune(tiny_run, config)
    assert (
        finetune(tiny_run, replace(config, epochs=result.epochs_done + 1, patience=0)).epochs_done > result.epochs_done
    )


@pytest.mark.slow
def test_an_epoch_with_hidden_damage_is_not_the_best(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.pipeline.finetune import epochs

    figures = epochs._figures

    def damaged(built: FinetuneModel, *given: Any) -> dict[str, float]:
        found = figures(built, *given)
        if len(losses) == 1:  # after the first epoch
            weight = built.model.layers[-1].trainable_variables[0]
            weight.assign(weight * np.inf)
        losses.append(found["loss"] / (1 + len(losses)))
        return {**found, "loss": losses[-1]}

    losses = list[float]()
    monkeypatch.setattr(epochs, "_figures", damaged)
    result = finetune(tiny_run, replace(QUICK, epochs=1))
    assert losses[1] < losses[0]
    assert result.best_epoch == 0
    assert not np.isfinite(result.course.figures[1]["loss"])


@pytest.mark.slow
def test_a_head_whose_outputs_are_not_finite_is_refused(tiny_run: Path) -> None:
    head = keras.models.load_model(tiny_run / "head.keras")
    head.set_weights([np.full_like(weight, 1e38) for weight in head.get_weights()])
    head.save(tiny_run / "head.keras")
    with pytest.raises(RunError, match=r"head\.keras: its outputs on val are not finite"):
        finetune(tiny_run, QUICK)
    assert not (tiny_run / "finetune.partial").exists()


@pytest.mark.slow
def test_a_finished_run_is_begun_anew_only_if_asked(tiny_run: Path) -> None:
    finetune(tiny_run, replace(QUICK, epochs=1))
    with pytest.raises(RunError, match=r"fine-tuned already \(1 of 1 epochs are done\); --epochs 2 .*--overwrite"):
        finetune(tiny_run, replace(QUICK, epochs=1))
    finetune(tiny_run, QUICK, overwrite=True)
    assert len(list((tiny_run / "logs" / "finetune" / "train").glob("events*"))) == 1
    assert [row["epoch"] for row in Run(tiny_run).history() if row["phase"] == "finetune"] == ["1", "2"]


def test_both_phases_lie_on_one_axis(tiny_tuned_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = {}
    for phase in ("head", "finetune"):
        events = EventAccumulator(str(tiny_tuned_run / "logs" / phase / "validation"))
        events.Reload()
        steps[phase] = [event.step for event in events.Tensors("epoch_loss")]
    assert steps == {"head": [0, 1, 2], "finetune": [3, 4]}
    rates = EventAccumulator(str(tiny_tuned_run / "logs" / "finetune" / "train"))
    rates.Reload()
    assert [event.step for event in rates.Tensors("epoch_learning_rate")] == [3, 4]


@pytest.mark.slow
def test_a_head_on_an_inner_cut_is_fine_tuned_on_the_block_below(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    features = replace(small, cut=("expanded_conv_7_add",))
    train_run(prepared, tmp_path / "r", features, extraction, HeadConfig(units=(4,), epochs=1, learning_rate=1e-3))
    before = backbone_weights(joined_before(tmp_path / "r"))
    finetune(tmp_path / "r", replace(QUICK, epochs=1))
    after = backbone_weights(keras.models.load_model(tmp_path / "r" / "classifier.keras"))
    backbone = build_backbone("mobilenet_v3_small", "random", image_size=64)
    low, high = (backbone.layer_index(cut) for cut in ("expanded_conv_5_add", "expanded_conv_7_add"))
    indices = {int(name.split()[0]) for name in changed(before, after)}
    assert indices
    assert low < min(indices) <= max(indices) <= high
    assert max(int(name.split()[0]) for name in after) <= high  # nothing above the cut is saved


@pytest.mark.slow
def test_cuts_side_by_side_make_one_classifier(prepared: Path, extraction: ExtractionConfig, tmp_path: Path) -> None:
    features = FeatureConfig(backbone=tiny_network(tmp_path), rescale="unit", precision="float32", cut=("sum+end",))
    train_run(prepared, tmp_path / "r", features, extraction, HeadConfig(units=(4,), epochs=1))
    test_the_classifier_equals_the_head_on_cached_features(tmp_path / "r", prepared)
    finetune(tmp_path / "r", replace(QUICK, epochs=1))


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["expanded_conv_10_expand", pytest.param("140", marks=pytest.mark.soak)])
def test_from_a_layer_by_name_or_index(run: Path, layer: str) -> None:
    finetune(run, replace(QUICK, epochs=1, from_layer=layer))
    backbone = build_backbone("mobilenet_v3_small", "random", image_size=64)
    assert Run.open(run).config()["finetune"]["from_layer_index"] == backbone.layer_index(layer)


def same_history(streamed: Path, cached: Path, **near: float) -> None:
    for one, other in zip(Run(streamed).history(), Run(cached).history(), strict=True):
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), **near)
        assert float(one["val_loss"]) == pytest.approx(float(other["val_loss"]), **near)
    before = [Run(run).metrics()["finetune"]["before"] for run in (streamed, cached)]
    assert before[1] == pytest.approx(before[0], **near)


@pytest.mark.slow
def test_the_cache_gives_what_streaming_gives(tuned_run: Path, run: Path) -> None:
    finetune(run, replace(QUICK, from_cache=True))
    same_history(tuned_run, run, rel=1e-3)


@pytest.mark.slow
@pytest.mark.soak
def test_the_cache_gives_what_streaming_gives_in_bfloat16(
    run: Path, prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    features = replace(small, precision="bfloat16")
    train_run(
        prepared, run, features, extraction, HeadConfig(units=(16,), epochs=3, learning_rate=1e-3), overwrite=True
    )
    shutil.copytree(run, tmp_path / "cached")
    finetune(run, QUICK)
    finetune(tmp_path / "cached", replace(QUICK, from_cache=True))
    same_history(run, tmp_path / "cached", abs=0.05)  # rounding moves the maps, and with them every loss


@pytest.mark.slow
def test_what_crosses_is_cached_once(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(QUICK, from_cache=True, epochs=1)
    cached = finetune(tiny_run, config)
    monkeypatch.setattr(FrozenBackbone, "__call__", None)
    assert finetune(tiny_run, config, overwrite=True).after == cached.after


def test_dropout_of_the_backbone_stays_off() -> None:
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dropout(0.5)(inputs))
    unfreeze(SimpleNamespace(model=model), from_layer=0, thaw_batchnorm=True)
    np.testing.assert_array_equal(model(np.ones((4, 8)), training=True), 1)


@pytest.mark.slow
def test_each_epoch_takes_a_view_from_the_cache(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "viewed")
    plain = finetune(tiny_run, replace(QUICK, from_cache=True, epochs=2))
    viewed = finetune(tmp_path / "viewed", replace(QUICK, from_cache=True, epochs=2, augment="flip", views=2))
    assert viewed.before == plain.before
    rows = [[row["loss"] for row in Run(path).history()[-2:]] for path in (tiny_run, tmp_path / "viewed")]
    assert all(one != other for one, other in zip(*rows, strict=True))
    cached = load_examples(Run.open(tiny_run))
    views = [store.fingerprint.view for store in open_stores(cached.extraction.store)]
    assert sorted(views, key=str) == [1, 2, None, None]


def test_what_crosses_in_several_places_is_not_cached(run: Path) -> None:
    with pytest.raises(OptionError, match=r"layer \d+ takes the output of .*, .*--from-layer"):
        finetune(run, replace(QUICK, from_cache=True, from_layer="expanded_conv_10_project"))


def test_changed_data_is_refused(run: Path, prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "data": str(data)}))
    moved = sorted((data / "train" / "cat").iterdir())[0]
    moved.rename(data / "train" / "dog" / moved.name)
    with pytest.raises(RunError, match=r"changed.*\(train\)"):
        finetune(run, QUICK)
    (data / "train" / "dog" / moved.name).rename(moved)
    sorted((data / "val" / "dog").iterdir())[0].unlink()
    with pytest.raises(RunError, match=r"changed.*\(val\)"):
        finetune(run, QUICK)


@pytest.mark.slow
def test_data_that_was_moved_is_found_where_it_is_said_to_be(tiny_run: Path, prepared: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_run / "config.json").read_text())
    (tiny_run / "config.json").write_text(json.dumps({**config, "data": str(tmp_path / "gone")}))
    with pytest.raises(RunError, match="gone is gone; say with --data"):
        finetune(tiny_run, QUICK)
    data = tmp_path / "here"
    shutil.copytree(prepared, data)
    moved = sorted((data / "train" / "cat").iterdir())[0]
    moved.rename(moved.with_name("renamed.jpg"))  # names do not matter
    assert finetune(tiny_run, replace(QUICK, epochs=1), places=Places(data=data)).epochs == 1


def test_other_weights_are_refused(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["features"]["weights_seed"] = 1
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="other weights"):
        finetune(run, QUICK)


def test_bad_arguments(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        finetune(tmp_path, QUICK)
    for layer in ("nowhere", "999"):
        with pytest.raises(OptionError, match="has no layer"):
            finetune(run, replace(QUICK, from_layer=layer))
    with pytest.raises(OptionError, match="--optimizer"):
        finetune(run, replace(QUICK, optimizer="magic"))
    assert list(inspect_images([run / "classifier.keras"])) == [[]]
    assert not (run / "classifier.keras").exists()


def test_a_run_that_is_done_is_told_before_tensorflow_starts(run: Path, headstart: Cli) -> None:
    keep(FinetuneState(run / "finetune.state"), settings_of(epochs=3))
    assert "--epochs 6 trains for 3 more" in headstart.error("finetune", run, "--epochs=3")
