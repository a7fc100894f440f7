"""Recognise splits, masks, parts of a data set, and labels in the names of folders and files."""

import os
import re
import unicodedata
from collections.abc import Collection, Sequence

from headstart.features.errors import DataError
from headstart.features.images.formats import IMAGE_SUFFIXES
from headstart.pipeline.data.splits import SPLITS

_ODD = 0.05  # a regular expression may miss this fraction of the images
_END = r"[-_ ]?(?:set|data|dataset|images|imgs|split|folder)?s?[-_ ]?\d*"
_SPLITS = {
    "train": re.compile(rf"(?:train|training|trn){_END}"),
    "val": re.compile(rf"(?:val|valid|validation|dev|development){_END}"),
    "test": re.compile(rf"(?:test|testing|tst|eval|evaluation|hold[-_ ]?out){_END}"),
}
_MASKS = re.compile(
    r"annot\w*|\w*masks?|\w*segment\w*|\w*trimaps?|labels?|label_?im\w*|gt|ground[-_ ]?truths?|bound\w*|depth\w*", re.I
)
_PARTS = re.compile(
    r"(?:.*[-_ ])?(?:part|batch|chunk|shard|fold|folder|set|disk|disc|session|images|imgs)[-_ ]?\d+", re.I
)
_NOTHING = re.compile(
    r"(?:jpeg|all|raw)?[-_ ]?(?:images?|imgs?|jpe?gs?|pngs?|photos?|pictures?|pics?|data(?:set)?|files?)", re.I
)
_NUMBERED = re.compile(r"(?P<label>[^.]+)\.\d+\.\w+$")  # Kaggle's names: cat.0.jpg
_PERHAPS = re.compile(r"(?P<label>.*?[^\d\W])[-_ ]*\d+\.\w+$")  # Abyssinian_100.jpg, and IMG_0001.jpg


def has_image_suffix(name: str) -> bool:
    """Whether a file's name has the suffix of an image format."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def split_named(name: str) -> str | None:
    """Return the split that `name` stands for, such as `val` for `Validation`, or None if it stands for no split.

    `name` is the name of a folder, or the value in a manifest's column of splits.
    """
    plain = name.strip().lower()
    return next((split for split in SPLITS if _SPLITS[split].fullmatch(plain)), None)


def splits_named(names: Collection[str]) -> dict[str, str]:
    """Map each name that stands for a split to this split. `names` are the names of sibling folders.

    If no whole name stands for a split, a beginning that all names share is removed first. So `seg_train` and
    `seg_test` stand for train and test.
    """
    found = {name: split for name in names if (split := split_named(name))}
    if found or len(names) < 2:
        return found
    shared = os.path.commonprefix([name.lower() for name in names])  # noqa: RUF071 of characters, not of folders
    begins = max(shared.rfind(mark) for mark in "-_ ") + 1
    return {name: split for name in names if begins and (split := split_named(name[begins:]))}


def is_mask_folder(name: str) -> bool:
    """Whether a folder's name suggests masks or annotations of the images beside it, not images of a class."""
    return bool(_MASKS.fullmatch(name))


def are_parts(names: Collection[str]) -> bool:
    """Whether folders with these `names` seem to be parts of one data set, such as `part_1` and `part_2`."""
    return len(names) > 1 and all(_PARTS.fullmatch(name) for name in names)


def numbered_labels(names: Sequence[str]) -> list[str | None] | None:
    """Return the label in each file name of the form `cat.0.jpg`, and None for each name of another form.

    If fewer than 95 % of `names` have this form, return None instead of a list.
    """
    matches = [_NUMBERED.match(name) for name in names]
    if not names or sum(match is not None for match in matches) < 0.95 * len(names):
        return None
    return [match["label"] if match else None for match in matches]


def labels_matched(paths: Sequence[str], pattern: str) -> list[str | None]:
    """Return the label in each path: the text that the group `label` of the regular expression `pattern` matches.

    `pattern` must match the whole file name or, if it contains a slash, the whole path. Without a match, or with an
    empty match of the group, the label is None.
    """
    compiled, whole = re.compile(pattern), "/" in pattern
    matches = [compiled.fullmatch(path if whole else os.path.basename(path)) for path in paths]
    return [as_label(match["label"]) if match and match["label"] else None for match in matches]


def told_missed(where: str, pattern: str, missed: Sequence[str], total: int) -> list[str]:
    """Return a line about images without a label; [] if there are none. Raises DataError if they exceed 5 % of `total`.

    `missed` has the paths of these images, which `pattern` does not match. `where` names the data set in messages.
    """
    if not missed:
        return []
    first = ", ".join(missed[:3])
    if len(missed) > _ODD * total:
        raise DataError(
            f"{where}: --label-from {pattern} finds no label in the names of {len(missed)} of {total} images, {first} "
            "among them"
        )
    return [f"{len(missed)} images without a label in their name are left out: {first}"]


def perhaps_labels(names: Sequence[str]) -> set[str]:
    """Return the labels that file names such as `Abyssinian_100.jpg` seem to hold.

    The set is empty unless all names have this form, with at least two labels and two names per label on average.
    """
    matches = [_PERHAPS.match(name) for name in names]
    labels = {match["label"] for match in matches if match}
    return labels if all(matches) and 2 <= len(labels) <= len(names) / 2 else set()


def says_nothing(name: str) -> bool:
    """Whether a folder's name, such as `images` or `train`, does not describe the content of the images in it."""
    return bool(_NOTHING.fullmatch(name)) or split_named(name) is not None


def as_label(name: str) -> str:
    """Convert a folder's name to a class name. Names that differ only in Unicode form become equal (NFC)."""
    return unicodedata.normalize("NFC", name)
