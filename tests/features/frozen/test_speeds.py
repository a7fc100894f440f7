"""The speeds that a store keeps."""

import json
import os
from pathlib import Path

import pytest
from headstart.features.frozen.speeds import keep_speed, measured_speeds

NAME = "vgg16"


def kept(store: Path) -> dict[str, object]:
    keep_speed(store, NAME, 1000, 10.0, "float32", 64)
    assert measured_speeds(store)[NAME].images_per_second == 100
    speeds: dict[str, object] = json.loads((store / "speeds.json").read_bytes())[NAME]
    return speeds


@pytest.mark.parametrize("damage", ["", "{", "[1]", "[" * 100_000, '{"vgg16": 3}', " " * 2_000_000])
def test_a_damaged_file_counts_as_empty_and_is_written_again(tmp_path: Path, damage: str) -> None:
    (tmp_path / "speeds.json").write_text(damage)
    assert measured_speeds(tmp_path) == {}
    kept(tmp_path)


@pytest.mark.parametrize(
    "field", [{"images_per_second": "9"}, {"images_per_second": float("nan")}, {"image_size": None}, {"precision": [1]}]
)
def test_a_speed_of_other_types_counts_as_none(tmp_path: Path, field: dict[str, object]) -> None:
    (tmp_path / "speeds.json").write_text(json.dumps({NAME: kept(tmp_path) | field}))
    assert measured_speeds(tmp_path) == {}


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_counts_as_empty(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "speeds.json"
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda path: os.symlink("/dev/zero", path)}[kind](file)
    assert measured_speeds(tmp_path) == {}
