"""Features of images that are in no data folder."""

import shutil
from pathlib import Path

import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError
from headstart.pipeline.featured import cache_features
from headstart.pipeline.upkeep.gc import collect_garbage


@pytest.mark.slow
def test_what_no_folder_uses_is_counted_and_dropped(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    shutil.copytree(prepared / "train", data)
    shutil.copytree(prepared / "val", other)
    (test,) = collect_garbage(extraction.store, [data, other]).fingerprints
    assert test.dropped > 0
    assert test.kept + test.dropped == 40
    (alone,) = collect_garbage(extraction.store, [data], yes=True).fingerprints
    assert alone.dropped > test.dropped
    assert cache_features(data, small, extraction).extracted.extracted == 0
    assert cache_features(prepared, small, extraction).extracted.extracted == alone.dropped


def test_a_folder_that_can_not_be_read_in_full_drops_nothing(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared / "train", data)
    (data / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"gone\.jpg"):
        collect_garbage(extraction.store, [data], yes=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        collect_garbage(extraction.store, [prepared, tmp_path / "empty"], yes=True)
    assert cache_features(prepared, small, extraction).extracted.extracted == 0
