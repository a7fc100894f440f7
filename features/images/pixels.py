"""The settings that decide how an image file becomes pixels; `decode` applies them. This module needs no TensorFlow."""

from dataclasses import dataclass
from typing import Literal

from headstart.features.errors import require_options

Resize = Literal["stretch", "crop", "pad"]
Pages = Literal["first", "all"]  # which pages of a TIFF are taken as images
BITS = ("auto", *map(str, range(8, 17)))
PIXELS_VERSION = 2  # part of every fingerprint: raise it when a file yields other pixels than before


@dataclass(frozen=True)
class ImageConfig:
    """How a file becomes pixels.

    Raises OptionError if `size` is less than 32 or more than 4096, or if `bits` is not in `BITS`.
    """

    size: int  # side of the square image in pixels
    resize: Resize = "stretch"  # stretch to a square, crop the centre square first, or pad to a square with grey
    truncated: Literal["reject", "keep"] = "reject"  # reject a JPEG that ends early, or keep it with a grey lower part

    bits: str = "auto"  # bits in use of 16-bit samples: each file's own number, or this number for all files

    def __post_init__(self) -> None:
        require_options(
            ("--image-size", self.size, 32 <= self.size <= 4096, "from 32 to 4096"),
            ("--bits", self.bits, self.bits in BITS, "auto or a number from 8 to 16"),
        )

    def bits_of(self, bits: int) -> int:
        """Return how many bits of an image's 16-bit samples are in use.

        The argument `bits`, 0 or 8 to 16, is the number that the scan found; see `formats.Header`. If `bits` is 0, or
        if `self.bits` is the string `auto`, the result is `bits`. In all other cases, the result is `self.bits`.
        """
        return bits if not bits or self.bits == "auto" else int(self.bits)
