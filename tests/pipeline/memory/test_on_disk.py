import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from headstart.features.errors import StoreError
from headstart.features.files import remove_left_over
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.memory import on_disk
from headstart.pipeline.memory.on_disk import FeaturesOnDisk, Part, batches, blocks, taken

DRAW = np.random.default_rng(0)
HALF = DRAW.normal(size=(700, 12)).astype(np.float16)
SINGLE = DRAW.normal(size=(700, 5)).astype(np.float32)
BOTH = np.concatenate([HALF, SINGLE], axis=1).astype(np.float32)


def scattered(rows: np.ndarray, seed: int = 1):
    """The rows in pieces, as a store yields them: of any size, in any order."""
    order = np.random.default_rng(seed).permutation(len(rows))
    for at in np.split(order, [1, 50, 51, 400]):
        yield at, rows[at]


def written(folder: Path) -> FeaturesOnDisk:
    parts = [Part(rows.shape[1], rows.dtype, scattered(rows, seed)) for seed, rows in enumerate((HALF, SINGLE))]
    return FeaturesOnDisk.write(folder, len(HALF), parts)


SELECTIONS = [
    slice(None),
    slice(3, 9),
    slice(690, 900),
    slice(None, None, 7),
    slice(5, 5),
    DRAW.permutation(700),
    DRAW.permutation(700)[:20],
    DRAW.random(700) < 0.4,
    np.array([5, 5, 2]),
    np.arange(0),
]


@pytest.mark.parametrize("rows", SELECTIONS)
def test_rows_are_those_of_an_array(rows: slice | np.ndarray, tmp_path: Path) -> None:
    found = written(tmp_path)
    assert found.shape == BOTH.shape
    assert found[rows].dtype == np.float32
    np.testing.assert_array_equal(found[rows], BOTH[rows])
    part = found.take(rows)
    np.testing.assert_array_equal(part[:], BOTH[rows])
    again = np.arange(0, len(part), 3)
    np.testing.assert_array_equal(part.take(again)[::-1], BOTH[rows][again][::-1])
    np.testing.assert_array_equal(part.take(slice(1, None)).parts([1, 0])[:], np.hstack([SINGLE, HALF])[rows][1:])


def test_blocks_and_maps_go_through_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk, "_BLOCK_BYTES", 4 * 17 * 90)
    found = written(tmp_path).take(np.arange(699, -1, -1))
    assert [(at.start, at.stop) for at in blocks(found)][-2:] == [(540, 630), (630, 720)]
    doubled = found.mapped(lambda rows: 2 * rows[:, :3])
    np.testing.assert_array_equal(doubled[:], 2 * BOTH[::-1, :3])
    assert list(blocks(BOTH)) == [slice(0, 700)]
    assert list(blocks(found.take(slice(0)))) == []


@pytest.mark.parametrize("window", [1, 4 * 17 * 64, 1 << 20])
def test_batches_are_the_same_and_in_the_same_order(
    window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_disk, "_WINDOW_BYTES", window)
    order = DRAW.permutation(700)
    for batch, same in zip(batches(written(tmp_path), order, 32), batches(BOTH, order, 32), strict=True):
        np.testing.assert_array_equal(batch, same)
    assert list(batches(written(tmp_path), order[:0], 32)) == []


def test_labelled_features_on_disk_are_those_in_memory(tmp_path: Path) -> None:
    columns = {"a": slice(0, 12), "b": slice(12, 17)}
    memory = LabelledFeatures(BOTH, np.arange(700) % 3, 3, columns, [BOTH + 1, BOTH + 2])
    disk = memory.on_disk(tmp_path)
    assert all(isinstance(one, FeaturesOnDisk) for one in (disk.features, *disk.views))
    assert disk.on_disk(tmp_path).features is disk.features
    for cuts in (["b"], ["b", "a"]):
        for rows in (slice(0, 30), np.array([9, 4, 600])):
            some, same = (one.at(cuts).take(rows) for one in (disk, memory))
            assert some.columns == same.columns
            np.testing.assert_array_equal(some.labels, same.labels)
            for one, other in zip([some.features, *some.views], [same.features, *same.views], strict=True):
                np.testing.assert_array_equal(one[:], other)


def test_another_process_reads_the_same_files(tmp_path: Path) -> None:
    found = taken(written(tmp_path), np.array([7, 3]))
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)[:].sum(axis=1).tolist())"
    shown = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(found), stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert json.loads(shown.stdout) == BOTH[[7, 3]].sum(axis=1).tolist()
    assert len(list(tmp_path.iterdir())) == 1  # the other process has not removed them


def test_files_are_removed_with_the_last_reference(tmp_path: Path) -> None:
    whole = written(tmp_path)
    part = whole.take(slice(3))
    del whole
    assert part[:].shape == (3, 17)
    del part
    assert list(tmp_path.iterdir()) == []


_WRITES = """
import sys, time
from tests.pipeline.memory.test_on_disk import written
from pathlib import Path
kept = written(Path(sys.argv[1]))
print("written", flush=True)
if sys.argv[2] == "waits": time.sleep(60)
"""


def test_files_of_ended_and_killed_processes_are_removed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[3]}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", _WRITES, str(tmp_path)]
    subprocess.run([*command, "ends"], env=environment, check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert list(tmp_path.iterdir()) == []
    with subprocess.Popen([*command, "waits"], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"written\n"
        remove_left_over(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1  # its process is alive
        process.send_signal(signal.SIGKILL)
    remove_left_over(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    found = written(tmp_path)
    (file,) = tmp_path.glob("*/1")
    os.truncate(file, 100)
    with pytest.raises(StoreError, match="cut off while it was in use; repeat the command"):
        found[:]


def test_use_is_marked_for_other_hosts(tmp_path: Path) -> None:
    found = written(tmp_path)
    (file,) = tmp_path.glob("*/1")
    os.utime(file, (0, 0))
    list(batches(found, np.arange(5), 2))
    assert time.time() - file.stat().st_mtime < 60
