"""`headstart store` as scripts and people meet it."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from headstart import cli
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.tests.conftest import SMALL_FLAGS
from typer.testing import CliRunner


def shards(store: Path) -> list[Path]:
    return sorted(store.glob("*/shard-*.h5"))


def test_a_store_is_listed(headstart, small: FeatureConfig, extraction: ExtractionConfig) -> None:
    (one,) = headstart("store", "ls", extraction.store)["fingerprints"]
    assert (one["backbone"], one["cut"], one["images"], one["shards"]) == (
        "mobilenet_v3_small",
        "top_activation",
        40,
        len(shards(extraction.store)),
    )
    assert one["bytes"] == sum(shard.stat().st_size for shard in shards(extraction.store))
    assert one["folder"] in headstart.text("store", "ls", extraction.store)


def test_a_clean_store_is_verified(
    headstart, small: FeatureConfig, extraction: ExtractionConfig, prepared: Path
) -> None:
    found = headstart("store", "verify", extraction.store)
    assert (found["shards"], found["images"], found["bad"]) == (len(shards(extraction.store)), 40, 0)
    flags = ("--data", prepared, "--recompute", "5", "--weights=random")
    assert headstart("store", "verify", extraction.store, *flags)["recomputed"] == 5
    assert "5 images recomputed" in headstart.text("store", "verify", extraction.store, *flags)


def test_a_bad_shard_is_told_dropped_and_redone(
    headstart, small: FeatureConfig, extraction: ExtractionConfig, prepared: Path
) -> None:
    shard = shards(extraction.store)[0]
    with h5py.File(shard) as file:
        lost = len(file["digest"])
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    result = CliRunner().invoke(cli.app, ["store", "verify", str(extraction.store), "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["bad"] == 1
    assert found["bad_shards"][0]["path"] == str(shard)
    assert "--repair" in result.stderr
    assert headstart("store", "verify", extraction.store, "--repair")["bad"] == 1
    assert headstart("store", "verify", extraction.store)["bad"] == 0
    done = headstart("features", prepared, *SMALL_FLAGS, f"--store={extraction.store}", "--max-rejects=1")
    assert done["extracted"] == lost


def test_what_is_missing_is_explained(
    headstart, small: FeatureConfig, extraction: ExtractionConfig, prepared: Path
) -> None:
    flags = (extraction.store, prepared, *SMALL_FLAGS)
    (state,) = headstart("store", "explain", *flags, "--rescale=unit", f"--store={extraction.store}")["cuts"]
    assert (state["present"], state["missing"]) == (0, 42)
    assert set(state["others"][0]["differs"]) == {"rescale"}
    text = headstart.text("store", "explain", *flags, "--rescale=unit", "--cut=all")
    assert "rescale" in text
    assert "top_activation: 0 images have features, 42 have none" in text


@pytest.mark.slow
def test_several_cuts_are_filled_side_by_side_and_a_head_refuses_maps(
    headstart, small: FeatureConfig, extraction: ExtractionConfig, prepared: Path, tmp_path: Path
) -> None:
    cuts = ("--cut=all", "--cut=expanded_conv_10_add:map")
    flags = (*SMALL_FLAGS, f"--store={extraction.store}", "--max-rejects=1")
    done = headstart("features", prepared, *flags, *cuts)
    assert (done["extracted"], len(done["fingerprint"])) == (40, 13)
    assert headstart("features", prepared, *flags, *cuts)["extracted"] == 0
    shapes = set()
    for merged in extraction.store.glob("*/features.h5"):
        with h5py.File(merged) as file:
            assert np.isfinite(file["features"][:]).all()
            assert len(file["digest"][0]) == 64
            assert json.loads(file.attrs["backbone"]) == "mobilenet_v3_small"
            shapes.add(file["features"].shape)
    assert (40, 2, 2, 96) in shapes
    line = headstart.error("head", prepared, *flags, *cuts, f"--run={tmp_path / 'r'}", code=2)
    assert "averaged over space" in line
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_small_shards_are_joined_and_unused_features_dropped(
    headstart, small: FeatureConfig, extraction: ExtractionConfig, prepared: Path, drawn: Path
) -> None:
    done = headstart("features", drawn, *SMALL_FLAGS, f"--store={extraction.store}", "--max-rejects=1", "--cut=all")
    assert done["extracted"] == 40
    before = headstart("store", "compact", extraction.store)
    assert before["shards_after"] <= before["shards_before"]
    would = headstart("store", "gc", extraction.store, prepared / "train")
    assert not would["done"]
    assert would["dropped"] > 0
    assert "nothing was changed" in headstart.text("store", "gc", extraction.store, prepared / "train")
    assert headstart("store", "gc", extraction.store, prepared / "train", "--yes")["dropped"] == would["dropped"]
    assert headstart("store", "gc", extraction.store, prepared / "train", "--yes")["dropped"] == 0
    assert headstart("store", "verify", extraction.store)["bad"] == 0


def test_features_are_exported(
    headstart, small: FeatureConfig, extraction: ExtractionConfig, prepared: Path, tmp_path: Path
) -> None:
    result = headstart("store", "export", extraction.store, prepared, tmp_path / "out.npz")
    assert (result["examples"], result["missing"]) == (40, 2)
    assert np.load(tmp_path / "out.npz")["features"].shape == (40, 576)
    assert "2 images have none" in headstart.text("store", "export", extraction.store, prepared, tmp_path / "out.h5")
    assert ".npz" in headstart.error("store", "export", extraction.store, prepared, tmp_path / "out.txt", code=2)


@pytest.mark.parametrize("command", ["ls", "verify", "compact"])
def test_what_is_no_store_is_told_in_one_line(headstart, tmp_path: Path, command: str) -> None:
    assert "no such folder" in headstart.error("store", command, tmp_path / "nowhere")
    assert "no features in it" in headstart.error("store", command, tmp_path)
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "fingerprint.json").write_text("{")
    if command != "verify":
        assert "fingerprint.json" in headstart.error("store", command, tmp_path)
        return
    result = CliRunner().invoke(cli.app, ["store", "verify", str(tmp_path), "--json"])
    assert (result.exit_code, json.loads(result.stdout)["bad"]) == (1, 1)
    assert "delete the folder" in result.stderr


@pytest.mark.slow
def test_a_file_that_was_changed_behind_its_time_is_found_by_rehashing(
    headstart, small: FeatureConfig, extraction: ExtractionConfig, drawn: Path, tmp_path: Path
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for path in sorted((drawn / name).glob(f"{name}*"))[:5]:
            (tmp_path / "data" / name / path.name).write_bytes(path.read_bytes() + b"x")
    for path in tmp_path.glob("data/*/*"):
        os.utime(path, (1, 1))
    command = ("features", tmp_path / "data", *SMALL_FLAGS, f"--store={extraction.store}")
    assert headstart(*command)["extracted"] == 10
    path = tmp_path / "data" / "cat" / "cat.0.jpg"
    path.write_bytes(path.read_bytes()[:-1] + b"y")
    os.utime(path, (1, 1))
    assert headstart(*command)["extracted"] == 0
    assert headstart(*command, "--rehash")["extracted"] == 1


def test_a_merged_file_of_shards_that_are_gone_is_told_and_mended(
    headstart, small: FeatureConfig, extraction: ExtractionConfig, prepared: Path
) -> None:
    for shard in shards(extraction.store):
        shard.unlink()
    result = CliRunner().invoke(cli.app, ["store", "verify", str(extraction.store)])
    assert result.exit_code == 1
    assert "NaN" in result.stdout
    headstart("features", prepared, *SMALL_FLAGS, f"--store={extraction.store}", "--max-rejects=1")
    assert headstart("store", "verify", extraction.store)["bad"] == 0
    (merged,) = extraction.store.glob("*/features.h5")
    merged.write_text("junk")
    assert CliRunner().invoke(cli.app, ["store", "verify", str(extraction.store)]).exit_code == 1
    headstart("store", "verify", extraction.store, "--repair")
    assert headstart("store", "verify", extraction.store)["bad"] == 0


def test_a_full_store_is_used_without_writing_to_it(
    headstart, small: FeatureConfig, extraction: ExtractionConfig, prepared: Path, monkeypatch
) -> None:
    flags = (prepared, *SMALL_FLAGS, f"--store={extraction.store}", "--max-rejects=1")
    for path in prepared.rglob("*.*"):
        os.utime(path, (1, 1))
    headstart("features", *flags)

    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("headstart.features.files.flush_to_disk", denied)
    assert headstart("features", *flags)["cached"] == 40
    assert "rejects.csv" not in headstart.error("features", *flags, "--rescale=unit")
