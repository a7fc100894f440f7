"""The measured speeds of backbones. A store keeps these speeds, so that `headstart backbones` can show them."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from headstart.features.config import Precision
from headstart.features.device import cpu_count, processor
from headstart.features.files import read_json, write_json

_MOST_BYTES = 1 << 20  # of the file
_LEAST_IMAGES = 100  # with fewer images, the measured speed is not reliable


@dataclass(frozen=True)
class Speed:
    """The measured speed of a backbone, from image files to features in the store."""

    images_per_second: float
    precision: Precision
    image_size: int  # side of the input in pixels
    machine: str  # see `_machine`


def measured_speeds(store: Path) -> dict[str, Speed]:
    """Return the latest speed of each backbone, by backbone name. A damaged file counts as empty.

    A backbone is left out if its latest speed was measured on another kind of machine.
    """
    return {name: speed for name, speed in _read(store).items() if speed.machine == _machine()}


def keep_speed(store: Path, backbone: str, images: int, seconds: float, precision: Precision, image_size: int) -> None:
    """Save the speed of `backbone` in `store`.

    `images` is the number of images whose features were made, and `seconds` is the time that this took. Do nothing if
    there are fewer than 100 images. A failure to write is ignored.
    """
    if images < _LEAST_IMAGES:
        return
    speed = Speed(images / seconds, precision, image_size, _machine())
    with suppress(OSError):  # the speed is only shown: a full disk must not end the command
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
