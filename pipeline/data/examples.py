"""Scanning a data folder into examples.

A data folder is `DATA/{train,val,test}/<class>/...` as `headstart prepare` makes it, or `DATA/<class>/...`, which is
split on the fly by the same hash.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headstart.features.errors import DataError
from headstart.features.files import write_atomically
from headstart.features.images.faults import MAX_PIXELS
from headstart.features.images.scan import ImageFile, Reject, inspect_images
from headstart.features.images.scan_memory import ScanMemory
from headstart.pipeline.data.splits import SPLITS, split_of

REJECTS = "rejects.csv"
_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclass(frozen=True, slots=True)
class Example:
    """An image, its label (an index into the class names) and its split."""

    image: ImageFile
    label: int
    split: str


@dataclass(frozen=True)
class Scan:
    """What lies in a data folder.

    Args:
        ignored: dotfiles, files outside class folders, and those that are no images by name and none by content.
    """

    examples: list[Example]
    class_names: list[str]
    rejects: list[Reject]
    ignored: int


def scan(data: Path, seed: int = 0, max_pixels: int = MAX_PIXELS, memory: ScanMemory | None = None) -> Scan:
    """Read the digest and header of every image in `data`.

    Args:
        seed: of the split, where `data` has no split folders.
        max_pixels: an image with more is rejected as `too-large`.
        memory: of an earlier scan of `data`; it is brought up to date.

    Raises:
        DataError: no such folder, no class folders or no images.
    """
    folders = _class_folders(data)
    class_names = sorted({folder.name for _, folder in folders})
    label = {name: number for number, name in enumerate(class_names)}
    examples, rejects = [], []
    ignored = _strays(data, [folder for _, folder in folders])
    found: list[tuple[str, int, str]] = []  # split, label and path
    for split, folder in folders:
        files, hidden = _walk(folder)
        found += [(split, label[folder.name], file) for file in files]
        ignored += hidden
    seen = inspect_images([file for _, _, file in found], max_pixels, memory.recall if memory else None)
    for (split, number, _), image in zip(found, seen, strict=True):
        if image is None:
            ignored += 1
        elif isinstance(image, Reject):
            rejects.append(image)
        else:
            examples.append(Example(image, number, split or split_of(image.digest, seed)))
    if not examples and not rejects:
        raise DataError(f"{data}: no images; expected {data}/<class>/*.jpg or {data}/train/<class>/*.jpg")
    if memory:
        memory.save(example.image for example in examples)
    return Scan(examples, class_names, rejects, ignored)


def without(scan: Scan, undecodable: Iterable[Reject]) -> Scan:
    """`scan` with images that turned out to be undecodable, wherever they lie, among its rejects."""
    by_path = {reject.path: reject for reject in undecodable}
    images = [example.image for example in scan.examples]
    by_digest = {image.digest: by_path[image.path] for image in images if image.path in by_path}
    more = [_reject_copy(by_digest[image.digest], image.path) for image in images if image.digest in by_digest]
    usable = [example for example in scan.examples if example.image.digest not in by_digest]
    return replace(scan, examples=usable, rejects=scan.rejects + more)


def _reject_copy(reject: Reject, path: str) -> Reject:
    """The reject of a file that equals one that was rejected, and so was not read itself."""
    if path == reject.path or reject.reason not in ("vanished", "unreadable"):
        return replace(reject, path=path)
    return replace(reject, path=path, detail=f"equal to {reject.path}, which could not be read; repeat the command")


def _strays(data: Path, class_folders: Sequence[Path]) -> int:
    """How many files of `data` are outside of its class folders."""
    known = {*class_folders, data / REJECTS, *(data / split for split in SPLITS)}
    parents = {data, *(folder.parent for folder in class_folders)}
    strays = [entry for parent in parents for entry in parent.iterdir() if entry not in known]
    return sum(sum(not path.is_dir() for path in stray.rglob("*")) if stray.is_dir() else 1 for stray in strays)


def check_folder(data: Path) -> None:
    """Make sure that `data` is a folder.

    Raises:
        DataError: it is not.
    """
    if not data.is_dir():
        raise DataError(f"{data}: no such folder" if not data.exists() else f"{data}: not a folder")


def _class_folders(data: Path) -> list[tuple[str, Path]]:
    """(split, class folder) of each class folder; the split is empty where `data` has no split folders."""
    check_folder(data)
    splits = [(name, data / name) for name in SPLITS if (data / name).is_dir()]
    parents = splits or [("", data)]
    folders = [(split, folder) for split, parent in parents for folder in _visible_folders(parent)]
    if not folders:
        parent = "/".join([str(data), *(["train"] if splits else [])])
        raise DataError(f"{data}: no class folders; expected {parent}/<class>/*.jpg")
    return folders


def _visible_folders(parent: Path) -> list[Path]:
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not is_clutter(entry.name))


def is_clutter(name: str) -> bool:
    """Whether a file or folder of that name is a dotfile, or something that file and archive managers leave behind."""
    return (name.startswith(".") and name != "..") or name.lower() in _CLUTTER


def files_below(folder: Path) -> list[Path]:
    """Every file below `folder` but dotfiles and what file managers leave behind, sorted."""
    return [Path(path) for path in _walk(folder)[0]]


def _walk(folder: Path) -> tuple[list[str], int]:
    """The paths that `files_below` gives, and how many files it leaves out.

    Links are followed, but no folder is entered twice, and none that `folder` lies in.
    """

    def fail(error: OSError) -> None:
        raise error

    files: list[str] = []
    hidden = 0
    top, entered = os.path.realpath(folder), set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        here = os.path.realpath(parent)
        if here in entered or top.startswith(here.rstrip(os.sep) + os.sep):
            folders.clear()
            continue
        entered.add(here)
        folders.sort()
        in_clutter = any(map(is_clutter, parent[len(str(folder)) :].split(os.sep)))
        visible = [] if in_clutter else [name for name in names if not is_clutter(name)]
        hidden += len(names) - len(visible)
        files += [os.path.join(parent, name) for name in visible]
    return sorted(files), hidden


def check_trainable(examples: Sequence[Example], class_names: Sequence[str], data: Path) -> None:
    """Make sure that a classifier can be trained on `examples`.

    Raises:
        DataError: fewer than two classes, or a class without training or validation images.
    """
    if len(class_names) < 2:
        raise DataError(f"{data}: one class only, {class_names[0]!r}; expected at least two class folders")
    counts = Counter((example.split, example.label) for example in examples)
    for split in ("train", "val"):
        absent = [name for label, name in enumerate(class_names) if not counts[split, label]]
        if len(absent) == len(class_names):
            raise DataError(f"{data}: the {split} split has no usable images; run `headstart prepare`, or add some")
        if absent:
            raise DataError(
                f"{data}: the {split} split has no usable images of class {', '.join(map(repr, absent))}; "
                "every class needs some in train and val: add images, or split them by `headstart prepare --val 0.2`"
            )


def write_rejects(folder: Path, rejects: Iterable[Reject]) -> None:
    """Write `rejects.csv` (path, reason, detail) into `folder`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "reason", "detail"))
    writer.writerows((reject.path, reject.reason, reject.detail) for reject in rejects)
    path, data = folder / REJECTS, text.getvalue().encode(errors="surrogateescape")
    if not path.is_file() or path.read_bytes() != data:  # a store that can only be read is as good as any
        write_atomically(path, data)


def check_rejects(rejects: Sequence[Reject], found: int, max_rejects: float) -> None:
    """Make sure that no more than the fraction `max_rejects` of the `found` images are rejected.

    Raises:
        DataError: there are more; it names the first few.
    """
    if len(rejects) > max_rejects * found:
        first = "; ".join(f"{reject.path} ({reject.reason})" for reject in rejects[:3])
        raise DataError(
            f"{len(rejects)} of {found} images can't be used, over --max-rejects {max_rejects}: {first}"
            + ("; ..." if len(rejects) > 3 else "")
        )
