"""The workers of a node, and how a node shows that it sees the store."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.connection import connected
from headstart.features.cluster.nodes import slots, why_other_features
from headstart.features.cluster.probe import NodeError, is_seen, probe_file, require_store_seen
from headstart.features.device import cpu_count
from headstart.features.errors import HeadstartError, OptionError
from headstart.features.images.scan import ImageFile, inspect_image
from headstart.features.processes import host, this_process
from headstart.features.store.fingerprint import Fingerprint
from PIL import Image


@pytest.mark.parametrize(
    ("cpus", "gpus", "config", "expected"),
    [
        (8, 0, ClusterConfig(), [(8, 0.0)]),
        (8, 0, ClusterConfig("auto", ray_cpus=3), [(3, 0.0)] * 2),
        (0, 0, ClusterConfig(), []),  # a head that only manages the cluster
        (2, 0, ClusterConfig("auto", ray_cpus=4), []),
        (32, 4, ClusterConfig(), [(8, 1.0)] * 4),
        (32, 1, ClusterConfig("auto", ray_gpus=0.5), [(16, 0.5)] * 2),
        (32, 1, ClusterConfig("auto", ray_gpus=0.1), [(3, 0.1)] * 10),
        (32, 3, ClusterConfig("auto", ray_gpus=2), [(32, 2)]),
        (4, 1, ClusterConfig("auto", ray_gpus=2), [(4, 0.0)]),
        (2, 8, ClusterConfig(), [(1, 1.0)] * 2),  # a worker needs a CPU to decode
        (64, 8, ClusterConfig("auto", ray_cpus=4), [(4, 1.0)] * 8),
    ],
)
def test_the_workers_of_a_node(cpus: int, gpus: int, config: ClusterConfig, expected: list[tuple[int, float]]) -> None:
    resources = {"CPU": float(cpus), "memory": 1e9} | ({"GPU": float(gpus)} if gpus else {})
    assert slots(resources, config) == expected


@pytest.mark.parametrize("wrong", [{"ray_cpus": -1}, {"ray_gpus": 0.0}, {"ray_gpus": 1.5}, {"ray_gpus": float("nan")}])
def test_wrong_sizes_of_workers(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=r"--ray-.* must be"):
        ClusterConfig("auto", **wrong)


@pytest.mark.parametrize("given", [{"ray_cpus": 2}, {"ray_gpus": 0.5}, {"ray_mixed": True}])
def test_settings_of_workers_need_ray(given: dict[str, Any]) -> None:
    ClusterConfig("local", **given)
    with pytest.raises(OptionError, match=r"--ray-\S+: needs --ray; add --ray, or leave it out"):
        ClusterConfig(**given)


def test_a_worker_uses_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    every = cpu_count()
    for share, expected in (("1", 1), ("10000", every), ("0", 1), ("many", every)):
        monkeypatch.setenv("HEADSTART_CPUS", share)
        assert cpu_count() == expected


def test_a_store_is_seen(tmp_path: Path) -> None:
    with probe_file(tmp_path) as nonce:
        require_store_seen(tmp_path, nonce)
    assert not list(tmp_path.iterdir())


def test_a_store_that_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.features.cluster.probe._WAIT_SECONDS", 0.0)
    (tmp_path / "other").mkdir()
    with probe_file(tmp_path) as nonce:
        with pytest.raises(NodeError, match=r"does not see the store \(it has another folder at this path"):
            require_store_seen(tmp_path / "other", nonce)
        with pytest.raises(NodeError, match="it has no such folder"):
            require_store_seen(tmp_path / "absent", nonce)
        monkeypatch.setattr("headstart.features.cluster.probe.unwritable", lambda _: "Read-only file system")
        with pytest.raises(NodeError, match=r"can't write there \(Read-only"):
            require_store_seen(tmp_path, nonce)


def test_an_image_that_can_be_found_but_not_read_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png")
    (image,) = inspect_image(tmp_path / "1.png")
    assert isinstance(image, ImageFile)
    assert is_seen(image)

    def fail(image: ImageFile) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("headstart.features.cluster.probe.bytes_of", fail)
    assert not is_seen(image)


def test_probe_files_that_killed_drivers_left_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    *_, started = this_process().rsplit("-", 2)
    writers = {"0": f"{host()}-{process.pid}-{started}", "1": "far-1-2", "2": "far-1-2", "3": this_process()}
    files = {digit: tmp_path / f".probe-{digit * 32}" for digit in writers}
    for digit, file in files.items():
        file.write_text(f"{digit * 32} {writers[digit]}")
    os.utime(files["1"], (time.time() - 8 * 24 * 3600,) * 2)
    (tmp_path / ".probe-mine").touch()
    with probe_file(tmp_path) as nonce:
        require_store_seen(tmp_path, nonce)
        assert len(list(tmp_path.iterdir())) == 4
    assert sorted(tmp_path.iterdir()) == sorted([files["2"], files["3"], tmp_path / ".probe-mine"])


@pytest.mark.parametrize("address", ["a..b:1", "localhost:" + "9" * 5000, "\udcff:1", "a" * 64 + ".b:1"])
def test_an_address_that_is_none(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(HeadstartError, match="no Ray cluster answers") as error, connected(address):
        pass
    assert len(str(error.value)) < 600


def test_a_cluster_that_asks_for_a_token_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    refused = subprocess.CompletedProcess([], 1, b"", b"ray.exceptions.AuthenticationError: InvalidAuthToken")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: refused)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(HeadstartError, match="token is missing or wrong; set RAY_AUTH_MODE=token"), connected("auto"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("connection", ["connected('local')", "connecting('local', int, print)"])
def test_sigterm_is_handled_as_before_while_and_after_ray_is_used(connection: str) -> None:
    pytest.importorskip("ray")
    code = f"""
import os, signal, sys, time
from headstart.features.cluster.connection import connected, connecting
from headstart.features.signals import TerminatedError, stop_at_signals

def terminated():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    except TerminatedError:
        print("terminated", file=sys.stderr)
    stop_at_signals()

stop_at_signals()
with {connection} as begun:
    begun and begun()
    terminated()
terminated()
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    said = [line for line in ended.stderr.splitlines() if "Token authentication" not in line]
    assert (ended.returncode, said) == (0, ["terminated"] * 2)


def test_a_node_with_other_settings_is_told() -> None:
    here = Fingerprint(
        "a", "0" * 64, "top", (8,), "float16", "bfloat16", {}, 64, "crop", "reject", 1, engine="openvino"
    )
    told = why_other_features(here, replace(here, engine=None))
    assert told.startswith("it would make other features: engine None, the driver has engine openvino;")
