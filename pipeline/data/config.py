"""The settings that decide how DATA is read."""

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

from headstart.features.errors import OptionError
from headstart.features.options import option

Kind = Literal["list", "folder", "tars"]  # of DATA
Layout = Literal["auto", "outer", "inner", "names", "none", "v1"]
NEAR_DUPLICATES = "near-duplicates"  # the value of `--group` that groups near-duplicates
VAL_FRACTION = TEST_FRACTION = 0.1  # of the images without a split
_LABELS = "label"  # a list's column of labels, unless another is named
SIMILARITY = 0.3  # least cosine between the whitened features of two images that may be near-duplicates

_OF_FOLDERS = ("layout", "classes")
_OF_LISTS = ("path_format", "path_column", "label_column", "split_column", "group_column", "encoding", "allow_outside")
_FOREIGN = {"list": _OF_FOLDERS, "folder": _OF_LISTS, "tars": tuple(one for one in _OF_LISTS if one != "label_column")}
_DESCRIBED = {"list": "list of images", "folder": "folder or archive", "tars": "tar of samples"}


@dataclass(frozen=True)
class DataConfig:
    """How a folder, a manifest or tars are read: their splits, their classes, and the images that belong together.

    Raises OptionError if a value is invalid, or if two settings contradict each other.
    """

    layout: Layout = option(
        "auto",
        "Where the classes are: outermost or innermost folders, names (cat.0.jpg), or none. v1 reads and splits as "
        "versions before 0.2 did.",
    )
    classes: str = option("", "Names of the class folders, at any depth: a,b,c.", metavar="NAMES")
    label_from: str = option(
        "", r"Labels from file names: a regular expression such as '(?P<label>.+)_\d+\.jpg'.", metavar="REGEX"
    )
    group: str = option(
        "",
        "Keep images in one split if this regular expression matches the same text in their paths; for prepare also "
        "near-duplicates.",
        metavar="REGEX",
    )
    path_format: str = option("", "Form of a list's paths, columns in braces: 'train/{id}.jpg'.", metavar="FORMAT")
    path_column: str = option("path", "A list's column of paths, relative to its folder.")
    label_column: str = option("", "A list's column of labels, by default `label`; in tars the field of key.json.")
    split_column: str = option("split", "A list's column of splits, if it has one.")
    group_column: str = option("group", "A list's column of groups, if it has one.")
    encoding: str = option("utf-8", "The encoding of a list.")
    allow_outside: bool = option(False, "A list may name files outside its folder.")
    resplit: bool = option(False, "Ignore the splits of the folder or list, and split anew.")

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise OptionError(f"--layout must be one of {', '.join(get_args(Layout))}. Received: {self.layout}")
        pattern = _compiled("--label-from", self.label_from)
        if pattern and "label" not in pattern.groupindex:
            raise OptionError(f"--label-from must have a group (?P<label>...). Received: {self.label_from}")
        if pattern and (self.classes or self.layout != "auto"):
            raise OptionError("--label-from: labels are in file names; leave --classes and --layout out")
        if self.group != NEAR_DUPLICATES:
            _compiled("--group", self.group)
        if self.layout == "v1" and (self.classes or self.group or self.resplit):
            raise OptionError(
                "--layout v1: versions before 0.2 knew no --classes, --group and --resplit; leave them out"
            )

    def fitted(self, kind: Kind) -> "DataConfig":
        """Return a copy of these settings. A setting without meaning for this `kind` of data gets its default value."""
        default = DataConfig()
        return replace(self, **{name: getattr(default, name) for name in self._unfit(kind)})

    def of_every_image(self, kind: Kind) -> "DataConfig":
        """Return a copy of these settings with the layout `none` and without groups, so that no image needs a label."""
        return replace(self.fitted(kind), layout="none", classes="", label_from="", group="")

    def require_fit(self, kind: Kind) -> None:
        """Raise an OptionError if the user changed a setting that means nothing for this `kind` of data."""
        if unfit := self._unfit(kind):
            option = unfit[0].replace("_", "-")
            raise OptionError(f"--{option}: means nothing for a {_DESCRIBED[kind]}; leave it out")

    def _unfit(self, kind: Kind) -> list[str]:
        """Return the names of the settings that the user changed although they mean nothing for this `kind` of data."""
        default = DataConfig()
        given = [name for name in _FOREIGN[kind] if getattr(self, name) != getattr(default, name)]
        harmless = {("layout", "none"), ("label_column", _LABELS)}  # the latter stands in runs of earlier versions
        return [name for name in given if (name, getattr(self, name)) not in harmless]

    @property
    def column_of_labels(self) -> str:
        """Return the name of the column in which a list of images has its labels."""
        return self.label_column or _LABELS

    @property
    def class_list(self) -> list[str]:
        """Return a list of the folder names in `self.classes`. In `self.classes`, the names are separated by commas."""
        return [name.strip() for name in self.classes.split(",") if name.strip()]


def _compiled(option: str, text: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except (re.error, OverflowError, RecursionError) as error:
        raise OptionError(f"{option}: not a regular expression ({error}). Received: {text}") from error
