import pytest
from headstart.features.backbones import precision
from headstart.features.backbones.precision import resolve_precision


@pytest.mark.parametrize(("seconds", "found"), [((1.0, 0.6), "bfloat16"), ((1.0, 0.9), "float32")])
def test_auto_takes_bfloat16_where_it_is_faster(seconds: tuple[float, float], found: str, monkeypatch) -> None:
    assert resolve_precision("auto") in ("float32", "bfloat16")
    monkeypatch.setattr(precision, "_product_seconds", lambda *_: seconds)
    assert resolve_precision("auto") == found
    assert resolve_precision("bfloat16") == "bfloat16"


def test_a_store_keeps_the_first_verdict(tmp_path, monkeypatch) -> None:
    def timed(reduced: float) -> str:
        monkeypatch.setattr(precision, "_product_seconds", lambda *_: (1.0, reduced))
        return resolve_precision("auto", tmp_path)

    assert [timed(0.69), timed(0.71), timed(2.0)] == ["bfloat16"] * 3
    for damage in (b"", b"{", b"[]", b'{"auto": "int8"}', b'{"auto": 7}'):
        (tmp_path / "precision.json").write_bytes(damage)
        assert [timed(0.9), timed(0.1)] == ["float32"] * 2


def test_nothing_is_made_where_there_is_no_store(tmp_path) -> None:
    resolve_precision("auto", tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
