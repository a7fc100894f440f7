"""Find the tars that DATA names: one tar, a pattern such as `train-{0000..0099}.tar`, or a folder of tars."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.features.errors import DataError
from headstart.features.images.files.paths import is_url
from headstart.features.images.formats import PREFIX_BYTES, is_image
from headstart.pipeline.data.config import Kind
from headstart.pipeline.data.listing import list_files, require_readable, some_file
from headstart.pipeline.data.names import has_image_suffix, split_named, splits_in_words
from headstart.pipeline.data.splits import SPLITS

SUFFIX = ".tar"
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_MOST = 1_000_000  # tars in a pattern


@dataclass(frozen=True)
class Tars:
    """The tars that DATA names, in order. If DATA is a folder, `ignored` counts its other files by kind."""

    paths: list[str]
    ignored: Counter[str]


def kind_of(data: Path) -> Kind:
    """Return the kind of `data`: `folder`, `tars`, or `list` for a manifest.

    A folder is of the kind `tars` if it holds tars and no images.
    """
    if data.is_dir():
        return "folder" if some_file(data, has_image_suffix) or not _holds_tars_alone(data) else "tars"
    return "tars" if data.name.endswith(SUFFIX) else "list"


def is_there(data: Path) -> bool:
    """Return whether `data` is a path that exists, or a pattern whose first tar exists.

    Raises DataError for a pattern with a range that runs backwards, such as `{5..2}`.
    """
    return data.exists() or (_is_pattern(data) and os.path.exists(next(_tars_in(data))))


def tars_of(data: Path) -> Tars:
    """Return the tars of `data`. The kind of `data` must be `tars`; see `kind_of`.

    Raises DataError in these cases:

    - A tar of a pattern is missing, or a pattern names more than a million tars.
    - A range in a pattern runs backwards, such as `{5..2}`.
    - A folder in `data` can't be read.
    - A tar is compressed, or its suffix is not in small letters.
    - A tar lies in a folder whose name ends in `.tar`.
    """
    ignored = Counter[str]()
    if data.is_dir():
        listing = list_files(data)
        require_readable(data, listing)
        tars = [name for name in listing.files if is_tar(name)]
        ignored = listing.ignored + Counter({"beside tars": len(listing.files) - len(tars)})
        found = [os.path.join(data, name) for name in tars]
    else:
        found = [str(data)] if data.exists() else _of_pattern(data)
    for tar in found:
        require_plain(tar)
        if f"{SUFFIX}/" in tar:
            raise DataError(f"{tar}: lies in a folder that is called like a tar; rename the folder")
    return Tars(found, ignored)


def is_tar(name: str) -> bool:
    """Return whether `name` is the name of a tar. The tar may be compressed, and the suffix may be in capitals."""
    return name.lower().endswith((SUFFIX, *_PACKED))


def require_plain(tar: str) -> None:
    """Raise a DataError if `tar`, the path of a tar, does not end in `.tar`."""
    if tar.endswith(SUFFIX):
        return
    if tar.lower().endswith(SUFFIX):
        raise DataError(f"{tar}: must end in {SUFFIX}, in small letters; rename it")
    raise DataError(f"{tar}: a compressed tar; decompress it, or `headstart prepare` it into a folder")


def told_tars(data: Path, names: Iterable[str]) -> list[str]:
    """Return a list with a line that counts the tars in `data`, a folder of images. If there are no tars, return [].

    The line says that tars beside images are not read. `names` are the files of the folder.
    """
    tars = [name for name in names if is_tar(name)]
    if not tars:
        return []
    return [f"{data}: tars beside images are not read; there are {len(tars)}, {tars[0]} the first"]


def split_of_each(tars: Sequence[str], data: Path) -> tuple[list[str], list[str]]:
    """Return two lists: the split of each tar, and at most one line that says which splits were found.

    The split of a tar is found in its name, or in the name of a folder around it. If no tar has a split, or if all tars
    are of train, all splits are "". Raises DataError if only some tars have a split.
    """
    root = _root_of(data)
    splits = [_split_in(tar.removeprefix(root)) for tar in tars]
    named = {split for split in splits if split}
    if named and "" in splits:
        raise DataError(
            f"{data}: {tars[splits.index('')]} names no split, and others do ({', '.join(sorted(named))}); rename it, "
            "or --resplit"
        )
    if named == {"train"}:
        return [""] * len(tars), [f"{data}: all tars are of train, so their images count as not split yet"]
    shown = [f"{splits.count(split)} of {split}" for split in SPLITS if split in named]
    return splits, [f"{data}: tars by their names: {', '.join(shown)}"] if shown else []


def _root_of(data: Path) -> str:
    """Return the folder above all tars of `data`. Splits are looked for only below this folder."""
    if data.is_dir():
        return os.path.join(data, "")
    fixed = str(data).partition("{")[0] if not data.exists() else str(data)
    return fixed[: fixed.rfind("/") + 1]


def _split_in(path: str) -> str:
    for part in reversed(path.removesuffix(SUFFIX).split("/")):
        if split := split_named(part) or splits_in_words([part]).get(part):
            return split
    return ""


def _holds_tars_alone(folder: Path) -> bool:
    """Return whether `folder` holds a tar, but no file that begins like an image."""
    if not some_file(folder, is_tar):
        return False
    files = [name for name in list_files(folder).files if not is_tar(name)]
    return not any(_begins_image(os.path.join(folder, name)) for name in files)


def _begins_image(path: str) -> bool:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would never end
            return False
        with open(path, "rb") as file:
            return is_image("", file.read(PREFIX_BYTES))
    except OSError:
        return False


def _is_pattern(data: Path) -> bool:
    return _BRACES.search(str(data)) is not None and not is_url(str(data))


def _of_pattern(data: Path) -> list[str]:
    found = []
    for tar in _tars_in(data):
        if not os.path.isfile(tar):
            raise DataError(f"{data}: there is no {tar}")
        found.append(tar)
        if len(found) > _MOST:
            raise DataError(f"{data}: names more than {_MOST} tars")
    return found


def _tars_in(data: Path) -> Iterator[str]:
    """Yield the tars that match the pattern `data`. Raises DataError if a range runs backwards, such as `{5..2}`."""
    for braces in _BRACES.finditer(str(data)):
        between = _RANGE.fullmatch(braces[1])
        if between and int(between[1]) > int(between[2]):
            raise DataError(f"{data}: {braces[0]} runs backwards; write the smaller number first")
    return _expanded(str(data))


def _expanded(text: str) -> Iterator[str]:
    """Yield the texts that match a pattern: `{0..2}` matches numbers, and `{a,b}` matches words.

    The last braces of the pattern change fastest.
    """
    braces = _BRACES.search(text)
    if braces is None:
        yield text
        return
    between = _RANGE.fullmatch(braces[1])
    if between:
        first, last = between.groups()
        words = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    else:
        words = (word for word in braces[1].split(","))
    for word in words:
        for rest in _expanded(text[braces.end() :]):
            yield text[: braces.start()] + word + rest
