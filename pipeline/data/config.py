"""The settings of `prepare`, of reading labelled images, and the number of images that `demo` draws."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from headstart.features.errors import OptionError
from headstart.features.images.faults import MAX_PIXELS
from headstart.features.options import option
from headstart.pipeline.data.splits import TEST_FRACTION, VAL_FRACTION

DEMO_IMAGES = 1000
Layout = Literal["auto", "outer", "inner", "names", "none", "v1"]
NEAR_DUPLICATES = "near-duplicates"  # the value of `--group` that compares the pixels of images


@dataclass(frozen=True)
class DataConfig:
    """How a folder or a manifest is read: its splits, its classes, and the images that belong together."""

    layout: Layout = option(
        "auto",
        "Where the classes are: outermost or innermost folders, names (cat.0.jpg), or none. v1 reads and splits as "
        "versions before 0.2 did.",
    )
    classes: str = option("", "Folders that are the classes, wherever they lie: a,b,c.", metavar="NAMES")
    label_from: str = option(
        "", r"Labels from file names: a regular expression such as '(?P<label>.+)_\d+\.jpg'.", metavar="REGEX"
    )
    group: str = option(
        "",
        "Images in whose path this regular expression matches the same text never go to different splits.",
        metavar="REGEX",
    )
    path_format: str = option("", "The path of a manifest's row, from its columns: 'train/{id}.jpg'.", metavar="FORMAT")
    path_column: str = option("path", "The manifest's column of paths, relative to its folder.")
    label_column: str = option("label", "The manifest's column of labels.")
    split_column: str = option("split", "The manifest's column of splits, if it has one.")
    group_column: str = option("group", "The manifest's column of groups, if it has one.")
    encoding: str = option("utf-8", "The encoding of a manifest.")
    allow_outside: bool = option(False, "A manifest may name files outside its folder.")
    resplit: bool = option(False, "Split anew, whatever splits the folder or manifest gives.")

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise OptionError(f"--layout must be one of {', '.join(get_args(Layout))}. Received: {self.layout}")
        pattern = _compiled("--label-from", self.label_from)
        if pattern and "label" not in pattern.groupindex:
            raise OptionError(f"--label-from must have a group (?P<label>...). Received: {self.label_from}")
        if self.group != NEAR_DUPLICATES:
            _compiled("--group", self.group)

    @property
    def class_list(self) -> list[str]:
        """The names in `classes`."""
        return [name.strip() for name in self.classes.split(",") if name.strip()]


def _compiled(option: str, text: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise OptionError(f"{option}: not a regular expression ({error}). Received: {text}") from error


@dataclass(frozen=True)
class PrepareConfig:
    """How images are split and put into the data folder."""

    val: float = option(VAL_FRACTION, "Fraction of the images that goes to val; 0 makes no val split.")
    test: float = option(TEST_FRACTION, "Fraction of the images that goes to test; 0 makes no test split.")
    move: bool = option(False, "Move the files of a folder instead of linking them.")
    copy: bool = option(False, "Copy files, so that DATA shares no bytes with the source.")
    zip_encoding: str | None = option(None, "Encoding of names in a zip that are not UTF-8; guessed by default.")
    max_pixels: int = option(MAX_PIXELS, "Images with more pixels are rejected.")
    drop_duplicates: bool = option(False, "Leave out copies of images, also those that were encoded or scaled anew.")

    def __post_init__(self) -> None:
        if self.move and self.copy:
            raise OptionError("--move and --copy: give one of them")
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            raise OptionError(
                f"--val and --test must be fractions that leave some to train. Received: {self.val} and {self.test}"
            )
