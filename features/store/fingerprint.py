"""The fingerprint of features: everything that decides their values."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from typing import Any

FORMAT_VERSION = 1  # the version of the layout of a store's folder


@dataclass(frozen=True)
class Fingerprint:
    """Everything that decides the value of a feature. Equal fingerprints mean equal features."""

    backbone: str
    weights: str  # SHA-256 over the shapes, dtypes and values of the network's weights
    cut: str  # the name of the cut within the backbone: `mixed10`, or `mixed8:map`
    shape: tuple[int, ...]  # of one image's features: `(D,)`, or `(H, W, D)` for a map
    dtype: str  # of the stored features: `float16` or `float32`
    precision: str  # of the arithmetic: `float32`, `bfloat16` or `int8`
    rescale: Mapping[str, Any]  # `scale` and `offset` of the affine map from pixels to the network's input
    image_size: int  # this and the next two: see `ImageConfig`
    resize: str
    truncated: str
    pixels_version: int  # see `PIXELS_VERSION`
    forward_version: int | None = None  # see `FORWARD_VERSION`; None in stores of early versions
    calibration: Mapping[str, Any] | None = None  # for int8: see `calibration.calibration`; else None
    tokens: str | None = None  # how tokens became one vector; None for a network without tokens
    bits: str | None = None  # see `ImageConfig`; None for `16`, or for a value that gives the same pixels
    engine: str | None = None  # `openvino` if OpenVINO made features in bfloat16, else None
    augment: str | None = None  # this and the next three: see `View`; None for images without augmentation
    augment_version: int | None = None
    seed: int | None = None
    view: int | None = None
    format_version: int = FORMAT_VERSION
    later: Mapping[str, Any] = field(default_factory=dict)  # fields of a later version of headstart

    @cached_property
    def key(self) -> str:
        """The hash of all fields that are not None: a SHA-256 in hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        """The name of the folder, in any store, that holds the features with this fingerprint."""
        return f"{self.backbone}-{self.cut.replace(':', '-')}-{self.key[:12]}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are not None, as JSON values. The entries of `later` count as fields."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "later"} | dict(self.later)
        found: dict[str, Any] = json.loads(json.dumps({k: v for k, v in values.items() if v is not None}))
        return found

    @classmethod
    def from_json(cls, values: Any) -> "Fingerprint":
        """Return the fingerprint from `values`, the result of `to_json`. Unknown fields go to `later`.

        A missing field, or a field of a wrong type, raises a ValueError.
        """
        if not isinstance(values, dict):
            raise ValueError("it holds no JSON object")
        known = {one.name: one for one in fields(cls) if one.name != "later"}
        lacking = [name for name, one in known.items() if name not in values and one.default is MISSING]
        if lacking:
            raise ValueError(f"it lacks the field {lacking[0]!r}")
        later = {name: value for name, value in values.items() if name not in known}
        values = {name: value for name, value in values.items() if name in known}
        for name, value in values.items():
            if not isinstance(value, _TYPES.get(name, str)) or isinstance(value, bool):
                raise ValueError(f"the field {name!r} can't be {value!r}")
        fingerprint = cls(**{**values, "shape": tuple(values["shape"])}, later=later)
        if not all(type(side) is int and side > 0 for side in fingerprint.shape):
            raise ValueError(f"the field 'shape' can't be {values['shape']!r}")
        return fingerprint

    def differences(self, there: "Fingerprint") -> dict[str, dict[str, Any]]:
        """Return the fields in which this fingerprint differs from another fingerprint, with both values.

        The argument `there` is the other fingerprint. The result maps the name of each such field to a dict. The dict
        has the value in this fingerprint under the key "asked", and the value in the other fingerprint under the key
        "there". An absent field has the value None.
        """
        asked, other = self.to_json(), there.to_json()
        return {
            name: {"asked": asked.get(name), "there": other.get(name)}
            for name in sorted({*asked, *other})
            if asked.get(name) != other.get(name)
        }


_TYPES: dict[str, type] = {
    "shape": list, "rescale": dict, "calibration": dict, "image_size": int, "pixels_version": int,
    "forward_version": int, "augment_version": int, "seed": int, "view": int, "format_version": int,
}  # fmt: skip
