import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import OptionError, RunError, StoreError
from headstart.features.frozen.network import load_network
from headstart.features.store.maintain import open_stores
from headstart.pipeline.evaluate.evaluate import evaluate
from headstart.pipeline.featured import FeaturedExamples, cache_features, load_examples
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.finetune import finetune
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import train_run
from headstart.pipeline.runs import Run
from headstart.pipeline.upkeep.config import VerifyConfig
from headstart.pipeline.upkeep.verify import verify_store
from headstart.tests.conftest import SMALL

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("openvino", "nncf"))), reason="needs the extra int8")

INT8 = FeatureConfig(**{**SMALL, "precision": "int8"})


def within(store: Path) -> ExtractionConfig:
    return ExtractionConfig(store=store, max_rejects=1)


@pytest.fixture(scope="module")
def cached(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> FeaturedExamples:
    """Features in 8 bits. Tests only read their store."""
    return cache_features(prepared, INT8, within(tmp_path_factory.mktemp("int8") / "store"))


@pytest.mark.slow
def test_eight_bits_are_near_float32_and_their_own_features(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, cached: FeaturedExamples
) -> None:
    features = cached.labelled(cached.examples).features
    expected = cache_features(prepared, small, extraction).labelled(cached.examples).features
    error = np.mean(np.linalg.norm(features - expected, axis=1) / np.linalg.norm(expected, axis=1))
    assert 1e-3 < error < 0.5  # random weights, and so few images, take it badly
    (store,) = cached.stores.values()
    assert store.form.dtype == np.float16
    assert store.fingerprint.calibration["images"] == 30
    root = cached.extraction.store
    (folder,) = (root / "int8").iterdir()
    written = json.loads((folder / "calibration.json").read_text())
    digests = {example.image.digest for example in cached.examples}
    assert set(written["digests"]) < digests
    assert written["checked_on"] == 10
    assert written["fidelity"]["top_activation"]["relative_error"] == pytest.approx(error, rel=0.5)

    again = cache_features(prepared, replace(INT8, cut=("top_activation",)), within(root))
    assert (again.extracted.extracted, again.fingerprints()) == (0, cached.fingerprints())
    fresh = verify_store(root, VerifyConfig(data=prepared, recompute=10, weights="random")).fresh
    assert (fresh.images, fresh.bad) == (10, ())


@pytest.mark.slow
def test_a_quantised_network_serves_whatever_images_come(cached: FeaturedExamples, drawn: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(cached.extraction.store, store)
    network = load_network(replace(INT8, bits="16"), within(store))
    assert [one.key for one in network.stores().values()] == list(cached.fingerprints().values())
    assert cache_features(drawn, INT8, within(store)).fingerprints() == cached.fingerprints()
    assert len(open_stores(store)) == 1


@pytest.mark.slow
def test_what_was_made_with_a_network_that_is_gone_or_damaged_is_not_mixed_with_another(
    prepared: Path, cached: FeaturedExamples, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(cached.extraction.store, store)
    train_run(prepared, tmp_path / "run", INT8, within(store), HeadConfig(epochs=1))
    (folder,) = (store / "int8").iterdir()
    network = folder / "model.bin"
    network.write_bytes(network.read_bytes()[:-1] + b"?")
    found = verify_store(store, VerifyConfig())
    assert [fault.path for fault in found.folders] == [str(folder)]
    for shard in store.glob("*/shard-*"):
        shard.unlink()
    with pytest.raises(StoreError, match="damaged; delete the folder"):
        load_examples(Run.open(tmp_path / "run"))
    shutil.rmtree(folder)
    with pytest.raises(RunError, match="its int8 network is gone"):
        load_examples(Run.open(tmp_path / "run"))
    assert not folder.exists()  # nothing was quantised before it was refused


@pytest.mark.slow
def test_a_run_on_eight_bits_is_fine_tuned_in_another_precision(
    prepared: Path, cached: FeaturedExamples, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(cached.extraction.store, store)
    train_run(prepared, tmp_path / "run", INT8, within(store), HeadConfig(epochs=1))
    result = finetune(tmp_path / "run", FinetuneConfig(epochs=1, batch_size=8, augment="none"))
    assert np.isfinite([result.before["loss"], result.after["loss"]]).all()
    run = Run.open(tmp_path / "run")
    tuned = run.metrics()["finetune"] | {"best_epoch": 1}  # as if the epoch had been better than the head
    run.update(run.metrics_file, finetune=tuned)
    scored = evaluate(run.path)
    assert scored.finetuned is not None
    assert (scored.head["precision"], scored.finetuned["precision"]) == ("int8", "float32")
    assert "the head ran in int8, the classifier in float32" in list(scored.lines())


@pytest.mark.slow
def test_too_few_images_to_quantise_on_are_told(
    prepared: Path, cached: FeaturedExamples, tmp_path: Path, capsys
) -> None:
    store = tmp_path / "store"
    shutil.copytree(cached.extraction.store, store)
    (folder,) = (store / "int8").iterdir()
    file = folder / "calibration.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps({**found, "digests": found["digests"][:5]}))
    cache_features(prepared, INT8, within(store))
    assert "quantised on 5 images only" in capsys.readouterr().err


def test_a_missing_extra_is_named(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(OptionError, match=r"headstart\[int8\]"):
        cache_features(prepared, INT8, within(tmp_path / "store"))


def test_a_network_that_openvino_cannot_run_is_told(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*_: object, **__: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr("openvino.convert_model", convert)
    with pytest.raises(OptionError, match=r"--precision int8: OpenVINO can't run this network \(no such operation\)"):
        cache_features(prepared, INT8, within(tmp_path / "store"))
