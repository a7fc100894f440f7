"""The settings of `prepare`."""

from dataclasses import dataclass

from headstart.features.errors import OptionError, require_options
from headstart.features.images.faults import MAX_PIXELS
from headstart.features.options import option
from headstart.pipeline.data.config import TEST_FRACTION, VAL_FRACTION


@dataclass(frozen=True)
class PrepareConfig:
    """How images are split and put into the data folder."""

    val: float = option(VAL_FRACTION, "Fraction of the images that goes to val; 0 makes no val split.")
    test: float = option(TEST_FRACTION, "Fraction of the images that goes to test; 0 makes no test split.")
    move: bool = option(False, "Move the files of a folder instead of linking them.")
    copy: bool = option(False, "Copy files, so that DATA shares no bytes with the source.")
    zip_encoding: str | None = option(None, "Encoding of names in a zip that are not UTF-8; guessed by default.")
    max_pixels: int = option(MAX_PIXELS, "Images with more pixels are rejected.")
    max_rejects: float = option(0.05, "Fraction of images that may be unusable.")
    drop_duplicates: bool = option(False, "Leave out copies of images, even if encoded or scaled anew.")

    def __post_init__(self) -> None:
        require_options(
            ("--max-rejects", self.max_rejects, 0 <= self.max_rejects <= 1, "from 0 to 1"),
            ("--max-pixels", self.max_pixels, self.max_pixels >= 1, "at least 1"),
        )
        if self.move and self.copy:
            raise OptionError("--move and --copy: give one of them")
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            raise OptionError(
                f"--val and --test must be fractions that leave some to train. Received: {self.val} and {self.test}"
            )
