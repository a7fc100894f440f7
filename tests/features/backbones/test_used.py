"""Weights are given once: the store knows which were used with it, and fills in nothing that was given."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from headstart.features.backbones import used
from headstart.features.backbones.used import Used, digest_in_store, file_digest, remember, used_with, with_used_weights
from headstart.features.config import FeatureConfig
from headstart.features.errors import OptionError

PLAIN = FeatureConfig()


@pytest.fixture(autouse=True)
def no_imagenet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


def weights_file(folder: Path, name: str = "w.weights.h5") -> str:
    (folder / name).write_text(name)
    return str(folder / name)


def test_a_seed_is_for_random_weights(tmp_path: Path) -> None:
    random = replace(PLAIN, weights="random", weights_seed=3)
    assert with_used_weights(random, tmp_path, ["weights", "weights_seed"]) == random
    with pytest.raises(OptionError, match="--weights-seed must be 0 without --weights random"):
        with_used_weights(replace(PLAIN, weights_seed=3), tmp_path, ["weights_seed"])


def test_what_was_left_out_is_filled_in_and_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = weights_file(tmp_path)
    remember(tmp_path, [Used("inception_v3", file, 0, "unit", "d1")])
    assert with_used_weights(PLAIN, tmp_path, []) == replace(PLAIN, weights=file, rescale="unit")
    assert f"--weights {file} --rescale unit, as in the features of {tmp_path}" in capsys.readouterr().err
    assert with_used_weights(replace(PLAIN, backbone="xception"), tmp_path, ["backbone"]).weights == "imagenet"


def test_what_was_given_stays(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = weights_file(tmp_path)
    remember(tmp_path, [Used("inception_v3", file, 0, "unit", "d1")])
    for given in (["weights", "rescale"], ["weights"]):  # ImageNet's rescaling belongs to ImageNet's weights
        assert with_used_weights(PLAIN, tmp_path, given) == PLAIN
    caffe = replace(PLAIN, rescale="caffe")
    assert with_used_weights(caffe, tmp_path, ["rescale"]) == replace(caffe, weights=file)
    capsys.readouterr()
    assert with_used_weights(replace(PLAIN, weights=file), tmp_path, ["weights"]).rescale == "unit"
    assert f"--rescale unit, as in the features of {tmp_path} with {file}" in capsys.readouterr().err
    other = replace(PLAIN, weights=weights_file(tmp_path, "x.weights.h5"))
    assert with_used_weights(other, tmp_path, ["weights"]) == other


def test_imagenet_at_hand_is_used_as_asked(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lite = replace(PLAIN, backbone="efficientnet_lite0")  # its weights are part of headstart
    remember(tmp_path, [Used("efficientnet_lite0", weights_file(tmp_path), 0, "unit", "d1")])
    assert with_used_weights(lite, tmp_path, ["backbone"]) == lite
    assert "--weights imagenet is used" in capsys.readouterr().err
    remember(tmp_path, [Used("inception_v3", weights_file(tmp_path), 0, "unit", "d1")])
    models = tmp_path / "keras" / "models"
    models.mkdir(parents=True)
    (models / "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5").touch()
    assert with_used_weights(PLAIN, tmp_path, []) == PLAIN


def test_features_by_imagenet_weights_need_no_weights(tmp_path: Path) -> None:
    remember(tmp_path, [Used("inception_v3", "imagenet", 0, "auto", "d0")])
    remember(tmp_path, [Used("inception_v3", weights_file(tmp_path), 0, "unit", "d1")])
    assert with_used_weights(PLAIN, tmp_path, []) == PLAIN


def test_of_several_the_user_chooses(tmp_path: Path) -> None:
    one, two = weights_file(tmp_path, "1.weights.h5"), weights_file(tmp_path, "2.weights.h5")
    remember(tmp_path, [Used("inception_v3", one, 0, "unit", "d1"), Used("inception_v3", two, 0, "auto", "d2")])
    with pytest.raises(OptionError, match=rf"say which: --weights {one} --rescale unit; --weights {two}$"):
        with_used_weights(PLAIN, tmp_path, [])
    assert with_used_weights(PLAIN, tmp_path, [], needed=False) == PLAIN
    Path(two).unlink()
    assert with_used_weights(PLAIN, tmp_path, []).weights == one


def test_a_file_that_changed_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = weights_file(tmp_path)
    remember(tmp_path, [Used("inception_v3", file, 0, "unit", "d1")])
    Path(file).write_text("other weights")
    assert with_used_weights(PLAIN, tmp_path, []) == PLAIN
    assert "gone or has changed" in capsys.readouterr().err
    assert with_used_weights(replace(PLAIN, weights=file), tmp_path, ["weights"]).rescale == "auto"


def test_a_copy_of_the_file_counts_as_the_file(tmp_path: Path) -> None:
    file = weights_file(tmp_path)
    copy = tmp_path / "copy.weights.h5"
    copy.write_text(Path(file).read_text())
    for path in (file, str(copy)):
        remember(tmp_path, [Used("inception_v3", path, 0, "unit", "d1")])
    assert with_used_weights(PLAIN, tmp_path, []).weights == str(copy)
    Path(file).unlink()
    assert digest_in_store(tmp_path, "inception_v3", str(copy), 0) == "d1"
    assert digest_in_store(tmp_path, "inception_v3", file, 0) == "d1"
    assert digest_in_store(tmp_path, "inception_v3", "random", 0) is None


@pytest.mark.parametrize("content", ["{", "[1]", "{}", '[{"backbone": 1}]', "null", "[" * 100_000])
def test_a_damaged_memory_counts_as_empty_and_is_told_once(tmp_path: Path, content: str, capsys) -> None:
    (tmp_path / "used.json").write_text(content)
    assert used_with(tmp_path) == used_with(tmp_path) == []
    assert capsys.readouterr().err.replace("\n", " ").count("used.json: can't be read, and is ignored") == 1
    assert with_used_weights(PLAIN, tmp_path, []) == PLAIN
    remember(tmp_path, [Used("inception_v3", "random", 0, "auto", "d")])
    assert len(used_with(tmp_path)) == 1


def test_the_memory_is_bounded_and_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used, "_MOST", 3)
    for seed in range(5):
        remember(tmp_path, [Used("inception_v3", "random", seed, "auto", f"d{seed}")])
    assert [one.weights_seed for one in used_with(tmp_path)] == [2, 3, 4]
    good = {"backbone": "xception", "weights": "random", "weights_seed": 0, "rescale": "auto", "digest": "d"}
    for wrong in ({"backbone": "no_network"}, {"rescale": "efficientnet_v2"}, {"rescale": None}, {"weights_seed": "1"}):
        (tmp_path / "used.json").write_text(json.dumps([good | wrong]))
        assert used_with(tmp_path) == []
    assert file_digest("/dev/zero") == file_digest("a\0b") == file_digest(str(tmp_path)) == ""
    remember(tmp_path / "nowhere" / "at all", [])
    assert not (tmp_path / "nowhere").exists()


def test_the_only_network_of_a_store_is_used_where_the_default_is_not_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    remember(tmp_path, [Used("efficientnet_lite0", "imagenet", 0, "auto", "d")])
    monkeypatch.setattr(used, "place_of_weights", lambda name: {"efficientnet_lite0": "shipped"}.get(name, "download"))
    assert with_used_weights(PLAIN, tmp_path, []).backbone == "efficientnet_lite0"
    assert "--backbone efficientnet_lite0, as in the features of" in capsys.readouterr().err
    for given in ("backbone", "weights", "rescale", "cut"):
        assert with_used_weights(PLAIN, tmp_path, [given]).backbone == "inception_v3"
    monkeypatch.setattr(used, "place_of_weights", lambda name: "cached")
    assert with_used_weights(PLAIN, tmp_path, []).backbone == "inception_v3"
    assert "--backbone inception_v3 is used" in capsys.readouterr().err
    remember(tmp_path, [Used("xception", "imagenet", 0, "auto", "e")])
    monkeypatch.setattr(used, "place_of_weights", lambda name: "download")
    assert with_used_weights(PLAIN, tmp_path, []).backbone == "inception_v3"
    assert "efficientnet_lite0, xception" in capsys.readouterr().err
