"""The one file for people: never NaN in silence, however many shards there are."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from headstart.features.store.compact import compact
from headstart.features.store.maintain import verify
from headstart.features.store.merged import MOST_SHARDS, merged_shards, write_merged
from headstart.features.store.store import FeatureStore
from headstart.tests.features.store.test_store import digest, fill, store_in, vectors

SHARDS = 300
# A person's script in a process that may hold 256 files open, of which it holds 60 itself, like a notebook.
READER = """
import resource, sys
import h5py
import numpy as np
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
held = [open("/dev/null") for _ in range(60)]
with h5py.File(sys.argv[1]) as file:
    features, digests = file["features"][:], file["digest"][:]
np.savez(sys.argv[2], features=features, digests=digests)
"""


def read_by_a_person(merged: Path, output: Path) -> dict[str, np.ndarray]:
    subprocess.run([sys.executable, "-c", READER, merged, output], check=True)
    with np.load(output) as read:
        return dict(zip(read["digests"].astype(str), read["features"], strict=True))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A store of more shards than a process may open: 300 of one image, then one of five."""
    store = store_in(tmp_path_factory.mktemp("store"))
    for number in range(SHARDS):
        fill(store, [number])
    fill(store, list(range(SHARDS, SHARDS + 5)))
    return store


def test_the_merged_file_shows_the_largest_shards_and_says_what_it_leaves_out(
    store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.update_merged()
    shown = read_by_a_person(store.merged, tmp_path / "read.npz")
    assert len(shown) == MOST_SHARDS + 4
    for number in range(SHARDS + 5):
        if number >= SHARDS or digest(number) in shown:
            np.testing.assert_array_equal(shown[digest(number)], vectors([number])[0])
    with h5py.File(store.merged) as file:
        assert int(file.attrs["rows_left_out"]) == SHARDS - MOST_SHARDS + 1
    line = capsys.readouterr().err
    assert f"it shows {MOST_SHARDS + 4} of {SHARDS + 5} features" in line
    assert f"headstart store compact {store.folder.parent}`" in line
    store.update_merged()
    assert capsys.readouterr().err == ""
    assert verify([store]).merged == []


def test_a_merged_file_of_too_many_shards_from_an_older_version_is_told_and_mended(
    store: FeatureStore, tmp_path: Path
) -> None:
    store.missing([])
    write_merged(store.merged, store.form, store._digests, 0)
    assert np.isnan(list(read_by_a_person(store.merged, tmp_path / "read.npz").values())).any()
    (bad,) = verify([store], repair=True).merged
    assert "NaN" in bad.reason
    assert np.isfinite(list(read_by_a_person(store.merged, tmp_path / "read.npz").values())).all()
    assert verify([store]).merged == []


def test_the_merged_file_shows_everything_once_shards_are_compacted(
    store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compact(store)
    shown = read_by_a_person(store.merged, tmp_path / "read.npz")
    assert len(shown) == SHARDS + 5
    assert np.isfinite(list(shown.values())).all()
    assert len(merged_shards(store.merged)) == 1
    with h5py.File(store.merged) as file:
        assert int(file.attrs["rows_left_out"]) == 0
    assert capsys.readouterr().err == ""
