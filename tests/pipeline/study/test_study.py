"""The command `study`, what it tells, and how often its intervals hold."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headstart.benchmarks.known_law import draw_images
from headstart.benchmarks.study import known, photographs
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError
from headstart.pipeline.data.examples import Examples
from headstart.pipeline.featured import cache_features
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.study.classes import ClassGain
from headstart.pipeline.study.config import StudyConfig
from headstart.pipeline.study.forecast import Estimate, Needed
from headstart.pipeline.study.result import Size, StudyResult
from headstart.pipeline.study.section import study_section
from headstart.pipeline.study.study import study, study_cached, study_features
from headstart.tests.conftest import SMALL_FLAGS, Cli

QUICK = StudyConfig(sizes=5, seeds=2)


def blobs(counts: Sequence[int], spread: float, seed: int = 0) -> LabelledFeatures:
    """Images of one class after another, whose features lie around a corner of a cube."""
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(seed).normal(0, spread, (len(labels), 8))
    return LabelledFeatures((np.eye(8)[labels] + noise).astype(np.float32), labels, len(counts), {})


def of(train: LabelledFeatures, val: LabelledFeatures, config: StudyConfig = QUICK) -> StudyResult:
    names = [f"class {label}" for label in range(train.classes)]
    return study_features(train, val, list(map(str, range(len(train)))), names, config)


def test_a_command_measures_and_forecasts(
    prepared: Path, extraction: ExtractionConfig, tmp_path: Path, headstart: Cli
) -> None:
    chart = tmp_path / "curve.svg"
    options = (f"--store={extraction.store}", *SMALL_FLAGS, "--max-rejects=1", "--seeds=2", "--sizes=5")
    found = headstart("study", prepared, *options, "--target=0.9", f"--chart={chart}")
    sizes = found["sizes"]
    assert [row["images"] for row in sizes] == sorted({row["images"] for row in sizes})
    assert sizes[-1]["images"] == found["train"] == found["more"]["images"]
    assert [row["images"] for row in found["forecast"]] == [2 * found["train"], 4 * found["train"]]
    for row in (*sizes, *found["forecast"]):
        assert 0 <= row["interval"][0] <= row["accuracy"] <= row["interval"][1] <= 1
    assert found["law"]["name"] in ("log-linear", "power law")
    assert set(found["law"]["parameters"]) in ({"a", "b"}, {"a", "b", "c"})
    assert found["target"]["accuracy"] == 0.9
    assert sorted(row["class"] for row in found["classes"]) == ["cat", "dog"]
    assert any("val has" in note for note in found["notes"])
    assert "training images" in chart.read_text()
    text = headstart.text(
        "study", prepared, *options, "--metric=auc", "--target=0.9", f"--chart={tmp_path / 'curve.PNG'}"
    )
    assert "AUC 0.9: " in text
    assert "expected" in text
    assert (tmp_path / "curve.PNG").read_bytes().startswith(b"\x89PNG")


def test_test_is_not_used(prepared: Path, extraction: ExtractionConfig, small: FeatureConfig) -> None:
    cached = cache_features(prepared, small, extraction)
    without = replace(cached, examples=Examples.of([*cached.of("train"), *cached.of("val")]))
    assert study_cached(cached, QUICK).fields() == study_cached(without, QUICK).fields()


def test_same_seed_same_result() -> None:
    train, val = blobs([30, 30], 0.6), blobs([20, 20], 0.6, seed=1)
    assert of(train, val) == of(train, val)
    units, names = list(map(str, range(60))), ["one", "other"]
    assert study_features(train, val, units, names, QUICK, seed=1).sizes != of(train, val).sizes


def test_a_sample_of_many_images_is_told(prepared: Path, extraction: ExtractionConfig, small: FeatureConfig) -> None:
    cached = cache_features(prepared, small, extraction)
    found = study_cached(cached, replace(QUICK, max_images=12))
    every = len(cached.of("train"))
    assert (found.images, found.sizes[-1].images, found.more) == (every, 12, every)
    assert [size.images for size in found.forecast] == [2 * every, 4 * every]
    assert found.notes[0] == f"a sample of 12 of {every} training images"


def test_fewer_groups_than_classes_are_refused_in_a_sample_too(
    prepared: Path, extraction: ExtractionConfig, small: FeatureConfig
) -> None:
    cached = cache_features(prepared, small, extraction)
    grouped = [replace(one, group="all") if one.split == "train" else one for one in cached.examples]
    with pytest.raises(DataError, match="1 different images or groups in train, of 2 classes: too few for a study"):
        study_cached(replace(cached, examples=Examples.of(grouped)), replace(QUICK, max_images=12))


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1", "auc", "loss"])
def test_each_metric_improves_with_images(metric) -> None:
    found = of(blobs([150, 100, 50], 0.6), blobs([60, 40, 20], 0.6, seed=1), replace(QUICK, metric=metric))
    first, last, expected = (size.figure.value for size in (found.sizes[0], found.sizes[-1], found.forecast[-1]))
    better = -1 if metric == "loss" else 1
    assert better * first < better * last <= better * expected + 0.01
    assert 0 <= found.gain.low <= found.gain.value <= found.gain.high
    assert metric in found.fields()["sizes"][0]
    json.dumps(found.fields(), allow_nan=False)


def test_all_right_is_not_certain() -> None:
    found = of(blobs([40, 40], 0.01), blobs([20, 20], 0.01, seed=1))
    assert found.sizes[-1].figure.value == found.forecast[-1].figure.value == 1
    assert 0.85 < found.sizes[-1].figure.low < 0.96
    assert 0.85 < found.forecast[-1].figure.low < 0.96


def test_a_rare_class_and_an_idle_head_are_told() -> None:
    found = of(blobs([100, 3], 5.0), blobs([40, 1], 5.0, seed=1))
    told = " ".join(found.notes)
    assert "always saying 'class 0'; try --metric balanced_accuracy" in told
    assert "class 'class 1' has 3 training images" in told
    assert "val has 41 images, so no figure here is sure; `headstart prepare SOURCE DATA --val 0.3`" in told


def test_many_classes_of_few_images() -> None:
    train, val = draw_images(300, np.random.default_rng(0)), draw_images(100, np.random.default_rng(1))
    labels = np.arange(300) % 100
    many = [replace(part, labels=labels[: len(part)], classes=100) for part in (train, val)]
    found = of(*many, replace(QUICK, sizes=4))
    assert (found.sizes[0].images, found.sizes[-1].images, len(found.classes)) == (100, 300, 100)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DataError, match="4 different images or groups in train, of 2 classes: too few for a study"):
        of(blobs([2, 2], 0.1), blobs([2, 2], 0.1))
    train = blobs([20, 20], 0.1)
    with pytest.raises(DataError, match="2 different images or groups"):
        study_features(train, train, ["a"] * 20 + ["b"] * 20, ["x", "y"], QUICK)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sizes": 3}, "--sizes must be from 4 to 1000"),
        ({"sizes": 10**17}, "--sizes must be from 4 to 1000. Received: 100000000000000000"),
        ({"seeds": 1}, "--seeds must be from 2 to 1000"),
        ({"target": 1.0}, "--target must be at least 0 and under 1 for accuracy"),
        ({"more": -1}, "--more must be at least 1, or 0 to choose"),
        ({"chart": Path("curve.gif")}, "--chart must be a file that ends in .svg or .png"),
        ({"chart": Path("nowhere/curve.svg")}, "in a folder that exists"),
    ],
)
def test_wrong_options_are_named(settings, named: str) -> None:
    with pytest.raises(OptionError, match=re.escape(named)):
        StudyConfig(**settings)


def test_views_are_refused(prepared: Path, extraction: ExtractionConfig, small: FeatureConfig) -> None:
    with pytest.raises(OptionError, match="--views 2: a study trains on the images alone"):
        study(prepared, replace(small, views=2), extraction, QUICK)


def made(**changes: object) -> StudyResult:
    """A result of a study of 1,600 images."""
    result = StudyResult(
        metric="accuracy",
        images=1600,
        val_images=200,
        seeds=5,
        sizes=[Size(80, Estimate(0.95, 0.93, 0.97)), Size(1600, Estimate(0.986, 0.98, 0.992))],
        law="power law",
        parameters={"c": 0.004, "a": 0.31, "b": 0.45},
        fitted=Size(1600, Estimate(0.986, 0.981, 0.991)),
        forecast=[Size(2600, Estimate(0.99, 0.983, 0.995)), Size(6400, Estimate(0.992, 0.985, 0.998))],
        more=1000,
        gain=Estimate(0.004, 0.001, 0.007),
        needed=Needed(0.99, 1934, 1721, 5210),
        classes=[ClassGain("<b>husky</b>", 800, 0.9, 0.021, 0.005, 0.037), ClassGain("cat", 800, 0.9, 0.0, 0.0, 0.01)],
    )
    return replace(result, **changes)


def test_what_it_says() -> None:
    told = list(made().sentences())
    assert told[:2] == [
        "1,000 more images: +0.4 points (0.1 to 0.7) of accuracy",
        "accuracy 0.99: about 1,900 images (1,700 to 5,200)",
    ]
    assert told[2] == "power law: 1 - accuracy = c + a n^-b, with c = 0.004, a = 0.31, b = 0.45"
    assert told[3] == "twice the images: recall of '<b>husky</b>' +2.1 points (0.5 to 3.7), now 0.900"
    assert len(told) == 4
    assert "no class surely gains from more images" in list(made(classes=[]).sentences())


@pytest.mark.parametrize(
    ("needed", "says"),
    [
        (Needed(0.99, 1934, 1721, None), "about 1,900 images (1,700 or more, perhaps never)"),
        (Needed(0.99, None, 4100, None), "not in sight with this backbone, at the earliest with 4,100 images"),
        (Needed(0.99, None, 700, None), "not in sight with this backbone"),
        (Needed(0.98, 400, 200, 900), "reached with 1,600 images"),
        (Needed(0.94, 30, 1, 900), "reached with 80 images or fewer"),
        (Needed(0.99, 81, 1, None), "the images for it can't be told with so few val images (200)"),
        (
            Needed(0.99, 81, 1, 900),
            "not reached with 1,600 images, though the law expects it with about 81; 200 val images can't tell",
        ),
    ],
)
def test_when_a_figure_is_reached(needed: Needed, says: str) -> None:
    assert f"accuracy {needed.target:g}: {says}" in list(made(needed=needed).sentences())


def test_a_loss_is_reached_from_above() -> None:
    sizes = [Size(80, Estimate(0.3, 0.2, 0.4)), Size(1600, Estimate(0.1, 0.05, 0.2))]
    told = list(made(metric="loss", sizes=sizes, needed=Needed(0.2, 300, 100, 900)).sentences())
    assert "loss 0.2: reached with 1,600 images" in told


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_gain_is_a_difference_in_the_table(metric) -> None:
    found = of(blobs([60, 60], 0.8), blobs([20, 20], 0.8, seed=1), replace(QUICK, metric=metric, more=120))
    expected = next(size.figure.value for size in found.forecast if size.images == 240)
    assert found.fitted.images == 120
    assert found.gain.value == pytest.approx(abs(expected - found.fitted.figure.value))
    assert found.fields()["fitted"]["images"] == 120


def test_with_few_val_images_the_summary_is_short_and_says_so_first() -> None:
    first, table, *rest = made(val_images=7, notes=["val has 7 images"]).lines()
    assert first == "val has 7 images"
    assert [table.row_count, len(rest)] == [4, 2]
    table, *rest = made(notes=["a note"]).lines()
    assert [table.row_count, len(rest), rest[-1]] == [5, 5, "a note"]


def test_val_is_bounded_by_a_sample(
    prepared: Path, extraction: ExtractionConfig, small: FeatureConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = cache_features(prepared, small, extraction)
    every = len(cached.of("val"))
    monkeypatch.setattr("headstart.pipeline.study.study._MOST_LOGITS", 10)  # of two classes
    found = study_cached(cached, QUICK)
    assert (found.val_images, found.notes[0]) == (5, f"a sample of 5 of {every} val images")
    monkeypatch.setattr("headstart.pipeline.study.study._MOST_LOGITS", 1)
    assert study_cached(cached, QUICK).val_images == 2  # one of each class


def test_a_section_of_a_page_shows_the_curve_and_keeps_names_text() -> None:
    section = study_section(made(notes=["val has <2> images"]))
    assert "<svg" in section
    assert "accuracy 0.950 with 80 images, 0.986 with 1,600; expected 0.990 with 2,600" in section
    assert "&lt;b&gt;husky&lt;/b&gt;" in section
    assert "val has &lt;2&gt; images" in section
    assert "<b>" not in section


@pytest.mark.slow
def test_a_known_law_is_recovered() -> None:
    held = np.sum([known(seed) for seed in range(20)], axis=0)
    assert held.min() >= 18, held


@pytest.mark.real
@pytest.mark.parametrize("cut", ["top_act", "b10_add"])
def test_400_photographs_foretell_the_accuracy_with_1600(shared: Path, photographs_store: Path, cut: str) -> None:
    settings = FeatureConfig(backbone="efficientnet_lite0", cut=(cut,))
    cached = cache_features(shared / "data" / "dogs_vs_cats", settings, ExtractionConfig(store=photographs_store))
    held = np.sum([row[:2] for row in photographs(cached.labelled(cached.examples), 10)], axis=0)
    assert held.min() >= 8, held
