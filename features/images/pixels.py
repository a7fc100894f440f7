"""What decides the pixels of an image file. This module imports no TensorFlow; `decode` makes the pixels."""

from dataclasses import dataclass
from typing import Literal

from headstart.features.errors import require_options

Resize = Literal["stretch", "crop", "pad"]
Pages = Literal["first", "all"]  # of a TIFF with several, which are images
BITS = ("auto", *map(str, range(8, 17)))
PIXELS_VERSION = 2  # part of every fingerprint: raise it when a file yields other pixels than before


@dataclass(frozen=True)
class ImageConfig:
    """How bytes become pixels. A size not in 32 to 4096, or `bits` that are not among `BITS`, raise an OptionError."""

    size: int  # side of the square image in pixels
    resize: Resize = "stretch"  # stretch to a square, crop the centre square first, or pad to a square with grey
    truncated: Literal["reject", "keep"] = "reject"  # reject a JPEG that ends early, or keep it with a grey lower part

    bits: str = "auto"  # which bits of 16-bit samples are used: each file's own, or as many as this number says

    def __post_init__(self) -> None:
        require_options(
            ("--image-size", self.size, 32 <= self.size <= 4096, "from 32 to 4096"),
            ("--bits", self.bits, self.bits in BITS, "auto or a number from 8 to 16"),
        )

    def bits_of(self, bits: int) -> int:
        """Return how many bits of an image's 16-bit samples become 8, from 8 to 16; 0 if its own `bits` are 0."""
        return bits if not bits or self.bits == "auto" else int(self.bits)
