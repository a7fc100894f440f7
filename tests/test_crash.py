"""What is left when processes are killed, run side by side, or have no room; with real processes and a real disk."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from headstart import cli
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.store.maintain import open_stores
from headstart.pipeline.featured import cache_features
from headstart.pipeline.upkeep.explain import explain
from headstart.tests.conftest import SMALL
from headstart.tests.counted import SHARD_IMAGES
from PIL import Image

MANY = 1100
BATCH = 16
FLAGS = (
    "--backbone=mobilenet_v3_small",
    "--weights=random",
    "--image-size=64",
    f"--batch-size={BATCH}",
    "--precision=float32",
)
CONFIG = FeatureConfig(**SMALL)
ROOT = Path(cli.__file__).parent


def noise(data: Path, count: int) -> Path:
    """`{cat,dog}/` with `count` images of noise. Tests only read it."""
    noise = np.random.default_rng(0)
    for number in range(count):
        path = data / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)
    return data


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,100 images."""
    return noise(tmp_path_factory.mktemp("many") / "data", MANY)


@pytest.fixture(scope="module")
def undisturbed(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The features of `many` by digest, made in one go."""
    return features_of(many, tmp_path_factory.mktemp("undisturbed"))


def features_of(data: Path, store: Path) -> dict[str, bytes]:
    cache_features(data, CONFIG, ExtractionConfig(store=store, batch_size=BATCH))
    return vectors(store)


def vectors(root: Path) -> dict[str, bytes]:
    (store,) = open_stores(root)
    digests = store.digests()
    return {digest: row.tobytes() for digest, row in zip(digests, store.read(digests), strict=True)}


def command(counts: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "headstart.tests.counted", str(counts), *map(str, arguments)]


def finished(counts: Path) -> int:
    return sum(map(int, counts.read_text().split())) if counts.exists() else 0


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    def start(counts: Path, *arguments: object) -> subprocess.Popen[str]:
        with (tmp_path / "output").open("a") as output:
            return subprocess.Popen(
                command(counts, *arguments), stdout=subprocess.PIPE, stderr=output, cwd=ROOT, text=True
            )

    return start


@pytest.mark.slow
def test_a_run_killed_many_times_loses_nothing(
    headstart, start, many: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    store, counts, kills = tmp_path / "store", tmp_path / "counts", 4
    draw = random.Random(0)
    for kill in range(kills):
        before, wanted = finished(counts), draw.randint(1, 60) if kill else 5 * SHARD_IMAGES  # a shard at least is kept
        process = start(counts, "features", many, f"--store={store}", *FLAGS, "--json")
        while finished(counts) < before + wanted:
            assert process.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.06))
        assert process.poll() is None
        process.kill()
        process.communicate()
    process = start(counts, "features", many, f"--store={store}", *FLAGS, "--json")
    out, _ = process.communicate()
    assert process.returncode == 0
    done = json.loads(out)
    assert done["extracted"] + done["cached"] == MANY
    assert done["cached"] > 0
    lost = 2 * SHARD_IMAGES + 4 * BATCH  # at most: one shard is written, one collected, and passes may have ended
    assert MANY <= finished(counts) <= MANY + kills * lost
    assert headstart("store", "verify", store)["bad"] == 0
    assert not list(store.rglob("*.partial.*"))
    assert vectors(store) == undisturbed


@pytest.mark.slow
@pytest.mark.soak
def test_several_processes_fill_one_store(
    headstart, start, many: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    images = sorted(many.glob("*/*"))
    processes = []
    for number in range(4):
        data = tmp_path / f"data{number}"
        some = [images[200 * number + step] for step in range(500)]
        for path in some:
            link = data / path.parent.name / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)
        processes.append(start(tmp_path / f"counts{number}", "features", data, f"--store={tmp_path / 's'}", *FLAGS))
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * 4, (tmp_path / "output").read_text()
    assert headstart("store", "verify", tmp_path / "s")["bad"] == 0
    assert vectors(tmp_path / "s") == undisturbed
    headstart("store", "compact", tmp_path / "s")
    assert headstart("store", "verify", tmp_path / "s")["images"] == MANY


@pytest.mark.slow
def test_several_processes_share_the_work(
    headstart, start, many: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    store, counts = tmp_path / "s", tmp_path / "counts"
    processes = [start(counts, "features", many, f"--store={store}", *FLAGS, "--json") for _ in range(4)]
    while finished(counts) < MANY // 4:
        time.sleep(0.02)
    processes[0].kill()
    _, *ended = [process.communicate()[0] for process in processes]
    done = [json.loads(out) for out in ended]
    assert all(one["extracted"] + one["cached"] == MANY for one in done)
    assert headstart("store", "verify", store)["bad"] == 0
    assert sum(len(read) for read in (h5py.File(file)["digest"] for file in store.glob("*/shard-*.h5"))) == MANY
    assert finished(counts) <= MANY + 2 * SHARD_IMAGES + 4 * BATCH  # those of the killed process are lost
    assert vectors(store) == undisturbed
    assert not list(store.rglob("claims"))


@pytest.mark.slow
def test_only_what_changed_is_computed(many: Path, drawn: Path, tmp_path: Path) -> None:
    data, extraction = tmp_path / "data", ExtractionConfig(store=tmp_path / "store", batch_size=BATCH)
    images = {name: sorted((many / name).glob("*")) for name in ("cat", "dog")}
    for name, paths in images.items():
        (data / name).mkdir(parents=True)
        for path in paths[:500]:
            shutil.copy2(path, data / name)
    assert cache_features(data, CONFIG, extraction).extracted.extracted == 1000

    for name, paths in images.items():
        for path in paths[500:]:
            shutil.copy2(path, data / name)
    cats = sorted((data / "cat").iterdir())
    for path in cats[:200]:
        path.rename(path.with_name(f"renamed.{path.name}"))
    for path in cats[200:250]:
        path.rename(data / "dog" / path.name)
    again = cache_features(data, CONFIG, extraction, seed=1).fields()
    assert (again["extracted"], again["cached"]) == (100, 1000)

    path = next(iter((data / "dog").iterdir()))
    with Image.open(path) as image:
        x = image.getpixel((0, 0))
        assert isinstance(x, tuple)
        image.putpixel((0, 0), (255 - x[0], *x[1:]))
        image.save(path, quality=95)
    assert cache_features(data, CONFIG, extraction).extracted.extracted == 1

    other = replace(CONFIG, rescale="unit")
    (state,) = explain(data, other, extraction).cuts
    assert (state.present, state.missing) == (0, MANY)
    assert set(state.others[0].differs) == {"rescale"}
    assert state.others[0].present == MANY
    assert cache_features(data, other, extraction).extracted.extracted == MANY
    assert len(open_stores(extraction.store)) == 2


FULL_DISK = """
set -eu
mount -t tmpfs -o size=4m tmpfs "$MOUNT"
$FEATURES > "$OUT/cut-off" 2>&1 &
while [ "$(wc -l < "$COUNTS")" -lt 8 ]; do kill -0 $!; sleep 0.02; done
cat /dev/zero > "$MOUNT/ballast" 2>/dev/null || true
wait $! && exit 1
$VERIFY > "$OUT/verified"
rm "$MOUNT/ballast"
mount -o remount,size=1500k "$MOUNT"
$FEATURES > "$OUT/refused" 2>&1 && exit 1
mount -o remount,size=8m "$MOUNT"
$FEATURES --json > "$OUT/finished" 2> /dev/null
$VERIFY > "$OUT/verified-again"
cp -r "$MOUNT/store" "$OUT/store"
"""


@pytest.mark.slow
@pytest.mark.soak
def test_a_full_disk_is_told_and_what_was_finished_is_kept(
    many: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    namespace = ["unshare", "--map-root-user", "--mount"]
    (tmp_path / "mount").mkdir()
    trial = [*namespace, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "mount")]
    if not shutil.which("unshare") or subprocess.run(trial, check=False, capture_output=True).returncode:
        pytest.skip("a small disk can't be mounted here")
    store, counts = tmp_path / "mount" / "store", tmp_path / "counts"
    counts.touch()
    environment = {
        "MOUNT": str(tmp_path / "mount"),
        "OUT": str(tmp_path),
        "COUNTS": str(counts),
        "FEATURES": " ".join(command(counts, "features", many, f"--store={store}", *FLAGS)),
        "VERIFY": " ".join([sys.executable, "-m", "headstart.cli", "store", "verify", str(store), "--json"]),
    }
    script = [*namespace, "sh", "-c", FULL_DISK]
    subprocess.run(script, check=True, cwd=ROOT, env={**os.environ, **environment}, timeout=300)
    (line,) = [line for line in (tmp_path / "cut-off").read_text().splitlines() if line.startswith("error: ")]
    assert "the disk is full" in line
    kept = json.loads((tmp_path / "verified").read_text())
    assert 0 < kept["images"] < MANY
    assert kept["bad"] == 0
    (line,) = [line for line in (tmp_path / "refused").read_text().splitlines() if line.startswith("error: ")]
    assert "are needed" in line
    done = json.loads((tmp_path / "finished").read_text())
    assert (done["extracted"], done["cached"]) == (MANY - kept["images"], kept["images"])
    assert json.loads((tmp_path / "verified-again").read_text())["bad"] == 0
    assert vectors(tmp_path / "store") == undisturbed
