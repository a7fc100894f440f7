from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest
from headstart.features.errors import DivergedError, OptionError
from headstart.features.images.scan import ImageFile
from headstart.pipeline.data.examples import Example
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.head.config import HeadConfig, parse_units
from headstart.pipeline.head.head import build_head, fit_head
from headstart.pipeline.head.loop import writing_curves
from headstart.pipeline.head.rare import tell_rare
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.scoring.choosing import ChooseBy, val_figures
from headstart.pipeline.scoring.metrics import score
from headstart.pipeline.training import class_weights
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorflow import make_ndarray


def labelled(features: np.ndarray, labels: np.ndarray, classes: int = 2, widths: tuple[int, ...] = (), **settings):
    """Features of cuts of some widths, by default of one."""
    ends = np.cumsum([0, *(widths or features.shape[1:])]).tolist()
    columns = {f"cut {start}": slice(start, end) for start, end in pairwise(ends)}
    return LabelledFeatures(features, labels, classes, columns, **settings)


def blobs(
    classes: int, count: int = 400, dimension: int = 20, noise: float = 1.0, seed: int = 0, **settings
) -> LabelledFeatures:
    """Features with a scale and an offset of their own in each dimension."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(classes, dimension))
    labels = np.arange(count) % classes
    scale = np.random.default_rng(2).uniform(0.001, 1000, dimension)
    features = (centres[labels] + noise * rng.normal(size=(count, dimension))) * scale + 5 * scale
    return labelled(features.astype(np.float32), labels.astype(np.int64), classes, **settings)


QUICK = HeadConfig(units=(32,), epochs=5, learning_rate=1e-2)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_head_learns_whatever_the_scale_of_its_features(classes: int) -> None:
    train, val = blobs(classes), blobs(classes, seed=3)
    trained = fit_head(train, val, replace(QUICK, epochs=10))
    rival = make_pipeline(StandardScaler(), LogisticRegression()).fit(train.features, train.labels)
    assert trained.val["accuracy"] > rival.score(val.features, val.labels) - 0.05
    assert trained.model.output_shape == (None, 1 if classes == 2 else classes)


def test_the_best_epoch_on_val_is_kept() -> None:
    train, val = blobs(2, 60, noise=4.0), blobs(2, 200, noise=4.0, seed=3)
    config = HeadConfig(units=(64,), epochs=12, learning_rate=1e-1, dropout=0)
    trained = fit_head(train, val, config)
    losses = [row["val_loss"] for row in trained.history]
    assert trained.best_epoch == int(np.argmin(losses)) + 1 < 12
    logits = trained.model.predict(val.features, verbose=0)
    assert score(logits, val.labels, ["a", "b"])["loss"] == pytest.approx(min(losses), rel=1e-4)
    assert trained.val["loss"] == min(losses)


@pytest.mark.parametrize("reduced", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_seed_gives_one_head_and_another_gives_another(reduced: bool) -> None:
    train, val = blobs(2, reduced=reduced), blobs(2, seed=3)
    first, again, other = (fit_head(train, val, QUICK, seed).history for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.slow
def test_a_thousand_classes() -> None:
    train, val = blobs(1000, 4000, 64, noise=0.3), blobs(1000, 2000, 64, noise=0.3, seed=3)
    trained = fit_head(train, val, HeadConfig(units=(256,), epochs=8, learning_rate=3e-3))
    metrics = score(trained.model.predict(val.features, verbose=0), val.labels, [str(label) for label in range(1000)])
    assert metrics["accuracy"] > 0.8
    assert metrics["accuracy"] == pytest.approx(trained.val["accuracy"], abs=1e-6)
    assert len(metrics["per_class"]) == 1000


@pytest.mark.parametrize(("units", "layers"), [((), 1), ((0,), 1), ((8,), 2), ((8, 4), 3)])
def test_hidden_layers_are_those_asked_for(units: tuple[int, ...], layers: int) -> None:
    head = build_head(blobs(2), HeadConfig(units=units))
    dense = [layer for layer in head.layers if isinstance(layer, keras.layers.Dense)]
    assert len(dense) == layers
    assert [layer.units for layer in dense[:-1]] == [number for number in units if number]


def test_a_feature_that_is_constant_in_train_does_no_harm() -> None:
    features = blobs(2).features
    features[:, :2] = 3.0
    head = build_head(labelled(features, np.zeros(len(features)), widths=(2, features.shape[1] - 2)), QUICK)
    standardised = keras.Model(head.input, head.get_layer("standardise").output)
    np.testing.assert_array_equal(standardised.predict(features, verbose=0)[:, :2], 0)
    features[:, :2] = 4.0
    np.testing.assert_array_equal(standardised.predict(features, verbose=0)[:, :2], 1)


def test_a_head_survives_saving(tmp_path: Path) -> None:
    train, val = blobs(2, reduced=True), blobs(2, seed=3)
    model = fit_head(train, val, QUICK).model
    model.save(tmp_path / "head.keras")
    loaded = keras.models.load_model(tmp_path / "head.keras")
    np.testing.assert_array_equal(loaded.predict(val.features, verbose=0), model.predict(val.features, verbose=0))


def test_rare_classes_weigh_more() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    assert class_weights(labels, 3, "balanced") == pytest.approx([40 / 90, 40 / 30, 0])
    assert class_weights(labels, 2, "none") is None


def test_weight_decay_shrinks_the_weights() -> None:
    train, val = blobs(2), blobs(2, seed=3)
    free, held = (
        fit_head(train, val, HeadConfig(units=(8,), epochs=3, learning_rate=1e-2, weight_decay=decay)).model
        for decay in (0.0, 5.0)
    )
    norms = [np.linalg.norm(model.layers[-1].kernel) for model in (free, held)]
    assert norms[1] < 0.9 * norms[0]


def test_curves_are_written_as_keras_names_them(tmp_path: Path) -> None:
    with writing_curves(tmp_path, QUICK.learning_rate) as write:
        trained = fit_head(blobs(2), blobs(2, seed=3), QUICK, on_epoch=write)
    curves = {name: EventAccumulator(str(tmp_path / name)).Reload() for name in ("train", "validation")}
    assert set(curves["train"].Tags()["tensors"]) == {"epoch_loss", "epoch_accuracy", "epoch_learning_rate"}
    assert set(curves["validation"].Tags()["tensors"]) == {"epoch_loss", "epoch_accuracy"}
    points = curves["validation"].Tensors("epoch_loss")
    assert [point.step for point in points] == list(range(5))
    losses = [float(make_ndarray(point.tensor_proto)) for point in points]
    assert losses == pytest.approx([row["val_loss"] for row in trained.history])


def test_divergence_is_an_error() -> None:
    with pytest.raises(DivergedError, match="--learning-rate"):
        fit_head(blobs(2), blobs(2), HeadConfig(units=(8, 8, 8), optimizer="sgd", learning_rate=1e18, epochs=2))


@pytest.mark.parametrize(
    "settings",
    [
        {"units": (0, 5)},
        {"dropout": 1.0},
        {"weight_decay": -1},
        {"learning_rate": -1},
        {"epochs": 0},
        {"batch_size": -1},
        {"optimizer": "magic"},
        {"class_weight": "heavy"},
        {"choose_by": "magic"},
    ],
)
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(OptionError, match="must be"):
        HeadConfig(**settings)


def test_what_is_left_open_fits_the_number_of_examples() -> None:
    chosen = [HeadConfig().for_examples(count) for count in (1, 400, 1600, 20_000)]
    assert [config.batch_size for config in chosen] == [64, 64, 128, 512]
    assert [config.learning_rate for config in chosen] == pytest.approx([3e-4, 3e-4, 4.24e-4, 8.49e-4], rel=1e-2)
    assert HeadConfig(batch_size=7, learning_rate=1.0).for_examples(400) == HeadConfig(batch_size=7, learning_rate=1.0)


@pytest.mark.parametrize("command", ["head", "finetune"])
def test_an_unknown_optimizer_is_refused_by_the_command_line(headstart, tmp_path: Path, command: str) -> None:
    code, _, told = headstart.whole(command, tmp_path, *["--run=new"] * (command == "head"), "--optimizer=magic")
    assert (code, "magic" in told, "device" in told) == (2, True, False)
    with pytest.raises(OptionError, match="--optimizer must be among adam"):
        FinetuneConfig(optimizer="magic")


def test_units_on_the_command_line() -> None:
    assert [parse_units(text) for text in ("none", "0", "12")] == [0, 0, 12]


@pytest.mark.parametrize("classes", [2, 3])
def test_label_smoothing_is_trained_towards_and_not_scored_by(classes: int) -> None:
    features = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    labels = np.digitize(features[:, 0], [0.0] if classes == 2 else [-0.5, 0.5])
    whole = labelled(features, labels, classes)
    train, val = whole.take(slice(200)), whole.take(slice(200, None))
    config = HeadConfig(units=(16,), epochs=6, learning_rate=1e-2, batch_size=32)
    plain, smoothed = (fit_head(train, val, replace(config, label_smoothing=s)) for s in (0.0, 0.5))
    logits = smoothed.model.predict(val.features, verbose=0)
    if classes == 2:
        losses = keras.losses.binary_crossentropy(val.labels[:, np.newaxis], logits, from_logits=True)
    else:
        losses = keras.losses.sparse_categorical_crossentropy(val.labels, logits, from_logits=True)
    assert float(np.mean(losses)) == pytest.approx(smoothed.val["loss"], rel=1e-4)
    assert np.abs(logits).mean() < 0.9 * np.abs(plain.model.predict(val.features, verbose=0)).mean()


def test_each_epoch_takes_another_view() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(64, 8)).astype(np.float32) for _ in range(2))
    plain = labelled(one, np.arange(64) % 2)
    config = HeadConfig(units=(4,), epochs=3, dropout=0.0)

    def losses(*views: np.ndarray) -> list[float]:
        return [row["loss"] for row in fit_head(replace(plain, views=views), plain, config).history]

    same, turns = losses(one, one), losses(one, other)
    assert same == losses()
    assert turns[0] == same[0]
    assert turns[1] != same[1]


@pytest.mark.parametrize("choose_by", ["accuracy", "balanced_accuracy", "f1", "auc"])
def test_the_best_epoch_is_chosen_by_another_figure(choose_by: ChooseBy, tmp_path: Path) -> None:
    train, val = blobs(2, 60, noise=4.0), blobs(2, 200, noise=4.0, seed=3).take(slice(0, 150))
    val = val.take(np.flatnonzero((val.labels == 0) | (np.arange(150) % 10 == 1)))
    config = HeadConfig(units=(64,), epochs=8, learning_rate=1e-1, dropout=0, choose_by=choose_by)
    with writing_curves(tmp_path, 0.1) as write:
        trained = fit_head(train, val, config, on_epoch=write)
    figures = [row[f"val_{choose_by}"] for row in trained.history]
    assert figures[trained.best_epoch - 1] == max(figures)
    assert [row["val_loss"] for row in trained.history] == [
        row["val_loss"] for row in fit_head(train, val, replace(config, choose_by="loss")).history
    ]
    logits = trained.model.predict(val.features, verbose=0)
    assert val_figures(choose_by, logits, val.labels)[choose_by] == pytest.approx(trained.val[choose_by])
    curves = EventAccumulator(str(tmp_path / "validation")).Reload()
    assert f"epoch_{choose_by}" in curves.Tags()["tensors"]


def test_rare_classes_are_told_with_the_options_that_are_left(capsys: pytest.CaptureFixture[str]) -> None:
    def told(counts: Sequence[int], **settings) -> str:
        labels = [label for label, count in enumerate(counts) for _ in range(count)]
        examples = [
            Example(ImageFile(f"{n}.jpg", "", 1, 1, 1, 1, 1, "JPEG"), label, "train") for n, label in enumerate(labels)
        ]
        tell_rare(examples, ["cat", "dog", "=fox"], HeadConfig(**settings))
        return " ".join(capsys.readouterr().err.split())

    assert told((100, 21)) == told((10, 9)) == told((39, 20)) == ""
    line = told((100, 19))
    assert "class 'dog' is rare: 19 of 119 training images, the largest class has 100" in line
    assert line.endswith("try --class-weight balanced and --choose-by balanced_accuracy")
    assert told((100, 10), class_weight="balanced").endswith("try --choose-by balanced_accuracy")
    assert told((100, 10), class_weight="balanced", choose_by="f1") == ""
    assert "2 classes are rare, '=fox' the rarest: 3 of 113" in told((100, 10, 3))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("count", [1, 600])
@pytest.mark.parametrize("widths", [(), (5,), (2, 3)])
def test_input_is_standardised_by_its_means_and_one_variance_a_cut(
    count: int, dtype: type, widths: tuple[int, ...]
) -> None:
    features = np.random.default_rng(0).normal(1000, [1, 2, 3, 4, 5], size=(count, 5)).astype(dtype)
    layer = build_head(labelled(features, np.zeros(count), widths=widths), QUICK).get_layer("standardise")
    exact = features.astype(np.float64)
    np.testing.assert_allclose(np.ravel(layer.mean), exact.mean(axis=0), rtol=1e-6)
    means = [exact[:, :2].var(axis=0).mean()] * 2 + [exact[:, 2:].var(axis=0).mean()] * 3
    variance = np.array(means if widths == (2, 3) else [exact.var(axis=0).mean()] * 5)
    np.testing.assert_allclose(np.ravel(layer.variance), variance if count > 1 else np.ones(5), rtol=1e-5)


def test_a_cut_of_small_features_is_heard_beside_one_of_large_ones() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(800) % 2
    telling = rng.normal(size=(800, 4)) + labels[:, np.newaxis]
    features = np.concatenate([1e-3 * telling, 1e3 * rng.normal(size=(800, 4))], axis=1).astype(np.float32)
    accuracies = []
    for widths in ((8,), (4, 4)):
        whole = labelled(features, labels, widths=widths)
        accuracies.append(fit_head(whole.take(slice(400)), whole.take(slice(400, None)), QUICK).val["accuracy"])
    assert accuracies[0] < 0.6
    assert accuracies[1] > 0.75
