"""OpenVINO beside TensorFlow: the same features in float32, each its own in bfloat16."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.weights import build_backbone
from headstart.features.config import ExtractionConfig, FeatureConfig, Precision
from headstart.features.errors import OptionError
from headstart.features.frozen.engines import ConversionError, converted, openvino_passes, uses_openvino
from headstart.features.frozen.folding import in_float32
from headstart.features.frozen.frozen import FrozenBackbone, folded_backbone, freeze, traced
from headstart.features.frozen.network import load_network
from headstart.pipeline.featured import cache_features
from headstart.pipeline.upkeep.config import VerifyConfig
from headstart.pipeline.upkeep.verify import verify_store
from headstart.tests.conftest import SMALL

SIZE = 64
BF16 = FeatureConfig(**{**SMALL, "precision": "bfloat16"})


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("engines", "frozen"):
        monkeypatch.setattr(f"headstart.features.frozen.{module}.on_gpu", lambda: False)
    monkeypatch.setattr("headstart.features.frozen.engines.gpu_at_hand", lambda: False)


def random_backbone(name: str, precision: Precision = "float32") -> Backbone:
    return build_backbone(name, "random", image_size=96 if name == "inception_v3" else SIZE, precision=precision)


def images_of(backbone: Backbone, count: int) -> np.ndarray:
    side = backbone.image_size
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def by_tensorflow(backbone: Backbone, cuts: Sequence[Cut], batch_size: int) -> FrozenBackbone:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "openvino", None)
        return freeze(backbone, cuts, batch_size)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "inception_v3", pytest.param("efficientnet_v2_b0", marks=pytest.mark.soak)]
)
def test_both_engines_yield_the_same_features_in_float32(name: str) -> None:
    backbone = random_backbone(name)
    cuts = [*backbone.cuts(), Cut.parse(name, f"{backbone.cuts()[1].block}:map")]
    pixels = images_of(backbone, 3)
    assert uses_openvino("float32", None)
    found, expected = freeze(backbone, cuts, 4)(pixels), by_tensorflow(backbone, cuts, 4)(pixels)
    for cut in cuts:
        assert found[cut].shape == expected[cut].shape
        assert found[cut].dtype == np.float32
        assert 0 < relative_error(found[cut], expected[cut]) < 3e-6  # if it is 0, TensorFlow made both


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_features_depend_neither_on_batch_nor_slot_nor_what_runs_beside(precision: Precision) -> None:
    backbone = random_backbone("mobilenet_v3_small", precision)
    cuts = backbone.cuts()
    engine = "openvino" if precision == "bfloat16" else None
    frozen = freeze(backbone, cuts, 8, engine)
    assert frozen.images_per_pass == 8
    pixels = images_of(backbone, 8)
    expected = frozen(pixels)
    turned = frozen(np.roll(pixels, 3, axis=0))
    alone = [frozen(image[np.newaxis]) for image in pixels]
    again = freeze(backbone, cuts, 8, engine)(pixels)
    for cut in cuts:
        np.testing.assert_array_equal(np.roll(expected[cut], 3, axis=0), turned[cut])
        np.testing.assert_array_equal(expected[cut], np.concatenate([one[cut] for one in alone]))
        np.testing.assert_array_equal(expected[cut], again[cut])
    batches = ((np.array([turn]), np.roll(pixels, turn, axis=0)) for turn in range(150))
    for (turn,), features in frozen.stream(batches):
        for cut in cuts:
            np.testing.assert_array_equal(features[cut], np.roll(expected[cut], turn, axis=0))


@pytest.mark.slow
def test_bfloat16_is_as_near_to_float32_as_tensorflows_and_pools_in_float32() -> None:
    full, reduced = (random_backbone("mobilenet_v3_small", precision) for precision in ("float32", "bfloat16"))
    block = full.cuts()[2].block
    pooled, whole = Cut(full.name, block), Cut.parse(full.name, f"{block}:map")
    pixels = images_of(full, 8)
    expected = freeze(full, [pooled, whole], 8)(pixels)
    found = freeze(reduced, [pooled, whole], 8, "openvino")(pixels)
    tensorflows = freeze(reduced, [pooled, whole], 8)(pixels)
    rounded = in_float32(folded_backbone(reduced).model)
    in_full = freeze(replace(reduced, load=lambda: rounded, precision="float32"), [pooled, whole], 8)(pixels)
    for cut in (pooled, whole):
        ours, theirs = (relative_error(features[cut], expected[cut]) for features in (found, tensorflows))
        assert 1e-4 < ours < 1.25 * theirs
        assert relative_error(found[cut], tensorflows[cut]) > 1e-4
        assert relative_error(found[cut], in_full[cut]) > 1e-3  # its arithmetic is in bfloat16, not only its weights
    assert relative_error(found[pooled], found[whole].mean(axis=(1, 2))) < 1e-6  # 1e-3 in bfloat16


@pytest.mark.slow
def test_a_copy_in_float32_keeps_the_rounded_weights() -> None:
    reduced = folded_backbone(random_backbone("mobilenet_v3_small", "bfloat16")).model
    copied = in_float32(reduced)
    assert {layer.compute_dtype for layer in copied.layers if isinstance(layer, keras.Layer)} == {"float32"}
    for before, after in zip(reduced.weights, copied.weights, strict=True):
        assert after.dtype == "float32"
        np.testing.assert_array_equal(after, keras.ops.cast(before, "float32"))


@pytest.mark.slow
def test_a_converted_network_has_the_outputs_of_its_cuts_alone_in_their_order() -> None:
    backbone = folded_backbone(random_backbone("efficientnet_v2_b0"))
    cuts = backbone.cuts()[::-1]
    model = converted(traced(backbone, cuts, 1, compiled=False))
    assert [tuple(output.shape)[1:] for output in model.outputs] == [backbone.shape(cut) for cut in cuts]


@pytest.mark.parametrize(
    ("name", "precision", "engine"),
    [
        ("mobilenet_v3_small", "float32", None),
        ("inception_v3", "float32", None),
        ("inception_v3", "bfloat16", None),
        ("mobilenet_v3_small", "bfloat16", "openvino"),
        ("xception", "bfloat16", "openvino"),
    ],
)
def test_only_fingerprints_of_depthwise_networks_in_bfloat16_name_openvino(
    name: str, precision: Precision, engine: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FeatureConfig(backbone=name, weights="random", image_size=96, precision=precision)
    network = load_network(config, ExtractionConfig(store=tmp_path))
    found = network.fingerprint(network.cuts[0])
    assert (found.engine, "engine" in found.to_json()) == (engine, engine is not None)
    monkeypatch.setattr("headstart.features.frozen.engines.gpu_at_hand", lambda: True)
    assert network.fingerprint(network.cuts[0]).engine is None
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert network.fingerprint(network.cuts[0]) == replace(found, engine=None)


@pytest.mark.slow
def test_without_openvino_tensorflow_makes_the_same_features_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = random_backbone("mobilenet_v3_small")
    cuts, pixels = backbone.cuts()[-1:], images_of(backbone, 2)
    expected = freeze(backbone, cuts, 4)(pixels)
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = freeze(backbone, cuts, 4)(pixels)
    assert capsys.readouterr().err.startswith("openvino is not installed: TensorFlow")
    assert relative_error(found[cuts[0]], expected[cuts[0]]) < 3e-6
    with pytest.raises(OptionError, match="openvino can't be imported"):
        freeze(random_backbone("mobilenet_v3_small", "bfloat16"), cuts, 4, "openvino")


@pytest.mark.slow
@pytest.mark.parametrize("installed", [True, False], ids=["openvino", "TensorFlow"])
def test_features_in_bfloat16_are_recomputed_by_the_engine_that_made_them(
    installed: bool, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        if not installed:
            patch.setitem(sys.modules, "openvino", None)
        extraction = ExtractionConfig(store=tmp_path / "store", max_rejects=1)
        (fingerprint,) = (store.fingerprint for store in cache_features(prepared, BF16, extraction).stores.values())
        assert fingerprint.engine == ("openvino" if installed else None)
    fresh = verify_store(tmp_path / "store", VerifyConfig(data=prepared, recompute=10, weights="random")).fresh
    assert fresh.images == 10
    assert fresh.largest_error < 1e-3  # of the other engine 0.01


def test_what_openvino_can_not_allocate_is_told_as_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    for said, expected in (("Failed to allocate 9 bytes", MemoryError), ("no such operation", RuntimeError)):

        def compile_model(*_: object, said: str = said) -> None:
            raise RuntimeError(said)

        monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
        parameter = openvino.opset13.parameter([1, 2, 2, 3], np.uint8)
        with pytest.raises(expected, match=said):
            openvino_passes(openvino.Model([parameter], [parameter]), 1, 2, 1, "f32")


def test_an_interrupt_while_openvino_converts_is_no_fault_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    def convert(*_: object, **__: object) -> None:
        raise RuntimeError("Converting input model KeyboardInterrupt: <EMPTY MESSAGE>")

    monkeypatch.setattr(openvino, "convert_model", convert)
    with pytest.raises(ConversionError):
        converted(None)
    monkeypatch.setattr("headstart.features.signals._signals.raised", [KeyboardInterrupt])
    with pytest.raises(KeyboardInterrupt):
        converted(None)


def test_openvino_reports_nothing_to_its_makers() -> None:
    code = (
        "from headstart.features.frozen.engines import load_openvino; load_openvino();"
        "from openvino.tools.ovc import convert_impl; assert convert_impl.tm.__name__.endswith('stub')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_openvino_reports_nothing_of_tests_either() -> None:
    from openvino.tools.ovc import convert_impl

    # each report is a fork of the process of the tests, which holds gigabytes
    assert convert_impl.tm.__name__.endswith("stub")
