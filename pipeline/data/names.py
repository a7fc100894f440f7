"""Find splits, masks, parts of a set, and labels in the names of folders and files."""

import os
import re
import signal
import threading
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from headstart.features.errors import DataError, OptionError
from headstart.features.images.formats import IMAGE_SUFFIXES
from headstart.pipeline.data.splits import SPLITS

_SHOWN = 4  # names in a message
_ODD = 0.05  # a regular expression may miss this fraction of the images
_END = r"[-_ ]?(?:set|data|dataset|images|imgs|split|folder)?s?[-_ ]?\d*"
_SPLITS = {
    "train": re.compile(rf"(?:train|training|trn){_END}"),
    "val": re.compile(rf"(?:val|valid|validation|dev|development){_END}"),
    "test": re.compile(rf"(?:test|testing|tst|eval|evaluation|hold[-_ ]?out){_END}"),
}
_MASKS = re.compile(
    r"annot\w*|\w*masks?|\w*segment\w*|\w*trimaps?|labels?|label_?im\w*|gt|\w*ground[-_ ]?truths?|bound\w*|depth\w*",
    re.I,
)
_OF_MASK = re.compile(r"[-_ .]?(?:masks?|seg\w*|gt|ground[-_ ]?truths?|labels?|label_?ids?|annot\w*|trimaps?)$", re.I)
_MATCH_SECONDS = 1.0  # of processor time
_WORDS = re.compile(r"[^\W\d_]+")
_JOINTS = re.compile(r"(?<=[a-z])(?=[A-Z])")  # trainA
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
    return name[name.rfind(".") :].lower() in IMAGE_SUFFIXES


def split_named(name: str) -> str | None:
    """Return the split that `name` stands for, such as `val` for `Validation`. Return None if it stands for no split.

    `name` is the name of a folder, or a field of a manifest.
    """
    plain = name.strip().lower()
    return next((split for split in SPLITS if _SPLITS[split].fullmatch(plain)), None)


def splits_named(names: Collection[str]) -> dict[str, str]:
    """Map the name of each split folder to its split. `names` are the names of all folders in one folder.

    If no folder has the name of a split, the beginning and the end that all `names` share are ignored. So `seg_train`
    and `seg_test` are read as train and test.
    """
    found = {name: split for name in names if (split := split_named(name))}
    if found or len(names) < 2:
        return found
    begins, ends = _shared(names), _shared([name[::-1] for name in names])
    cores = {name: name[begins : len(name) - ends] for name in names}
    return {name: split for name, core in cores.items() if begins + ends and (split := split_named(core))}


def _shared(names: Collection[str]) -> int:
    """Return the length of the longest common beginning of `names` that ends with `-`, `_`, `.` or a space.

    If there is no such beginning, return 0.
    """
    lower = ["".join(char.lower()[0] for char in name) for name in names]  # `lower` makes two characters of some
    shared = os.path.commonprefix(lower)  # noqa: RUF071 of characters, not of folders
    return max(shared.rfind(mark) for mark in "-_ .") + 1


def splits_in_words(names: Collection[str]) -> dict[str, str]:
    """Find the names that contain a split as one of their words. Map each of these names to its split.

    For example, `train_v2` and `trainA` are mapped to `train`.
    """
    words = {name: _WORDS.findall(_JOINTS.sub("_", name)) for name in names}
    found = {name: next(filter(None, map(split_named, parts)), None) for name, parts in words.items()}
    return {name: split for name, split in found.items() if split}


def is_mask_folder(name: str) -> bool:
    """Whether a folder of this name may hold masks or annotations of the images in the folders beside it."""
    return bool(_MASKS.fullmatch(name))


def stem_of_image(stem: str) -> str:
    """Return the name of the image that belongs to a mask. For the mask `1_mask`, this is `1`.

    `stem` is the file name of the mask, without suffix. The result has no suffix, either.
    """
    return _OF_MASK.sub("", stem)


def are_parts(names: Collection[str]) -> bool:
    """Whether folders with these `names` look like parts of one set, such as `part_1` and `part_2`."""
    return len(names) > 1 and all(_PARTS.fullmatch(name) for name in names)


def numbered_labels(names: Sequence[str]) -> list[str | None] | None:
    """Return the labels in names such as `cat.0.jpg`. A name that is not of this form has the label None.

    If fewer than 95 % of the names are of the form `cat.0.jpg`, return None in place of the list.
    """
    matches = [_NUMBERED.match(name) for name in names]
    if not names or sum(match is not None for match in matches) < 0.95 * len(names):
        return None
    return [match["label"] if match else None for match in matches]


def labels_matched(paths: Sequence[str], pattern: str) -> list[str | None]:
    """Return the label in each of `paths`: the text that the group `label` of the regular expression `pattern` matches.

    A pattern with a slash must match the whole path. A pattern without a slash must match the whole file name. The
    label is None if the pattern does not match, or if the label is empty. Raises OptionError if the pattern takes
    seconds on a path.
    """
    compiled, whole = re.compile(pattern), "/" in pattern
    names = paths if whole else [os.path.basename(path) for path in paths]

    def label_in(name: str) -> str | None:
        match = compiled.fullmatch(name)
        return as_label(match["label"]) if match and match["label"] else None

    return matched("--label-from", compiled, label_in, names)


def with_label(path: str, label: str, pattern: str = "") -> str | None:
    """Return `path` with its label replaced by `label`. If `path` holds no label, return None.

    The regular expression `pattern` finds the old label; see `labels_matched`. Without `pattern`, the file name must be
    of the form `cat.0.jpg`.
    """
    start = 0 if "/" in pattern else len(path) - len(os.path.basename(path))
    match = (re.compile(pattern) if pattern else _NUMBERED).fullmatch(path[start:])
    if not match or match["label"] is None:
        return None
    begin, end = match.span("label")
    return path[: start + begin] + label + path[start + end :]


def matched(
    option: str, pattern: re.Pattern[str], match: Callable[[str], str | None], names: Sequence[str]
) -> list[str | None]:
    """Return the result of `match` for each of `names`. `match` returns the text that `pattern` finds in a name.

    Raises OptionError if `match` takes more than about a second for a name. Nested repetitions, such as `(a+)+`, can
    take so long. The message names `option`. On Windows, there is no time limit. On other systems, there is a time
    limit only in the main thread.
    """
    found: list[str | None] = []
    try:
        with _ticks(found):
            for name in names:
                found.append(match(name))  # noqa: PERF401 a tick looks at its length
    except _StuckError as error:
        raise OptionError(
            f"{option} {pattern.pattern}: takes too long on {names[len(found)]!r}; write it without repetitions inside "
            "of repetitions, such as (a+)+"
        ) from error
    return found


class _StuckError(Exception):
    """Raised if a regular expression takes too long on a name; see `_ticks`."""


@contextmanager
def _ticks(found: Sequence[Any]) -> Iterator[None]:
    """While the context is open, raise a _StuckError if `found` stops growing for a second or two.

    On Windows, does nothing. On other systems, does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    seen = -1

    def tick(*_: Any) -> None:  # Python's regular expressions look for signals while they match
        nonlocal seen
        if len(found) == seen:
            raise _StuckError
        seen = len(found)

    before = signal.signal(signal.SIGVTALRM, tick)
    signal.setitimer(signal.ITIMER_VIRTUAL, _MATCH_SECONDS, _MATCH_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        # By default, this signal ends the process. So a late one is ignored.
        signal.signal(signal.SIGVTALRM, signal.SIG_IGN if before == signal.SIG_DFL else before)


def told_missed(where: str, pattern: str, missed: Sequence[str], total: int) -> list[str]:
    """Return a list with a line about the images without a label. If all images have labels, return [].

    `missed` holds the names in which the regular expression `pattern` finds no label. `total` is the number of all
    images. `where` names the data in error messages. Raises DataError if more than 5 % of the images have no label.
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
    """Return the labels that names such as `Abyssinian_100.jpg` may hold: the text before the number.

    Return an empty set in these cases:

    - A name has no label before a number.
    - All labels are equal.
    - There are fewer than two names per label on average.
    """
    matches = [_PERHAPS.match(name) for name in names]
    labels = {match["label"] for match in matches if match}
    return labels if all(matches) and 2 <= len(labels) <= len(names) / 2 else set()


def says_nothing(name: str) -> bool:
    """Whether a folder's name says nothing about the images in the folder. Examples are `images` and `train`."""
    return bool(_NOTHING.fullmatch(name) or splits_in_words([name]))


def as_label(name: str) -> str:
    """Return the class name for a folder called `name`: the same text, in Unicode's normal form NFC."""
    return unicodedata.normalize("NFC", name)


def is_text(name: str) -> bool:
    """Return whether `name` can be written to a file and read again unchanged.

    The name of a file may have bytes that are not UTF-8. A lone surrogate that stands for such a byte is allowed.
    """
    try:
        return name.encode(errors="surrogateescape").decode(errors="surrogateescape") == name
    except UnicodeEncodeError:
        return False


def told_cases(names: Sequence[str]) -> list[str]:
    """Return a line for each set of classes whose names differ only in upper and lower case."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[name.casefold()].append(name)
    return [
        f"classes {listed(same)} differ in case only; rename the folders if they are one class"
        for same in alike.values()
        if len(same) > 1
    ]


def listed(names: Sequence[str]) -> str:
    """Return the first four of `names` as text, such as `a, b, c, d and 7 more`."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
