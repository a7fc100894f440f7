import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from headstart.features.processes import this_process
from headstart.features.store import claims as module
from headstart.features.store.claims import VOID_SECONDS, Claim, Claims, remove_void_claims


def ended_process() -> str:
    """The identity of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    host, _, started = this_process().rsplit("-", 2)
    return f"{host}-{process.pid}-{started}"


def age(file: Path, seconds: float) -> None:
    os.utime(file, (time.time() - seconds,) * 2)


def test_a_block_is_extracted_once(tmp_path: Path) -> None:
    one, two = Claims(tmp_path), Claims(tmp_path)
    assert [one.take("a"), two.take("a"), two.take("b"), one.take("b")] == [
        Claim.MINE, Claim.BUSY, Claim.MINE, Claim.BUSY
    ]  # fmt: skip
    one.done("a")
    assert (two.take("a"), two.take("a", again=True)) == (Claim.DONE, Claim.MINE)
    one.release_all()
    assert one.take("c") == Claim.BUSY  # a thread may still ask
    assert (tmp_path / "claims").exists()
    two.release_all()
    assert list(tmp_path.iterdir()) == []


def test_claims_of_ended_processes_are_void(tmp_path: Path) -> None:
    claim = tmp_path / "claims" / "a.claimed"
    one = Claims(tmp_path)
    claim.write_text(ended_process())
    assert one.take("a") == Claim.MINE
    claim.write_text("far-1-2")  # another host's
    assert Claims(tmp_path).take("a") == Claim.BUSY
    one.done("a")
    assert claim.read_text() == "far-1-2"  # it was taken over: not this process's to remove
    age(claim, VOID_SECONDS + 5)
    assert Claims(tmp_path).take("a", again=True) == Claim.MINE
    remove_void_claims(tmp_path)
    assert claim.exists()
    claim.write_text(ended_process())
    remove_void_claims(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_is_not_renewed_is_void_though_its_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Claims(tmp_path), Claims(tmp_path)
    claim = tmp_path / "claims" / "a.claimed"
    assert one.take("a") == Claim.MINE
    age(claim, VOID_SECONDS - 60)
    assert two.take("a") == Claim.BUSY
    monkeypatch.setattr(module, "_RENEW_SECONDS", -1.0)
    one.renew()
    age_now = time.time() - claim.stat().st_mtime
    assert age_now < 60
    age(claim, VOID_SECONDS + 60)
    assert two.take("a") == Claim.MINE


def test_the_clock_of_the_disk_counts_and_not_that_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Claims(tmp_path), Claims(tmp_path)
    assert one.take("a") == Claim.MINE
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert two.take("a") == Claim.BUSY
    monkeypatch.setattr(module, "_now", lambda folder: time.monotonic() + 2**33)  # a disk whose clock went on
    assert two.take("a") == Claim.MINE


@pytest.mark.timeout(30)
def test_whatever_lies_in_the_place_of_a_claim_stops_no_work(tmp_path: Path) -> None:
    claims = tmp_path / "claims"
    one = Claims(tmp_path)
    os.mkfifo(claims / "pipe.claimed")
    (claims / "folder.claimed").mkdir()
    (claims / "link.claimed").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "link"):
        assert one.take(name) == Claim.BUSY
        os.utime(claims / f"{name}.claimed", (1, 1), follow_symlinks=False)
        assert one.take(name) == Claim.MINE
    one.release_all()


def test_without_a_folder_for_claims_each_process_does_all(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("")
    one, two = Claims(tmp_path), Claims(tmp_path)
    assert one.take("a") == two.take("a") == Claim.MINE
    one.renew()
    one.done("a")
    one.release_all()
