import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from headstart.features.processes import host, this_process
from headstart.features.store import claims as module
from headstart.features.store.claims import VOID_SECONDS, Claim, Claims, remove_void_claims


def ended_process() -> str:
    """The identity of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    *_, started = this_process().rsplit("-", 2)
    return f"{host()}-{process.pid}-{started}"


def age(file: Path, seconds: float) -> None:
    os.utime(file, (time.time() - seconds,) * 2, follow_symlinks=False)


def with_clock(folder: Path) -> Claims:
    """Claims of a process that has claimed a portion, and so knows the time on the disk's clock."""
    claims = Claims(folder)
    assert claims.take("c0") == Claim.MINE
    claims.release("c0")
    return claims


def test_a_portion_is_extracted_once(tmp_path: Path) -> None:
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


def test_a_link_in_the_place_of_claims_leads_nowhere(tmp_path: Path) -> None:
    store, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    store.mkdir()
    elsewhere.mkdir()
    (store / "claims").symlink_to(elsewhere)
    claims = Claims(store)
    assert claims.take("a") == Claim.MINE
    claims.done("a")
    assert not list(elsewhere.iterdir())
    claims.release_all()


def test_claims_of_ended_processes_are_void(tmp_path: Path) -> None:
    claim = tmp_path / "claims" / "a.claimed"
    one = Claims(tmp_path)
    claim.parent.mkdir()
    claim.write_text(ended_process())
    assert one.take("a") == Claim.TAKEN_OVER
    claim.write_text("far-1-2")  # another host's
    assert Claims(tmp_path).take("a") == Claim.BUSY
    one.done("a")
    assert claim.read_text() == "far-1-2"  # it was taken over: not this process's to remove
    two = with_clock(tmp_path)
    age(claim, VOID_SECONDS + 5)
    assert two.take("a", again=True) == Claim.TAKEN_OVER
    remove_void_claims(tmp_path)
    assert claim.exists()
    claim.write_text(ended_process())
    remove_void_claims(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_has_ended_before_its_parent_asks_how(tmp_path: Path) -> None:
    claim = tmp_path / "claims" / "a.claimed"
    claim.parent.mkdir()
    code = "import sys; from headstart.features.processes import this_process; print(this_process()); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as one:
        assert one.stdout is not None
        claim.write_text(one.stdout.readline().strip())
        assert Claims(tmp_path).take("a") == Claim.BUSY
        one.kill()
        while psutil.Process(one.pid).status() != psutil.STATUS_ZOMBIE:  # it stays one until this process waits for it
            time.sleep(0.01)
        assert Claims(tmp_path).take("a") == Claim.TAKEN_OVER


def test_a_claim_that_is_not_renewed_is_void_though_its_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Claims(tmp_path), with_clock(tmp_path)
    claim = tmp_path / "claims" / "a.claimed"
    assert one.take("a") == Claim.MINE
    age(claim, VOID_SECONDS - 60)
    assert two.take("a") == Claim.BUSY
    monkeypatch.setattr(module, "_RENEW_SECONDS", -1.0)
    one.renew()
    assert time.time() - claim.stat().st_mtime < 60
    age(claim, VOID_SECONDS + 60)
    assert two.take("a") == Claim.TAKEN_OVER


def test_no_clock_of_a_host_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Claims(tmp_path), Claims(tmp_path)
    claim = tmp_path / "claims" / "a.claimed"
    assert one.take("a") == Claim.MINE
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert two.take("a") == Claim.BUSY
    os.utime(claim, (4e9, 4e9))  # the disk's clock was set back since, or the store comes from elsewhere
    assert two.take("a") == Claim.BUSY
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + VOID_SECONDS + 5)  # nobody renewed it meanwhile
    assert two.take("a") == Claim.TAKEN_OVER


def test_a_process_knows_its_claims_after_the_clock_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Claims(tmp_path)
    assert one.take("a") == Claim.MINE
    monkeypatch.setattr(module, "this_process", lambda: "another-1-2")
    one.release_all()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_removed_is_made_again(tmp_path: Path) -> None:
    one, two = Claims(tmp_path), Claims(tmp_path)
    assert one.take("a") == Claim.MINE
    one.release_all()
    assert not (tmp_path / "claims").exists()
    assert (two.take("a"), Claims(tmp_path).take("a")) == (Claim.MINE, Claim.BUSY)


@pytest.mark.timeout(30)
def test_whatever_lies_in_the_place_of_a_claim_stops_no_work(tmp_path: Path) -> None:
    one = with_clock(tmp_path)
    claims = tmp_path / "claims"
    os.mkfifo(claims / "a.claimed")
    (claims / "b.claimed").mkdir()
    (claims / "d.claimed").symlink_to("/dev/zero")
    (claims / "e.claimed").write_text(f"{host()}-{10**15}-1")
    assert one.take("e") == Claim.TAKEN_OVER  # no process has this ID
    for name in "abd":
        assert one.take(name) == Claim.BUSY
        age(claims / f"{name}.claimed", VOID_SECONDS + 60)
        assert one.take(name) == Claim.TAKEN_OVER
    (claims / "f.done").touch()
    one.release_all()
    assert [path.name for path in claims.iterdir()] == ["b.claimed"]


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    precious = tmp_path / "elsewhere" / "a.done"
    precious.touch()
    (tmp_path / "claims").symlink_to("elsewhere")
    remove_void_claims(tmp_path)
    assert precious.exists()


def test_without_a_folder_for_claims_each_process_does_all(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("")
    one, two = Claims(tmp_path), Claims(tmp_path)
    assert one.take("a") == two.take("a") == Claim.MINE
    one.renew()
    one.done("a")
    one.release_all()


def test_several_threads_may_tell_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT_SECONDS", -1.0)
    claims = Claims(tmp_path)
    failed: list[Exception] = []

    def tell(letter: str) -> None:
        try:
            for number in range(100):
                claims.take(f"{letter}{number}")
                claims.done(f"{letter}{number}")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=tell, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    claims.release_all()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_the_disk_has_no_room_for_keeps_nobody_waiting(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    first = Claims(tmp_path)
    (tmp_path / "claims").mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        assert first.take("aa") == Claim.MINE
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any((tmp_path / "claims").iterdir())
    assert Claims(tmp_path).take("aa") == Claim.MINE


def test_an_empty_claim_is_soon_void(tmp_path: Path) -> None:
    """Its process was killed before it wrote its identity."""
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "aa.claimed").touch()
    other = with_clock(tmp_path)
    assert other.take("aa") == Claim.BUSY
    age(tmp_path / "claims" / "aa.claimed", 61)
    assert other.take("aa") == Claim.TAKEN_OVER
