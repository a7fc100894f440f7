"""What is done to a store after an extraction."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.store import compact, writer
from headstart.features.store.maintain import open_stores
from headstart.pipeline.featured import cache_features


@pytest.mark.slow
def test_a_store_of_many_small_shards_is_compacted_after_an_extraction_only(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(writer, "SHARD_IMAGES", 8)
    monkeypatch.setattr(compact, "MANY_SHARDS", 50)
    there = replace(extraction, store=tmp_path / "s", batch_size=8)
    cache_features(prepared, small, there)
    (store,) = open_stores(there.store)
    assert len(store.shards()) > 3
    monkeypatch.setattr(compact, "MANY_SHARDS", 3)
    cache_features(prepared, small, there)  # nothing to extract
    assert len(store.shards()) > 3
    store.retire([store.shards()[0]])
    done = cache_features(prepared, small, there)
    assert 0 < done.extracted.extracted < 40
    assert "small shards, for at most 60 s" in capsys.readouterr().err
    assert len(store.shards()) == 1
    (before,) = open_stores(extraction.store)
    digests = sorted(set(before.digests()))
    assert sorted(set(store.digests())) == digests
    np.testing.assert_allclose(store.read(digests), before.read(digests), rtol=1e-4, atol=1e-5)
