"""`--bits` and `--pages` through scan, store, fingerprint, training and prediction."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig, configs_from_json
from headstart.features.errors import OptionError, RunError
from headstart.pipeline.data.examples import scan, scan_memory
from headstart.pipeline.evaluate.evaluate import evaluate
from headstart.pipeline.featured import FeaturedExamples, cache_features
from headstart.pipeline.places import Places
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.predict import predict
from headstart.pipeline.runs import Run
from headstart.pipeline.upkeep.config import StoreExportConfig
from headstart.pipeline.upkeep.explain import explain
from headstart.pipeline.upkeep.gc import collect_garbage
from headstart.pipeline.upkeep.store_export import export
from headstart.tests.features.images.pictures import png, tiff
from headstart.tests.features.images.test_scan_memory import OLD
from PIL import Image

RNG = np.random.default_rng(0)


def pictures(count: int) -> list[np.ndarray]:
    """Grey pictures of 8 bits, which differ, uint8 [32, 32]."""
    return list(RNG.integers(0, 256, (count, 4, 4)).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2))


def write(data: Path, **files: bytes) -> Path:
    for name, content in files.items():
        path = data / ("cat", "dog")[int(name[1:]) % 2] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return data


@pytest.fixture
def extraction(tmp_path: Path) -> ExtractionConfig:
    return ExtractionConfig(store=tmp_path / "store", batch_size=8, max_rejects=1.0)


def features_of(cached: FeaturedExamples) -> np.ndarray:
    ordered = sorted(cached.examples, key=lambda example: example.image.path)
    return cached.labelled(ordered).features


@pytest.mark.slow
def test_pictures_of_12_bits_have_the_features_of_8(
    tmp_path: Path, small: FeatureConfig, extraction: ExtractionConfig
) -> None:
    shown = pictures(6)
    eight = write(tmp_path / "eight", **{f"x{n}": png(one) for n, one in enumerate(shown)})
    twelve = write(tmp_path / "twelve", **{f"x{n}": png(one.astype(np.uint16) << 4) for n, one in enumerate(shown)})
    of_eight = cache_features(eight, small, extraction)
    of_twelve = cache_features(twelve, small, extraction)
    np.testing.assert_allclose(features_of(of_twelve), features_of(of_eight), rtol=1e-5, atol=1e-6)
    (found,) = (store.fingerprint for store in of_twelve.stores.values())
    (before,) = (store.fingerprint for store in of_eight.stores.values())
    assert before.bits is None  # a store without such pictures keeps its key
    assert found == replace(before, bits="auto")
    dark = cache_features(twelve, replace(small, bits="16"), extraction)
    assert dark.fingerprints() == of_eight.fingerprints()
    assert np.abs(features_of(dark) - features_of(of_eight)).max() > 1e-3
    (state,) = explain(twelve, small, extraction).cuts
    assert (state.present, state.missing) == (6, 0)
    assert state.fingerprint == next(iter(of_twelve.fingerprints().values()))


@pytest.mark.slow
def test_folder_takes_the_most_bits_of_all_files(
    tmp_path: Path, small: FeatureConfig, extraction: ExtractionConfig
) -> None:
    bright, dark = np.full((32, 32), 4000, np.uint16), np.full((32, 32), 1000, np.uint16)
    data = write(tmp_path / "data", x0=png(bright), x1=png(dark), x2=png(pictures(1)[0]))
    auto, folder = (cache_features(data, replace(small, bits=bits), extraction) for bits in ("auto", "folder"))
    assert folder.config.bits == "12"
    assert [store.fingerprint.bits for store in folder.stores.values()] == ["12"]
    one, other = features_of(auto), features_of(folder)
    np.testing.assert_array_equal(one[:2], other[:2])
    assert not np.array_equal(one[2], other[2])  # the dark one has 10 bits by itself
    with pytest.raises(OptionError, match="--bits must be auto, folder or a number from 8 to 16"):
        replace(small, bits="12.5")


@pytest.mark.slow
def test_a_run_predicts_and_evaluates_by_its_own_bits(run: Path, prepared: Path, tmp_path: Path) -> None:
    """The run was trained without 16-bit samples. Others it sees as it would see them in 8 bits."""
    grey = pictures(1)[0]
    (tmp_path / "8.png").write_bytes(png(grey))
    (tmp_path / "12.png").write_bytes(png(grey.astype(np.uint16) << 4))
    Image.new("RGB", (200, 200)).save(tmp_path / "large.png")
    result = predict(run, [tmp_path / f"{name}.png" for name in (8, 12, "large")], PredictConfig(max_pixels=10_000))
    assert [(one.reason, Path(one.path).name) for one in result.rejects] == [("too-large", "large.png")]
    eight, twelve = result.predictions
    assert twelve.probabilities == pytest.approx(eight.probabilities, rel=1e-5)
    shutil.copytree(prepared, tmp_path / "data")
    for number, label in enumerate(("cat", "dog")):
        (tmp_path / "data" / "test" / label / f"{number}.png").write_bytes(png(grey.astype(np.uint16) << 4 | number))
    held = evaluate(run, "test", Places(store=tmp_path / "store")).n
    assert evaluate(run, "test", Places(data=tmp_path / "data", store=tmp_path / "store")).n == held + 2


def test_a_run_of_an_earlier_version_takes_the_higher_bits(run: Path) -> None:
    features = json.loads((run / "config.json").read_text())["features"]
    assert configs_from_json(features)[0].bits == "auto"
    del features["bits"], features["pages"]
    config, _ = configs_from_json(features)
    assert (config.bits, config.pages) == ("16", "first")


def test_evaluation_still_refuses_other_settings(run: Path, tmp_path: Path) -> None:
    config = json.loads(Run(run).config_file.read_text())
    config["features"]["image_size"] = 96
    Run(run).config_file.write_text(json.dumps(config))
    with pytest.raises(RunError, match="can't be made again"):
        evaluate(run, "test", Places(store=tmp_path / "store"))


def test_pages_are_examples_in_one_split(tmp_path: Path, small: FeatureConfig, extraction: ExtractionConfig) -> None:
    shown = pictures(12)
    data = write(
        tmp_path / "data", **{f"x{n}": tiff(*[(one, {}) for one in shown[3 * n : 3 * n + 3]]) for n in range(4)}
    )
    first = cache_features(data, small, extraction)
    assert len(first.examples) == 4
    exported = export(extraction.store, data, tmp_path / "x.npz", StoreExportConfig())
    assert (exported.examples, exported.missing) == (4, 0)
    every = cache_features(data, replace(small, pages="all"), extraction)
    assert len(every.examples) == 12
    assert every.extracted.extracted == 8  # the first pages are cached
    assert every.fingerprints() == first.fingerprints()
    splits = {example.image.file: set() for example in every.examples}
    for example in every.examples:
        splits[example.image.file].add(example.split)
    assert all(len(found) == 1 for found in splits.values())
    assert export(extraction.store, data, tmp_path / "x.npz", StoreExportConfig()).examples == 12
    assert collect_garbage(extraction.store, [data]).dropped == 0


def test_remembered_pages_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    data = write(tmp_path / "data", x0=tiff(*[(one, {}) for one in pictures(3)]), x1=png(pictures(1)[0]))
    # A file with the name of a page is another picture.
    (data / "cat" / "x0.png#2").write_bytes(png(pictures(1)[0]))
    for path in data.glob("*/*"):
        os.utime(path, (OLD, OLD))

    def scanned(pages: str) -> list[tuple[str, int, str]]:
        found = scan(data, memory=scan_memory(tmp_path / "store", data), pages=pages)
        return [(example.image.path, example.image.page, example.image.digest) for example in found.examples]

    for pages in ("all", "first", "all"):
        once, again = scanned(pages), scanned(pages)
        assert once == again
        assert len(once) == len({digest for *_, digest in once}) == (5 if pages == "all" else 3)
    (data / "cat" / "x0.png#2").unlink()
    scanned("all")
    monkeypatch.setattr("headstart.features.images.scan.content_of", lambda *_: pytest.fail("read again"))
    assert len(scanned("all")) == 4
