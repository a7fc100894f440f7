"""What a store holds for a data folder: the counts, the reasons, and what is wrong."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from headstart.features.config import FeatureConfig
from headstart.features.errors import DataError
from headstart.features.store.maintain import open_stores
from headstart.pipeline.featured import cache_features
from headstart.pipeline.upkeep.explain import explain, unused

RANDOM = {"weights": "random"}


def test_what_is_there_is_explained(prepared: Path, small: FeatureConfig) -> None:
    (same,) = explain(small.store, prepared, small)
    assert (same.cut, same.present, same.missing, same.others) == ("top_activation", 40, 2, [])
    (asked,) = explain(small.store, prepared, replace(small, rescale="unit"))
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
        ({"precision": "bfloat16"}, {"precision", "dtype"}),
        ({"cut": ("expanded_conv_7_add",)}, {"cut", "shape"}),
        ({"cut": ("top_activation:map",)}, {"cut", "shape"}),
        ({"backbone": "resnet50_v2", "image_size": 64}, {"backbone", "cut", "shape", "weights"}),
    ],
)
def test_each_difference_is_named(prepared: Path, small: FeatureConfig, change: dict, fields: set[str]) -> None:
    before = sorted(small.store.rglob("shard-*"))
    (asked,) = explain(small.store, prepared, replace(small, **change))
    assert set(asked.others[0].differs) == fields
    assert sorted(small.store.rglob("shard-*")) == before
    assert len(open_stores(small.store)) == 1  # asking makes no folder


def test_what_no_folder_uses_is_counted_and_dropped(prepared: Path, small: FeatureConfig, tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    shutil.copytree(prepared / "train", data)
    shutil.copytree(prepared / "val", other)
    (test,) = unused(small.store, [data, other])
    assert test.dropped > 0
    assert test.kept + test.dropped == 40
    (alone,) = unused(small.store, [data], drop=True)
    assert alone.dropped > test.dropped
    assert cache_features(data, small).extracted == 0
    assert cache_features(prepared, small).extracted == alone.dropped


def test_a_folder_that_can_not_be_read_in_full_drops_nothing(prepared: Path, small: FeatureConfig, tmp_path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared / "train", data)
    (data / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"gone\.jpg"):
        unused(small.store, [data], drop=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        unused(small.store, [prepared, tmp_path / "empty"], drop=True)
    assert cache_features(prepared, small).extracted == 0
