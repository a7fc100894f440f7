"""Measured speeds of backbones, kept in a store, so that `headstart backbones` can tell them."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from headstart.features.config import Precision
from headstart.features.device import cpu_count, processor
from headstart.features.files import read_json, write_json

_MOST_BYTES = 1 << 20  # of the file
_LEAST_IMAGES = 100  # fewer say little of the speed


@dataclass(frozen=True)
class Speed:
    """How fast a backbone was: from image files to features in the store."""

    images_per_second: float
    precision: Precision
    image_size: int  # side of the input in pixels
    machine: str  # see `_machine`


def measured_speeds(store: Path) -> dict[str, Speed]:
    """The latest speed of each backbone on this machine, by its name. A damaged file in `store` counts as empty."""
    return {name: speed for name, speed in _read(store).items() if speed.machine == _machine()}


def keep_speed(store: Path, backbone: str, images: int, seconds: float, precision: Precision, image_size: int) -> None:
    """Keep the speed at which features of `images` were made in `store`, unless they are too few to say much."""
    if images < _LEAST_IMAGES:
        return
    speed = Speed(images / seconds, precision, image_size, _machine())
    with suppress(OSError):  # a figure to look at: a full disk must not end the command
        write_json(_file(store), {name: asdict(one) for name, one in {**_read(store), backbone: speed}.items()})


def _read(store: Path) -> Mapping[str, Speed]:
    try:
        speeds = {name: Speed(**values) for name, values in read_json(_file(store), _MOST_BYTES).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return speeds if all(map(_is_sound, speeds.values())) else {}


def _is_sound(speed: Speed) -> bool:
    kinds = isinstance(speed.images_per_second, float) and isinstance(speed.image_size, int)
    kinds &= isinstance(speed.precision, str) and isinstance(speed.machine, str)
    return kinds and math.isfinite(speed.images_per_second)


def _file(store: Path) -> Path:
    return store / "speeds.json"


def _machine() -> str:
    return f"{processor()}, {cpu_count()} cores"
