"""What a store holds for a data folder: the counts, the reasons, and what is wrong."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.errors import DataError, OptionError, StoreError
from features.maintain import open_stores
from pipeline.cached import FeatureConfig, cache_features
from pipeline.upkeep import explain, recompute, unused, verify_store

RANDOM = {"weights": "random"}


def spoil(folder: Path, wrong: int) -> None:
    """Write the features of `folder` again, those of the first `wrong` images changed."""
    (store,) = [store for store in open_stores(folder.parent) if store.folder == folder]
    digests = sorted(store.digests())
    features = store.read(digests)
    features[:wrong] = np.roll(features[:wrong], 1, axis=1)
    for shard in store.shards():
        shard.unlink()
    store.write_shard(digests, features)


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


def test_features_equal_a_fresh_forward_pass(prepared: Path, small: FeatureConfig) -> None:
    more = replace(small, cut=("top_activation", "expanded_conv_7_add", "expanded_conv_2_add:map"))
    cache_features(prepared, more)
    found, fresh = verify_store(small.store, data=prepared, count=25, **RANDOM)
    assert (len(found.bad), fresh.images, fresh.bad) == (0, 25, ())
    assert fresh.largest_error < 1e-5


def test_another_rescaling_and_size_are_recomputed_as_they_were(prepared: Path, small: FeatureConfig, tmp_path) -> None:
    config = replace(small, store=tmp_path / "s", rescale="unit", image_size=48, resize="crop", precision="bfloat16")
    cache_features(prepared, config)
    _, fresh = verify_store(config.store, data=prepared, count=10, **RANDOM)
    assert fresh.largest_error < 1e-2


def test_wrong_features_are_found_and_dropped(prepared: Path, small: FeatureConfig) -> None:
    (folder,) = [path.parent for path in small.store.glob("*/fingerprint.json")]
    spoil(folder, 3)
    found, fresh = verify_store(small.store, data=prepared, count=40, **RANDOM)
    assert found.bad == []
    (bad,) = fresh.bad
    assert Path(bad.path).parent == folder
    verify_store(small.store, repair=True, data=prepared, count=40, **RANDOM)
    assert cache_features(prepared, small).extracted == 40
    _, fresh = verify_store(small.store, data=prepared, count=40, **RANDOM)
    assert fresh.bad == ()


def test_what_can_not_be_recomputed_is_said(prepared: Path, small: FeatureConfig, drawn: Path, tmp_path) -> None:
    with pytest.raises(StoreError, match="other weights than random"):
        verify_store(small.store, data=prepared, count=1, weights="random", weights_seed=1)
    with pytest.raises(OptionError, match="--recompute"):
        verify_store(small.store, data=prepared)
    with pytest.raises(OptionError, match="--recompute"):
        verify_store(small.store, count=1)
    (tmp_path / "data" / "cat").mkdir(parents=True)
    one = tmp_path / "data" / "cat" / "x.jpg"
    one.write_bytes((drawn / "cat" / "cat.0.jpg").read_bytes() + b"changed")
    os.utime(one, (1, 1))
    with pytest.raises(StoreError, match="no features of the images"):
        recompute(open_stores(small.store), tmp_path / "data", 1, "random")
