"""Fingerprints: their keys never change, and what is read back is what was written."""

import json
from dataclasses import replace
from typing import Any

import pytest
from headstart.features.store.fingerprint import Fingerprint
from hypothesis import given
from hypothesis import strategies as st

# As written to fingerprint.json by 262f514, with the keys it had there.
PLAIN: dict[str, Any] = {
    "format_version": 1,
    "backbone": "mobilenet_v3_small",
    "weights": "3f" * 32,
    "pixels_version": 2,
    "image_size": 64,
    "resize": "stretch",
    "truncated": "reject",
    "rescale": {"scale": [0.00784313725490196], "offset": [-1.0]},
    "precision": "float32",
    "forward_version": 3,
    "dtype": "float32",
    "cut": "top_activation",
    "shape": [576],
}
VIEW = {**PLAIN, "augment": "standard", "augment_version": 1, "seed": 0, "view": 2}
INT8 = {**PLAIN, "precision": "int8", "dtype": "float16", "calibration": {"images": 9, "digests": "d", "model": "m"}}
OPENVINO = {**PLAIN, "precision": "bfloat16", "dtype": "float16", "engine": "openvino"}
KEYS = (
    "167de977f6df207637373558fb7dcd18ea37452bfdb1719a98da39107cbf9920",
    "fbe6385cfa07037acddfa250d0adf51a8eba1626bcbab56cd5cb29c34e058b93",
    "f4e673948fd13ecffe1695956005a055551f79b1f3676734e94c4201c3d70977",
)


@pytest.mark.parametrize(
    ("values", "key"), [*zip((PLAIN, VIEW, INT8), KEYS, strict=True)], ids=["plain", "view", "int8"]
)
def test_keys_are_those_of_stores_that_exist(values: dict[str, Any], key: str) -> None:
    fingerprint = Fingerprint.from_json(values)
    assert fingerprint.key == key
    assert fingerprint.to_json() == values
    assert fingerprint.folder_name == f"mobilenet_v3_small-top_activation-{key[:12]}"


def test_a_map_has_a_folder_that_every_system_can_hold() -> None:
    fingerprint = Fingerprint.from_json({**PLAIN, "cut": "block:map", "shape": [2, 2, 8]})
    assert fingerprint.folder_name.startswith("mobilenet_v3_small-block-map-")


@given(
    st.sampled_from((PLAIN, VIEW, INT8, OPENVINO)),
    st.integers(32, 999),
    st.lists(st.integers(1, 99), min_size=1, max_size=3),
    st.lists(st.floats(-2, 2), min_size=1, max_size=3),
)
def test_what_is_written_is_read_back(values: dict[str, Any], size: int, shape: list[int], scale: list[float]) -> None:
    changed = {**values, "image_size": size, "shape": shape, "rescale": {"scale": scale, "offset": [0.0]}}
    fingerprint = Fingerprint.from_json(changed)
    assert Fingerprint.from_json(json.loads(json.dumps(fingerprint.to_json()))) == fingerprint
    assert fingerprint.to_json() == changed


def test_fields_of_a_later_version_are_kept() -> None:
    later = {**PLAIN, "colours": "lab"}
    fingerprint = Fingerprint.from_json(later)
    assert fingerprint.to_json() == later
    assert fingerprint.key != Fingerprint.from_json(PLAIN).key


def test_differences_are_named() -> None:
    plain, view = Fingerprint.from_json(PLAIN), Fingerprint.from_json(VIEW)
    assert plain.differences(replace(plain)) == {}
    assert plain.differences(view)["view"] == {"asked": None, "there": 2}
    assert set(plain.differences(view)) == {"augment", "augment_version", "seed", "view"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "no JSON object"),
        ({key: value for key, value in PLAIN.items() if key != "precision"}, "lacks the field 'precision'"),
        ({**PLAIN, "backbone": 3}, "'backbone' can't be 3"),
        ({**PLAIN, "shape": ["a"]}, "'shape' can't be"),
        ({**PLAIN, "shape": 7}, "'shape' can't be 7"),
        ({**PLAIN, "view": True}, "'view' can't be True"),
    ],
)
def test_what_is_no_fingerprint_is_refused_and_named(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        Fingerprint.from_json(values)
