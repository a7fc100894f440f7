"""What a store holds for a data folder: the counts, the reasons, and what is wrong."""

from dataclasses import replace
from pathlib import Path

import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import StoreError
from headstart.features.store.maintain import open_stores
from headstart.pipeline.upkeep.explain import explain


def test_what_is_there_is_explained(prepared: Path, small: FeatureConfig, extraction: ExtractionConfig) -> None:
    (same,) = explain(prepared, small, extraction).cuts
    assert (same.cut, same.present, same.missing, same.others) == ("top_activation", 40, 2, [])
    (asked,) = explain(prepared, replace(small, rescale="unit"), extraction).cuts
    assert (asked.present, asked.missing) == (0, 42)
    (other,) = asked.others
    assert (other.present, set(other.differs)) == (40, {"rescale"})
    assert other.differs["rescale"]["there"]["offset"] == [-1.0]
    assert asked.fingerprint != same.fingerprint


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"weights_seed": 1}, {"weights"}),
        ({"image_size": 96}, {"image_size"}),
        ({"resize": "crop"}, {"resize"}),
        ({"truncated": "keep"}, {"truncated"}),
        ({"precision": "bfloat16"}, {"precision", "dtype", "engine"}),
        ({"cut": ("expanded_conv_7_add",)}, {"cut", "shape"}),
        ({"cut": ("top_activation:map",)}, {"cut", "shape"}),
        ({"backbone": "resnet50_v2", "image_size": 64}, {"backbone", "cut", "shape", "weights"}),
    ],
)
def test_each_difference_is_named(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, change: dict, fields: set[str]
) -> None:
    before = sorted(extraction.store.rglob("shard-*"))
    (asked,) = explain(prepared, replace(small, **change), extraction).cuts
    assert set(asked.others[0].differs) == fields
    assert sorted(extraction.store.rglob("shard-*")) == before
    assert len(open_stores(extraction.store)) == 1  # asking makes no folder


def test_the_verdict_of_auto_is_told(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, capsys: pytest.CaptureFixture
) -> None:
    assert explain(prepared, small, extraction).precision_verdict is None
    asked = explain(prepared, replace(small, precision="auto"), extraction)
    told = asked.fields()["precision_verdict"]
    assert told["machine"].keys() - {"gpu"} == {"processor", "cores", "tensorflow", "date"}
    assert told["machine"]["date"] in asked.lines()[-1]
    assert f"--precision auto is {told['precision']}" in asked.lines()[-1]
    assert explain(prepared, small, extraction).precision_verdict == asked.precision_verdict
    (extraction.store / "precision.json").write_text("{")
    assert explain(prepared, small, extraction).precision_verdict is None
    assert "precision.json: damaged" in capsys.readouterr().err
    with pytest.raises(StoreError, match=r"precision\.json: damaged"):
        explain(prepared, replace(small, precision="auto"), extraction)
