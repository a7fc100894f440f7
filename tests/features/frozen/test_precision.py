import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from headstart.features.errors import StoreError
from headstart.features.frozen import precision
from headstart.features.frozen.precision import Verdict, resolve_precision, stored_verdict

_RACE = """
import sys, time
from pathlib import Path
from headstart.features.frozen import precision
precision._product_seconds = lambda *_: (1.0, float(sys.argv[2]))
precision._machine = lambda: {"processor": sys.argv[2]}
write = precision.write_first

def at_once(*written):
    time.sleep(max(0, float(sys.argv[3]) - time.time()))
    return write(*written)

precision.write_first = at_once
print(precision.resolve_precision("auto", Path(sys.argv[1])))
"""


def timed_as(monkeypatch: pytest.MonkeyPatch, reduced: float) -> None:
    monkeypatch.setattr(precision, "_product_seconds", lambda *_: (1.0, reduced))


@pytest.mark.parametrize(("seconds", "found"), [((1.0, 0.6), "bfloat16"), ((1.0, 0.9), "float32")])
def test_auto_takes_bfloat16_where_it_is_faster(seconds: tuple[float, float], found: str, monkeypatch) -> None:
    assert resolve_precision("auto") in ("float32", "bfloat16")
    monkeypatch.setattr(precision, "_product_seconds", lambda *_: seconds)
    assert resolve_precision("auto") == found
    assert resolve_precision("bfloat16") == "bfloat16"


def test_a_store_keeps_the_first_verdict(tmp_path, monkeypatch) -> None:
    found = []
    for reduced in (0.69, 0.71, 2.0):
        timed_as(monkeypatch, reduced)
        found.append(resolve_precision("auto", tmp_path))
    assert found == ["bfloat16"] * 3
    assert resolve_precision("float32", tmp_path) == "float32"
    assert stored_verdict(tmp_path).precision == "bfloat16"


def test_a_verdict_tells_its_machine(tmp_path) -> None:
    assert stored_verdict(tmp_path) is None
    resolve_precision("auto", tmp_path)
    verdict = stored_verdict(tmp_path)
    assert verdict.machine.keys() - {"gpu"} == {"processor", "cores", "tensorflow", "date"}
    for value in verdict.machine.values():
        assert str(value) in str(verdict)


def test_a_verdict_of_an_earlier_version_holds(tmp_path, monkeypatch) -> None:
    timed_as(monkeypatch, 0.9)
    (tmp_path / "precision.json").write_text('{"auto": "bfloat16"}')
    assert resolve_precision("auto", tmp_path) == "bfloat16"
    assert "earlier version" in str(stored_verdict(tmp_path))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"auto": "int8"}', b'{"auto": 7}', b'{"auto": []}', b"\xff"])
def test_a_damaged_verdict_is_told_and_not_replaced(tmp_path, monkeypatch, damage: bytes) -> None:
    timed_as(monkeypatch, 0.9)
    (tmp_path / "precision.json").write_bytes(damage)
    with pytest.raises(StoreError, match=r"precision\.json: damaged.*--precision float32 or bfloat16, or delete"):
        resolve_precision("auto", tmp_path)
    assert (tmp_path / "precision.json").read_bytes() == damage
    assert resolve_precision("float32", tmp_path) == "float32"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_in_place_of_a_verdict_is_told(tmp_path, make) -> None:
    make(tmp_path / "precision.json")
    with pytest.raises(StoreError, match=r"precision\.json: damaged"):
        stored_verdict(tmp_path)


def test_the_verdict_is_kept_where_the_store_is_not_made_yet(tmp_path, monkeypatch) -> None:
    timed_as(monkeypatch, 0.1)
    assert resolve_precision("auto", tmp_path / "new" / "store") == "bfloat16"
    timed_as(monkeypatch, 0.9)
    assert resolve_precision("auto", tmp_path / "new" / "store") == "bfloat16"


def test_a_store_that_cant_be_written_to_is_told(tmp_path, monkeypatch, capsys) -> None:
    timed_as(monkeypatch, 0.1)
    (tmp_path / "store").write_text("a file")
    assert resolve_precision("auto", tmp_path / "store") == "bfloat16"
    assert "will be timed again" in capsys.readouterr().err


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_the_first_of_two_processes_decides(tmp_path, monkeypatch, links: bool) -> None:
    other = Verdict("bfloat16", {"processor": "the other's"})

    def meanwhile(*_: str) -> tuple[float, float]:
        (tmp_path / "precision.json").write_text(json.dumps({"auto": other.precision, "machine": other.machine}))
        return 1.0, 0.9

    if not links:
        monkeypatch.setattr(os, "link", without_links)
    monkeypatch.setattr(precision, "_product_seconds", meanwhile)
    assert resolve_precision("auto", tmp_path) == "bfloat16"
    assert stored_verdict(tmp_path) == other
    assert [path.name for path in tmp_path.iterdir()] == ["precision.json"]


def without_links(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_processes_that_time_at_once_agree(tmp_path: Path) -> None:
    together = str(time.time() + 2)
    started = [
        subprocess.Popen([sys.executable, "-c", _RACE, tmp_path / "store", reduced, together], stdout=subprocess.PIPE)
        for reduced in ("0.1", "0.9", "0.2", "0.8")
    ]
    found = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert len(found) == 1
    assert stored_verdict(tmp_path / "store").precision == found.pop().decode().strip()
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["precision.json"]
