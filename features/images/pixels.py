"""What decides the pixels of an image file. This module imports no TensorFlow; `decode` makes the pixels."""

from dataclasses import dataclass
from typing import Literal

from headstart.features.errors import require_options

PIXELS_VERSION = 2  # part of every fingerprint: raise it when a file yields other pixels than before


@dataclass(frozen=True)
class ImageConfig:
    """How bytes become pixels. A size under 32 or above 4096 raises an OptionError."""

    size: int  # side of the square image in pixels
    resize: Literal["stretch", "crop"] = "stretch"  # stretch to a square, or crop the centre square first
    truncated: Literal["reject", "keep"] = "reject"  # reject a JPEG that ends early, or keep it with a grey lower part

    def __post_init__(self) -> None:
        require_options(("--image-size", self.size, 32 <= self.size <= 4096, "from 32 to 4096"))
