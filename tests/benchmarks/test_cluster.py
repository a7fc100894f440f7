"""The simulator of a cluster: no image is lost, claims save work, and time passes as it must."""

import hashlib
import importlib
import math
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headstart.benchmarks import cluster_model
from headstart.benchmarks.cluster import GPU, SETUPS, TAR, main, simulate_setup
from headstart.benchmarks.cluster_check import Measured, check, copy_photographs, predict
from headstart.benchmarks.cluster_model import simulate
from headstart.benchmarks.cluster_parts import Costs, Disk, Host, Node, Outcome, Protocol, Work
from headstart.features.images.files.reading import read_references, reference_of
from headstart.features.images.scan_memory import ScanMemory
from headstart.features.store.claims import VOID_SECONDS
from headstart.features.store.compact import MANY_SHARDS
from headstart.features.store.portions import cut_into_portions, portion_size
from headstart.features.store.writer import MANY_IMAGES, shard_size, small_shard_size
from headstart.pipeline.data.examples import scan
from headstart.tests.pipeline.data.test_tars import write_tar
from hypothesis import given, settings
from hypothesis import strategies as st

NEAR = Disk(latency=1e-5, operations=1e6, bandwidth=1e12)
SLOW = Node(speed=20, start=5)
RANDOM = Protocol(claims=False)


def work(images: int) -> Work:
    """Images that are read and known at no cost."""
    return Work(images, read_operations=0, scan_operations=0, scan_seconds=0, scan_bytes=0)


def small_shards(processes: int) -> float:
    """Seconds that 250 small shards cost on two cores: one process writes each, all others learn it, one compacts."""
    return 250 * ((Costs.begin_shard + (processes - 1) * Costs.learn_shard) / 2 + Costs.compact_shard)


def test_without_simpy_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simpy", None)
    monkeypatch.delitem(sys.modules, cluster_model.__name__)
    with pytest.raises(SystemExit, match=r"error: .* needs SimPy: pip install 'simpy>=4.1'"):
        importlib.import_module(cluster_model.__name__)


times = st.floats(0, 400)
mortals = st.builds(
    Node,
    speed=st.floats(1, 500),
    start=st.floats(0, 30),
    joins=times,
    dies=times | st.just(math.inf),
    slow=st.sampled_from([1, 5]),
    hangs=st.tuples(times, st.floats(0, 2000)),
    host=st.none() | st.builds(Host, st.just(2.0)),
)


@settings(max_examples=30)
@given(st.integers(1, 20_000), st.lists(mortals, max_size=6), st.booleans(), st.booleans(), st.integers(0, 3))
def test_every_image_is_extracted_whatever_dies(
    images: int, others: list[Node], claims: bool, look_first: bool, seed: int
) -> None:
    protocol = Protocol(claims=claims, look_first=look_first)
    found = simulate(work(images), [Node(speed=50), *others], NEAR, protocol=protocol, seed=seed)
    assert found.written == images
    assert found.extracted >= images
    assert math.isfinite(found.seconds)


@settings(max_examples=15)
@given(
    st.integers(1, 30_000),
    st.lists(st.builds(Node, speed=st.floats(5, 500), slow=st.sampled_from([1, 10]), joins=times), min_size=1),
    st.integers(0, 3),
)
def test_with_claims_no_image_is_extracted_twice(images: int, nodes: list[Node], seed: int) -> None:
    found = simulate(work(images), nodes, NEAR, seed=seed)
    assert found.extracted == found.written == images


def test_the_order_drawn_at_random_alone_wastes_work() -> None:
    images, nodes = 200_000, [SLOW] * 16
    alone, claimed = (simulate(work(images), nodes, NEAR, protocol=one) for one in (RANDOM, Protocol()))
    assert claimed.waste == 0
    assert 0.1 < alone.waste < 1
    assert simulate(work(10 * images), nodes[:4], NEAR, protocol=RANDOM).waste < alone.waste / 10
    assert alone.seconds > claimed.seconds


def test_an_outcome_follows_from_its_seed() -> None:
    def found(seed: int) -> object:
        return simulate(work(20_000), [SLOW, SLOW, replace(SLOW, dies=200)], NEAR, seed=seed)

    assert found(1) == found(1)
    assert found(1) != found(2)


def test_nodes_alone_take_the_time_of_their_slowest_step() -> None:
    node = Node(speed=100, cores=2, decode=100, start=10)
    assert simulate(work(50_000), [node], NEAR).seconds == pytest.approx(10 + 500, rel=0.02)
    decoding = simulate(work(50_000), [replace(node, decode=25)], NEAR)
    assert (decoding.seconds, decoding.bottleneck) == (pytest.approx(10 + 1000, rel=0.02), "decoding")
    read = replace(work(50_000), read_operations=4)
    far = simulate(read, [node], Disk(latency=0.02))
    assert (far.seconds, far.bottleneck) == (pytest.approx(10 + 50_000 * (0.01 + 0.08) / 2, rel=0.02), "disk latency")
    thin = simulate(work(50_000), [replace(node, bandwidth=45_000 * 10)], NEAR)
    assert (thin.seconds, thin.bottleneck) == (pytest.approx(10 + 5000, rel=0.02), "connection")


def test_nodes_share_the_disk() -> None:
    nodes = [Node(speed=1000, start=0)] * 20
    narrow = simulate(work(200_000), nodes, replace(NEAR, bandwidth=45_000 * 1000))
    assert (narrow.seconds, narrow.bottleneck) == (pytest.approx(200, rel=0.15), "disk bytes")
    few = simulate(replace(work(200_000), read_operations=4), nodes, replace(NEAR, operations=4000))
    assert (few.seconds, few.bottleneck) == (pytest.approx(200, rel=0.15), "metadata of images")
    assert few.operations_per_second <= 4000


def test_processes_share_the_cores_of_a_machine() -> None:
    def seconds(processes: int, demand: float) -> float:
        host = Host(2.0)
        node = Node(speed=100, start=10, host=host, demand=demand, start_demand=1)
        return simulate(work(20_000), [node] * processes, NEAR, Costs(write=0)).seconds

    assert seconds(1, 2) == pytest.approx(210, rel=0.02)
    assert seconds(2, 2) == pytest.approx(210, rel=0.02)  # two start as fast as one, and then share the cores
    assert seconds(4, 2) == pytest.approx(220, rel=0.02)
    assert seconds(2, 1) == pytest.approx(110 + small_shards(2), rel=0.03)


def test_a_death_costs_a_shard_and_the_claims_until_they_are_void() -> None:
    nodes = [SLOW, replace(SLOW, dies=150)]
    far = simulate(work(10_000), nodes, NEAR)
    assert 0 < far.extracted - far.written <= 2 * small_shard_size(10_000) + SLOW.batch
    assert far.seconds > 150 + VOID_SECONDS - 60
    near = simulate(work(10_000), [replace(node, host=Host(2.0)) for node in nodes], NEAR)
    assert near.seconds < far.seconds - 100
    assert near.written == 10_000


def test_processes_that_share_a_small_set_write_small_shards_and_one_compacts_them() -> None:
    def found(processes: int, costs: Costs = Costs()) -> Outcome:
        node = Node(speed=100, host=Host(2.0), start_demand=1)
        return simulate(work(2000), [node] * processes, NEAR, costs)

    assert found(1).shards == 2
    assert MANY_SHARDS < found(2).shards <= 2000 / 8
    free = found(2, Costs(begin_shard=0, compact_shard=0)).seconds
    compacted = found(2, Costs(begin_shard=0, compact_shard=0.01)).seconds
    assert compacted - free == pytest.approx(found(2).shards * 0.01, rel=0.1)  # one process does it, others have ended
    assert free < found(2, Costs(begin_shard=0.05, compact_shard=0)).seconds


def test_a_process_that_hangs_loses_its_claims() -> None:
    short, long = (simulate(work(10_000), [SLOW, replace(SLOW, hangs=(100, hang))], NEAR) for hang in (60, 3000))
    assert short.waste == 0
    assert 0 < long.waste < 0.2
    assert long.written == 10_000


def test_a_node_that_joins_helps() -> None:
    alone, helped = (simulate(work(20_000), nodes, NEAR) for nodes in ([SLOW], [SLOW, replace(SLOW, joins=500)]))
    assert helped.seconds == pytest.approx(750, rel=0.1)
    assert alone.seconds == pytest.approx(1000, rel=0.02)


def test_units_of_several_portions_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [replace(GPU, start=0)] * 4
    fine = simulate(Work(5_000_000), nodes)
    monkeypatch.setattr(cluster_model, "MOST_UNITS", 1000)
    coarse = simulate(Work(5_000_000), nodes)
    assert coarse.seconds == pytest.approx(fine.seconds, rel=0.1)
    assert coarse.operations == pytest.approx(fine.operations, rel=0.1)


@pytest.mark.parametrize("images", [300, 5000, 100_000])
def test_portions_are_as_large_as_the_real_ones(images: int) -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(images)]
    real = len(cut_into_portions(digests, set(digests)).names)
    assert images / portion_size(images) == pytest.approx(real, rel=0.35)


def test_shards_are_as_large_as_the_real_ones() -> None:
    fast, few = Node(speed=50_000, start=1), Protocol(portion_images=1 << 18)
    for images in (MANY_IMAGES, 2 * MANY_IMAGES):
        found = simulate(work(images), [fast], NEAR, protocol=few)
        assert found.shards == pytest.approx(images / shard_size(images), rel=0.05)


def test_members_of_tars_take_as_many_operations_as_the_real_ones(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, count, calls = (drawn / "cat" / "cat.0.jpg").read_bytes(), 480, Counter[str]()
    samples = {}
    for number in range(count):
        samples |= {f"{number}.cls": b"1", f"{number}.jpg": photo + bytes(20_000) + b"%d" % number}
    tar = write_tar(tmp_path / "x.tar", samples)
    os.utime(tar, (1e9, 1e9))
    images = [one.image for one in scan(tar, memory=ScanMemory(tmp_path / "scans", tar)).examples]

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: calls.update([name]) or call(*arguments, **options)

    for name in ("open", "stat", "pread", "close"):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    scan(tar, memory=ScanMemory(tmp_path / "scans", tar))
    assert calls.total() / count == pytest.approx(TAR["scan_operations"], rel=0.1)
    calls.clear()
    for start in range(0, count, 48):
        read_references(np.array([reference_of(one) for one in images[start : start + 48]], object))
    assert calls.total() / count == pytest.approx(TAR["read_operations"], rel=0.1)


def test_more_nodes_than_the_disk_bears_make_it_slower() -> None:
    setup = SETUPS["GPU, store alone"]
    few, many = (simulate_setup(setup, 2_000_000, nodes, Disk(operations=2000), 0) for nodes in (2, 64))
    assert many.seconds > few.seconds
    assert many.bottleneck == "claims"


def test_a_prediction_of_one_process_is_its_measurement() -> None:
    few, alone = Measured(10.8, 12.6, [16], 0.0), Measured(30.0, 48.0, [2000], 0.0)
    one, two, four = (predict(few, alone, 2000, processes, 2) for processes in (1, 2, 4))
    assert one == pytest.approx(30, rel=0.03)
    # The start takes 10.6 s and 12.3 s of processors, the images 35.7 s of them.
    assert two == pytest.approx((2 * 12.3 + 35.7) / 2 + 1 + small_shards(2), rel=0.05)
    assert four == pytest.approx((4 * 12.3 + 35.7) / 2 + 1 + small_shards(4), rel=0.05)
    assert predict(few, alone, 2000, 2, 2, others=1) > 1.2 * two


def test_photographs_are_taken_from_each_class(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        for number in range(5):
            file = tmp_path / "photos" / name / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
    assert copy_photographs(tmp_path / "photos", tmp_path / "data", 6) == 6
    assert len(list((tmp_path / "data" / "dogs").iterdir())) == 3
    with pytest.raises(SystemExit, match="no folders of"):
        copy_photographs(tmp_path / "photos" / "cats", tmp_path / "other", 6)


@pytest.mark.parametrize(("option", "least"), [
    ("--images", 1), ("--nodes", 1), ("--operations", 1), ("--photographs", 17), ("--processes", 1), ("--rounds", 1),
])  # fmt: skip
def test_wrong_numbers_are_told_in_one_line(
    option: str, least: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (str(least - 1), "many"):
        monkeypatch.setattr(sys, "argv", ["cluster", option, wrong])
        with pytest.raises(SystemExit):
            main()
        last = capsys.readouterr().err.splitlines()[-1]
        assert f"argument {option}: must be" in last
        assert f"of at least {least}. Received: {wrong}" in last


def test_too_few_photographs_are_told(tmp_path: Path) -> None:
    for number in range(12):
        photo = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.touch()
    with pytest.raises(SystemExit, match="photos: gives 12 photographs, expected over 16"):
        check(tmp_path / "photos", tmp_path, 2000, [1], 1, 0)
