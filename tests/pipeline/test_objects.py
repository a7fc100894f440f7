"""Images of an S3 server: a list of URLs as DATA, in processes of their own."""

import csv
from pathlib import Path

import numpy as np
import pytest
from headstart.benchmarks.objects import measure
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.store.maintain import open_stores
from headstart.pipeline.featured import cache_features
from headstart.tests.conftest import QUICK, SMALL

IMAGES = 300


@pytest.mark.slow
def test_bytes_are_read_once_though_requests_fail_and_the_command_is_killed(tmp_path: Path) -> None:
    found = measure(tmp_path, IMAGES, failing=0.05)
    scanning, decoding, whole, again = found["tries"]
    assert scanning["killed"]
    assert decoding["killed"]
    assert decoding["kept_files"] == IMAGES
    read = sum(one["bytes"] for one in (scanning, decoding, whole))
    assert found["bytes"] < read < 1.2 * found["bytes"]  # more: what was on its way at the kill, or cut off
    assert whole["requests"]["GET"] < 10  # of the image that is cut off, to say why
    assert whole["kept_files"] == 0
    assert whole["result"]["examples"] == whole["result"]["extracted"] == IMAGES - 1
    assert whole["result"]["rejected"] == again["result"]["rejected"] == 3
    assert again["result"]["extracted"] == 0
    assert again["bytes"] < found["bytes"] / 50
    with (tmp_path / "store" / "rejects.csv").open() as lines:
        rejects = {row["path"].rpartition("/")[2]: (row["reason"], row["detail"]) for row in csv.DictReader(lines)}
    assert rejects.pop(f"{IMAGES - 1:05}.jpg")[0] == "truncated"
    assert rejects == {f"gone-{number}.jpg": ("vanished", "no such object") for number in range(2)}
    local = cache_features(
        tmp_path / "drawn", FeatureConfig(**SMALL), ExtractionConfig(store=tmp_path / "local", **QUICK)
    )
    (store,) = open_stores(tmp_path / "store")
    digests = sorted(set(store.digests()))
    assert len(digests) == IMAGES - 1
    assert np.array_equal(store.read(digests), local.features(digests))
