"""The merged file: never NaN in silence, however many shards there are."""

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from headstart.features.store.compact import compact
from headstart.features.store.maintain import verify
from headstart.features.store.merged import MOST_SHARDS, merged_shards, write_merged
from headstart.features.store.shards import read_digests
from headstart.features.store.store import FeatureStore
from headstart.tests.features.store.test_store import digest, fill, store_in, vectors

SHARDS, LARGEST = 300, 5
# A person's script in a process that may hold 256 files open, of which it holds 60 itself, like a notebook.
READER = """
import resource, sys
import h5py
import numpy as np
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
held = [open("/dev/null") for _ in range(60)]
for name in sys.argv[1:]:
    with h5py.File(name) as file:
        features, digests = file["features"][:], file["digest"][:]
    np.savez(f"{name}.npz", features=features, digests=digests)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A store with more shards than a process may open: 300 of one image, and one of five."""
    store = store_in(tmp_path_factory.mktemp("store"))
    for number in range(SHARDS):
        fill(store, [number])
    fill(store, list(range(SHARDS, SHARDS + LARGEST)))
    return store


def test_rows_of_the_merged_file_are_never_nan(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.update_merged()
    line = capsys.readouterr().err
    assert f"it shows {MOST_SHARDS - 1 + LARGEST} of {SHARDS + LARGEST} features" in line
    assert f"headstart store compact {store.folder.parent}`" in line
    store.update_merged()
    assert capsys.readouterr().err == ""  # it is up to date
    assert store.merged_fault() is None
    before, compacted, older = (store.folder / f"{name}.h5" for name in ("before", "compacted", "older"))
    shutil.copy(store.merged, before)
    every = {shard: read_digests(shard, store.form) for shard in store.shards()}
    write_merged(older, store.form, every, 0)  # as before there was a limit
    compact(store)
    shutil.copy(store.merged, compacted)
    assert "it shows" not in capsys.readouterr().err
    subprocess.run([sys.executable, "-c", READER, compacted, before, older], check=True)

    for path, rows in ((compacted, SHARDS + LARGEST), (before, MOST_SHARDS - 1 + LARGEST)):
        with np.load(f"{path}.npz") as read:
            shown = dict(zip(read["digests"].astype(str), read["features"], strict=True))
        assert len(shown) == rows
        for number in range(SHARDS + LARGEST):  # the largest shards are always shown
            if digest(number) in shown or number >= SHARDS:
                np.testing.assert_array_equal(shown[digest(number)], vectors([number])[0])
        with h5py.File(path) as file:
            assert int(file.attrs["rows_left_out"]) == SHARDS + LARGEST - rows
    with np.load(f"{older}.npz") as read:
        assert np.isnan(read["features"]).any()


def test_a_merged_file_of_too_many_shards_is_told_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_in(tmp_path)
    for number in range(3):
        fill(store, [number])
    store.write_merged()
    for module in ("merged", "store"):
        monkeypatch.setattr(f"headstart.features.store.{module}.MOST_SHARDS", 2)
    (bad,) = verify([store], repair=True).merged
    assert "NaN" in bad.reason
    assert len(merged_shards(store.merged)) == 2
    assert verify([store]).merged == []
