import json
import os
from pathlib import Path

import headstart.features.backbones.facts
import headstart.features.backbones.models
import pytest
from headstart.features.backbones.facts import KnownBackbones
from headstart.features.backbones.weights import build_backbone
from headstart.features.errors import WeightsError
from headstart.features.files import SETTLED_NS
from headstart.tests.conftest import Cli

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


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old from the moment that they are written."""
    monkeypatch.setattr(headstart.features.backbones.facts, "SETTLED_NS", 0)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    built: list[str] = []
    original = headstart.features.backbones.models.filled

    def counted(*settings):
        built.append(settings[1])
        return original(*settings)

    monkeypatch.setattr(headstart.features.backbones.models, "filled", counted)
    return built


def test_what_was_built_before_is_built_again_only_for_its_model(tmp_path: Path, builds: list[str]) -> None:
    first = build_backbone(NAME, "random", image_size=SIZE, known=KnownBackbones(tmp_path))
    again = build_backbone(NAME, "random", image_size=SIZE, known=KnownBackbones(tmp_path))
    assert len(builds) == 1
    assert again.weights_digest == first.weights_digest
    cuts = again.cuts()
    depths = [(again.output(cut.block).shape[-1],) for cut in cuts]
    assert [again.shape(cut) for cut in cuts] == depths
    assert again.model is again.model
    assert len(builds) == 2


@pytest.mark.slow
def test_other_settings_are_not_taken_for_the_same(tmp_path: Path, saved: tuple[Path, Path], builds: list[str]) -> None:
    def built(weights: str, size: int = SIZE, seed: int = 0) -> str:
        return build_backbone(
            NAME, weights, image_size=size, weights_seed=seed, known=KnownBackbones(tmp_path)
        ).weights_digest

    digests = {built("random"), built("random", seed=1), built(str(saved[0])), built(str(saved[1]))}
    assert len(digests) == 2  # each file is the random weights of a seed
    assert built("random", size=96) in digests
    assert len(builds) == 5
    built(str(saved[1]))
    assert len(builds) == 5
    build_backbone(NAME, "random", image_size=SIZE, known=KnownBackbones(tmp_path, forget=True))
    assert len(builds) == 6


def test_another_file_at_the_same_place_is_read_though_size_and_time_are_equal(
    tmp_path: Path, saved: tuple[Path, Path], builds: list[str]
) -> None:
    link = tmp_path / "x.weights.h5"
    digests = []
    for file in saved:
        link.unlink(missing_ok=True)
        os.link(file, link)
        backbone = build_backbone(NAME, str(link), image_size=SIZE, known=KnownBackbones(tmp_path))
        digests.append(backbone.weights_digest)
    assert digests[0] != digests[1]
    assert len(builds) == 2


@pytest.mark.slow
def test_a_file_that_was_written_just_now_is_not_remembered(
    tmp_path: Path, saved: tuple[Path, Path], builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headstart.features.backbones.facts, "SETTLED_NS", SETTLED_NS)
    file = tmp_path / "x.weights.h5"
    file.write_bytes(saved[0].read_bytes())
    for _ in range(2):
        build_backbone(NAME, str(file), image_size=SIZE, known=KnownBackbones(tmp_path))
    assert len(builds) == 2


def test_a_file_that_is_replaced_while_it_is_read_is_not_remembered(
    tmp_path: Path, saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "x.weights.h5"
    link.symlink_to(saved[0])
    original = headstart.features.backbones.models.filled

    def slow(*settings):
        model = original(*settings)
        link.unlink()
        link.symlink_to(saved[1])
        return model

    monkeypatch.setattr(headstart.features.backbones.models, "filled", slow)
    build_backbone(NAME, str(link), image_size=SIZE, known=KnownBackbones(tmp_path))
    assert not list(tmp_path.glob("*.json"))


def test_weights_that_are_not_what_was_remembered_are_refused(tmp_path: Path) -> None:
    build_backbone(NAME, "random", image_size=SIZE, known=KnownBackbones(tmp_path))
    file = tmp_path / "backbones.json"
    entries = json.loads(file.read_bytes())
    next(iter(entries.values()))["weights_digest"] = "0" * 64
    file.write_text(json.dumps(entries))
    backbone = build_backbone(NAME, "random", image_size=SIZE, known=KnownBackbones(tmp_path))
    with pytest.raises(WeightsError, match="--rehash"):
        _ = backbone.model


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": 1}', b"entries"])
def test_a_damaged_memory_is_begun_anew(tmp_path: Path, content: bytes, builds: list[str]) -> None:
    file = tmp_path / "backbones.json"
    file.write_bytes(content)
    digests = [
        build_backbone(NAME, "random", image_size=SIZE, known=KnownBackbones(tmp_path)).weights_digest for _ in range(2)
    ]
    assert len(set(digests)) == 1
    assert len(builds) == 1


@pytest.mark.parametrize("shapes", [3, {}, {"top_activation": [2, 2]}, {"top_activation": [1e999, 1, 1]}, None])
def test_a_damaged_entry_is_written_again(tmp_path: Path, shapes: object, builds: list[str]) -> None:
    file = tmp_path / "backbones.json"
    expected = build_backbone(NAME, "random", image_size=SIZE, known=KnownBackbones(tmp_path))
    (key,) = json.loads(file.read_bytes())
    entry = {**json.loads(file.read_bytes())[key], "shapes": shapes}
    file.write_text(json.dumps({key: entry}))
    for _ in range(2):
        backbone = build_backbone(NAME, "random", image_size=SIZE, known=KnownBackbones(tmp_path))
        assert backbone.shapes == expected.shapes
    assert len(builds) == 2


def test_a_store_that_is_gone_is_no_error(tmp_path: Path, builds: list[str]) -> None:
    for _ in range(2):
        build_backbone(NAME, "random", image_size=SIZE, known=KnownBackbones(tmp_path / "none" / "store"))
    assert len(builds) == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_command_with_nothing_to_do_builds_no_network(
    drawn: Path, tmp_path: Path, headstart: Cli, builds: list[str]
) -> None:
    options = ["--store", str(tmp_path / "s"), "--backbone", NAME, "--weights", "random", "--image-size", str(SIZE)]
    options += ["--max-rejects", "1", "--precision", "float32"]
    assert headstart("features", drawn, *options)["extracted"]
    assert len(builds) == 1
    assert not headstart("features", drawn, *options)["extracted"]
    headstart("head", drawn, "--run", tmp_path / "r", "--epochs", 1, *options)
    assert len(builds) == 1
