import os
from pathlib import Path

import numpy as np
import pytest

import features.weights
from features.backbone_memory import BackboneMemory
from features.errors import WeightsError
from features.weights import build_backbone

NAME, SIZE = "mobilenet_v3_small", 64
LONG_AGO = 10**18


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two weights files of equal size and time."""
    folder = tmp_path_factory.mktemp("weights")
    for seed in (0, 1):
        file = folder / f"{seed}.weights.h5"
        build_backbone(NAME, "random", image_size=SIZE, weights_seed=seed).model.save_weights(file)
        os.utime(file, ns=(LONG_AGO, LONG_AGO))
    return folder / "0.weights.h5", folder / "1.weights.h5"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    built: list[str] = []
    original = features.weights._filled

    def counted(*settings):
        built.append(settings[1])
        return original(*settings)

    monkeypatch.setattr(features.weights, "_filled", counted)
    return built


def test_what_was_built_before_is_built_again_only_for_its_model(tmp_path: Path, builds: list[str]) -> None:
    first = build_backbone(NAME, "random", image_size=SIZE, memory=BackboneMemory(tmp_path))
    again = build_backbone(NAME, "random", image_size=SIZE, memory=BackboneMemory(tmp_path))
    assert len(builds) == 1
    assert again.weights_digest == first.weights_digest
    cuts = list(again.spec.cuts)
    assert [again.shape(cut) for cut in cuts] == [(again.model.get_layer(index=i).output.shape[-1],) for i in
                                                  map(again.layer_index, cuts)]  # fmt: skip
    assert again.model is again.model
    assert len(builds) == 2


def test_other_settings_are_not_taken_for_the_same(tmp_path: Path, saved: tuple[Path, Path], builds: list[str]) -> None:
    def built(weights: str, size: int = SIZE, seed: int = 0) -> str:
        return build_backbone(
            NAME, weights, image_size=size, weights_seed=seed, memory=BackboneMemory(tmp_path)
        ).weights_digest

    digests = {built("random"), built("random", seed=1), built(str(saved[0])), built(str(saved[1]))}
    assert len(digests) == 2  # each file is the random weights of a seed
    assert built("random", size=96) in digests
    assert len(builds) == 5


def test_a_file_that_changed_is_read_again(tmp_path: Path, saved: tuple[Path, Path], builds: list[str]) -> None:
    file = tmp_path / "x.weights.h5"
    file.write_bytes(saved[0].read_bytes())
    os.utime(file, ns=(LONG_AGO, LONG_AGO))

    def built() -> str:
        return build_backbone(NAME, str(file), image_size=SIZE, memory=BackboneMemory(tmp_path)).weights_digest

    first = built()
    file.write_bytes(saved[1].read_bytes())
    changed = built()
    assert changed != first
    assert built() == changed
    assert len(builds) == 3  # one that was written just now is not remembered


def test_a_change_that_size_and_time_hide_is_found_before_a_forward_pass(
    tmp_path: Path, saved: tuple[Path, Path]
) -> None:
    file = tmp_path / "x.weights.h5"
    for source in saved:
        file.write_bytes(source.read_bytes())
        os.utime(file, ns=(LONG_AGO, LONG_AGO))
        backbone = build_backbone(NAME, str(file), image_size=SIZE, memory=BackboneMemory(tmp_path))
    with pytest.raises(WeightsError, match="touch it"):
        _ = backbone.model


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": 1}', b"entries"])
def test_a_damaged_memory_is_begun_anew(tmp_path: Path, content: bytes, builds: list[str]) -> None:
    file = tmp_path / "backbones.json"
    file.write_bytes(content)
    digests = [
        build_backbone(NAME, "random", image_size=SIZE, memory=BackboneMemory(tmp_path)).weights_digest
        for _ in range(2)
    ]
    assert len(set(digests)) == 1
    assert len(builds) == 1


@pytest.mark.parametrize("entry", ["1", '{"state": 1}', '{"state": null, "shapes": 3}'])
def test_a_damaged_entry_is_written_again(tmp_path: Path, entry: str, builds: list[str]) -> None:
    build_backbone(NAME, "random", image_size=SIZE, memory=BackboneMemory(tmp_path))
    file = tmp_path / "backbones.json"
    key = next(line for line in file.read_text().splitlines() if NAME in line).rpartition(":")[0]
    file.write_text("{" + key + ":" + entry + "}")
    for _ in range(2):
        backbone = build_backbone(NAME, "random", image_size=SIZE, memory=BackboneMemory(tmp_path))
        assert np.array(backbone.shape("top_activation")).tolist() == [576]
    assert len(builds) == 2
