"""Features of several backbones, cuts and views: side by side, and what of the rest works with them."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError
from headstart.pipeline.evaluate.evaluate import evaluate
from headstart.pipeline.featured import cache_features
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.finetune import finetune
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import train_run
from headstart.pipeline.predict.predict import predict
from headstart.pipeline.runs import Run
from headstart.pipeline.runs.calibration import read_calibration

BOTH = "mobilenet_v3_small+resnet50_v2"


def predicted_is_head_on_features(data: Path, run: Path, config: FeatureConfig, extraction: ExtractionConfig) -> None:
    """The probabilities of raw files are those of the head on cached features, calibrated."""
    cached = cache_features(data, config, extraction)
    test = cached.of("test")
    features = cached.labelled(test).features
    calibration = read_calibration(Run.open(run), "head")
    assert calibration
    expected = calibration.probabilities(keras.models.load_model(run / "head.keras").predict(features, verbose=0))
    found = predict(run, [Path(example.image.path) for example in test])
    chances = [list(item.probabilities.values()) for item in found.predictions]
    np.testing.assert_allclose(chances, expected, atol=1e-3)


@pytest.mark.slow
def test_several_backbones_are_put_side_by_side(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    cuts = ("expanded_conv_7_add+conv3_block4_out", "top_activation")
    config = replace(small, backbone=BOTH, weights="random+random", cut=cuts)
    alone = cache_features(prepared, replace(small, cut=("expanded_conv_7_add", "top_activation")), extraction)
    both = cache_features(prepared, config, extraction)
    names = ["expanded_conv_7_add", "top_activation"]
    every = [*(f"mobilenet_v3_small/{name}" for name in names), "resnet50_v2/conv3_block4_out"]
    assert list(both.fingerprints()) == every
    assert both.extracted.extracted == 40
    features = both.labelled(both.examples).features
    expected = alone.labelled(both.examples).features
    np.testing.assert_array_equal(features[:, : expected.shape[1]], expected)
    assert features.shape[1] == expected.shape[1] + 512

    run = tmp_path / "run"
    train_run(prepared, run, config, extraction, HeadConfig(units=(4,), epochs=1))
    saved = Run.open(run).config()
    assert list(saved["fingerprints"]) == every
    assert saved["features"]["weights"] == "random+random"
    assert evaluate(run).n == len(both.of("test"))
    predicted_is_head_on_features(prepared, run, config, extraction)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(both.examples[0].image.path).read_bytes()[:-200])
    with pytest.raises(DataError, match=r"broken\.jpg \(truncated\)"):
        predict(run, [broken])
    with pytest.raises(OptionError, match=r"several backbones \(mobilenet_v3_small\+resnet50_v2\)"):
        finetune(run, FinetuneConfig(epochs=1))


@pytest.mark.slow
def test_several_cuts_of_one_backbone(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    config = replace(small, cut=("expanded_conv_7_add+top_activation",))
    train_run(prepared, tmp_path / "run", config, extraction, HeadConfig(units=(4,), epochs=1))
    predicted_is_head_on_features(prepared, tmp_path / "run", config, extraction)
    cached = cache_features(prepared, config, extraction)
    columns = cached.labelled(cached.examples).columns
    variance = np.ravel(keras.models.load_model(tmp_path / "run" / "head.keras").get_layer("standardise").variance)
    assert [len(set(variance[cut])) for cut in columns.values()] == [1, 1]
    assert len(set(variance)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "resnet50_v2+resnet50_v2"}, "names a backbone twice"),
        ({"backbone": "resnet50_v2+nothing"}, "there is no 'nothing'"),
        ({"backbone": BOTH, "cut": ("mixed8",)}, "none of mobilenet_v3_small, resnet50_v2 has a cut 'mixed8'"),
        ({"backbone": BOTH, "weights": "a.h5+b.h5+c.h5"}, "one for each of 2 backbones"),
        ({"cut": ("top_activation+top_activation",)}, "names a cut twice"),
    ],
)
def test_what_does_not_fit_together_is_told(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, change: dict, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        cache_features(prepared, replace(small, **change), extraction)


@pytest.mark.slow
def test_a_head_takes_a_view_an_epoch(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    head = HeadConfig(units=(4,), epochs=4)
    train_run(prepared, tmp_path / "plain", small, extraction, head)
    train_run(prepared, tmp_path / "viewed", replace(small, views=2), extraction, head)
    cached = cache_features(prepared, replace(small, views=2), extraction)
    assert cached.views_extracted == 0  # `head` made them
    train = cached.of("train")
    labelled = cached.labelled(train, viewed=train)
    plain, (first, second) = labelled.features, labelled.views
    assert not np.array_equal(first, plain)
    assert not np.array_equal(first, second)
    losses = [[row["loss"] for row in Run.open(tmp_path / name).history()] for name in ("plain", "viewed")]
    assert losses[0] != losses[1]
    assert Run.open(tmp_path / "viewed").config()["features"]["views"] == 2
    assert evaluate(tmp_path / "viewed").n == len(cached.of("test"))
