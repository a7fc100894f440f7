import os
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError
from headstart.features.store.maintain import open_stores
from headstart.pipeline.featured import cache_features
from headstart.pipeline.upkeep.config import StoreExportConfig
from headstart.pipeline.upkeep.store_export import export


def texts(column: h5py.Dataset) -> list[str]:
    return [value.decode("utf-8", "surrogateescape") for value in column[:]]


@pytest.mark.parametrize("name", ["out.npz", "out.h5", "out.hdf5"])
def test_a_file_holds_what_scikit_learn_needs(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path, name: str
) -> None:
    result = export(extraction.store, prepared, tmp_path / name, StoreExportConfig())
    assert (result.examples, result.missing, result.classes) == (40, 2, 2)
    if name.endswith(".npz"):
        columns = dict(np.load(tmp_path / name))
    else:
        with h5py.File(tmp_path / name) as file:
            columns = {key: texts(file[key]) if file[key].dtype.kind == "O" else file[key][:] for key in file}
            assert file.attrs["backbone"] == b'"mobilenet_v3_small"'
    assert columns["features"].dtype == np.float32
    assert columns["labels"].dtype == np.int64
    assert list(columns["class_names"]) == ["cat", "dog"]
    cached = cache_features(prepared, small, extraction)
    (store,) = open_stores(extraction.store)
    assert list(columns["paths"]) == [example.image.path for example in cached.examples]
    assert list(columns["splits"]) == [example.split for example in cached.examples]
    assert columns["labels"].tolist() == [example.label for example in cached.examples]
    np.testing.assert_array_equal(columns["features"], store.read(list(columns["digests"])))


def test_names_that_are_not_utf8_survive(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    shutil.copytree(prepared, tmp_path / "data")
    odd = tmp_path / "data" / "train" / "cat" / os.fsdecode(b"\xff.jpg")
    next((tmp_path / "data" / "train" / "cat").iterdir()).rename(odd)
    export(extraction.store, tmp_path / "data", tmp_path / "out.h5", StoreExportConfig())
    export(extraction.store, tmp_path / "data", tmp_path / "out.npz", StoreExportConfig())
    with h5py.File(tmp_path / "out.h5") as file:
        assert str(odd) in texts(file["paths"])
    assert str(odd) in np.load(tmp_path / "out.npz")["paths"]


@pytest.mark.slow
def test_one_of_several_fingerprints_is_chosen(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    cache_features(prepared, replace(small, cut=("expanded_conv_2_add:map",)), extraction)
    with pytest.raises(OptionError, match="say which"):
        export(extraction.store, prepared, tmp_path / "out.h5", StoreExportConfig())
    with pytest.raises(OptionError, match="none begins"):
        export(extraction.store, prepared, tmp_path / "out.h5", StoreExportConfig(fingerprint="nothing"))
    for store in open_stores(extraction.store):
        for wanted in (store.key, store.folder.name, store.key[:12]):
            result = export(extraction.store, prepared, tmp_path / "out.h5", StoreExportConfig(fingerprint=wanted))
            assert (result.fingerprint, result.shape) == (store.key, [40, *store.form.shape])
        with h5py.File(tmp_path / "out.h5") as file:
            assert file["features"].shape == (40, *store.form.shape)


def test_too_many_without_features_are_an_error(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    for name in ("a", "b", "c", "d", "e"):
        shutil.copytree(prepared, tmp_path / "data", dirs_exist_ok=True)
        one = next((tmp_path / "data" / "train" / "dog").glob("dog*.jpg"))
        (one.parent / f"{name}.jpg").write_bytes(one.read_bytes() + name.encode())
    with pytest.raises(DataError, match="have no features"):
        export(extraction.store, tmp_path / "data", tmp_path / "out.h5", StoreExportConfig())
    assert not (tmp_path / "out.h5").exists()
    assert (
        export(extraction.store, tmp_path / "data", tmp_path / "out.h5", StoreExportConfig(max_rejects=1)).missing == 7
    )
    with pytest.raises(OptionError, match=r"\.npz"):
        export(extraction.store, prepared, tmp_path / "out.csv", StoreExportConfig())
