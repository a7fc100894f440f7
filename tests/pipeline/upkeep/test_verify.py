"""Features against a fresh forward pass."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import OptionError, StoreError
from headstart.features.store import kept_index
from headstart.features.store.maintain import open_stores
from headstart.pipeline.data.examples import scan_all_sizes
from headstart.pipeline.featured import cache_features
from headstart.pipeline.upkeep.config import VerifyConfig
from headstart.pipeline.upkeep.recompute import recompute
from headstart.pipeline.upkeep.verify import verify_store
from headstart.tests.features.store.test_store import digest, fill, store_in


def compared(data: Path, images: int, repair: bool = False) -> VerifyConfig:
    return VerifyConfig(data=data, recompute=images, repair=repair, weights="random")


def spoil(folder: Path, wrong: int) -> None:
    """Write the features of `folder` again, those of the first `wrong` images changed."""
    (store,) = [store for store in open_stores(folder.parent) if store.folder == folder]
    digests = sorted(store.digests())
    features = store.read(digests)
    features[:wrong] = np.roll(features[:wrong], 1, axis=1)
    for shard in store.shards():
        shard.unlink()
    store.write_shard(digests, features)


def test_an_index_that_lies_is_damage_and_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LARGE", "NEW"):
        monkeypatch.setattr(kept_index, name, 2)
    store = store_in(tmp_path)
    for number in range(4):
        fill(store, [number])
    store.update_merged()
    (place,) = store.folder.glob("index-*")
    np.save(place / "rows.npy", np.arange(4, dtype=np.int32))
    found = verify_store(tmp_path, VerifyConfig())
    assert [one.path for one in found.damage] == [str(place)]
    assert "an index that does not fit its shards" in found.lines()[0]
    assert found.failure() is not None
    assert verify_store(tmp_path, VerifyConfig(repair=True)).failure() is None
    assert verify_store(tmp_path, VerifyConfig()).damage == []
    assert store_in(tmp_path).missing([digest(number) for number in range(5)]) == [digest(4)]


@pytest.mark.slow
def test_features_equal_a_fresh_forward_pass(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig
) -> None:
    more = replace(small, cut=("top_activation", "expanded_conv_7_add", "expanded_conv_2_add:map"))
    cache_features(prepared, more, extraction)
    result = verify_store(extraction.store, compared(prepared, 12))
    assert (result.damage, result.fresh.images, result.failure()) == ([], 12, None)
    assert result.fresh.largest_error < 1e-5


@pytest.mark.slow
def test_another_rescaling_and_size_are_recomputed_as_they_were(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path
) -> None:
    config = replace(small, rescale="unit", image_size=48, resize="crop", precision="bfloat16")
    cache_features(prepared, config, replace(extraction, store=tmp_path / "s"))
    assert verify_store(tmp_path / "s", compared(prepared, 10)).fresh.largest_error < 1e-2


@pytest.mark.slow
def test_wrong_features_are_found_and_dropped(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig
) -> None:
    (folder,) = [path.parent for path in extraction.store.glob("*/fingerprint.json")]
    spoil(folder, 3)
    found = verify_store(extraction.store, compared(prepared, 40))
    assert found.read.bad == []
    (bad,) = found.fresh.bad
    assert Path(bad.path).parent == folder
    assert "--repair" in str(found.failure())
    repaired = verify_store(extraction.store, compared(prepared, 40, repair=True))
    assert (len(repaired.fresh.bad), repaired.failure()) == (1, None)
    assert cache_features(prepared, small, extraction).extracted.extracted == 40
    assert verify_store(extraction.store, compared(prepared, 40)).damage == []


def test_what_can_not_be_recomputed_is_said(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, drawn: Path, tmp_path
) -> None:
    with pytest.raises(StoreError, match="other weights than random"):
        verify_store(extraction.store, replace(compared(prepared, 1), weights_seed=1))
    with pytest.raises(OptionError, match="--recompute"):
        VerifyConfig(data=prepared)
    with pytest.raises(OptionError, match="--recompute"):
        VerifyConfig(recompute=1)
    (tmp_path / "data" / "cat").mkdir(parents=True)
    one = tmp_path / "data" / "cat" / "x.jpg"
    one.write_bytes((drawn / "cat" / "cat.0.jpg").read_bytes() + b"changed")
    os.utime(one, (1, 1))
    with pytest.raises(StoreError, match="no features of the images"):
        recompute(open_stores(extraction.store), tmp_path / "data", compared(tmp_path / "data", 1))


@pytest.mark.slow
def test_a_cut_that_was_hardly_begun_hides_no_other(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig
) -> None:
    cache_features(prepared, replace(small, cut=("expanded_conv_2_add",)), extraction)
    (store,) = [store for store in open_stores(extraction.store) if store.fingerprint.cut == "expanded_conv_2_add"]
    for shard in store.shards():
        shard.unlink()
    fresh = verify_store(extraction.store, compared(prepared, 5)).fresh
    assert (fresh.images, fresh.bad) == (5, ())


@pytest.mark.slow
def test_a_file_that_changed_condemns_no_shard(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path, monkeypatch
) -> None:
    shutil.copytree(prepared, tmp_path / "data")
    for path in tmp_path.glob("data/*/*/*"):
        os.utime(path, (1, 1))
    scanned = scan_all_sizes(extraction.store, tmp_path / "data")
    other = (prepared / "train" / "cat").iterdir()
    for example in scanned.examples:
        Path(example.image.path).write_bytes(next(other, path).read_bytes())
    monkeypatch.setattr("headstart.pipeline.upkeep.recompute.scan_all_sizes", lambda *_, **__: scanned)
    with pytest.raises(StoreError, match="nothing could be recomputed"):
        verify_store(extraction.store, compared(tmp_path / "data", 40))


def test_features_of_other_pixels_are_never_called_wrong(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.pipeline.upkeep.recompute.PIXELS_VERSION", 0)
    with pytest.raises(StoreError, match="another version of headstart"):
        verify_store(extraction.store, compared(prepared, 10, repair=True))
    monkeypatch.undo()
    assert cache_features(prepared, small, extraction).extracted.extracted == 0
