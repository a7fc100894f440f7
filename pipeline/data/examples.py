"""Scan a data folder into examples.

A data folder is `DATA/{train,val,test}/<class>/...`, as `headstart prepare` makes it, or `DATA/<class>/...`. Without
split folders, the scan assigns the splits by the same hash as `prepare`.
"""

import csv
import io
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headstart.features.errors import DataError
from headstart.features.files import write_atomically
from headstart.features.images.faults import MAX_PIXELS
from headstart.features.images.pixels import Pages
from headstart.features.images.scan import ImageFile, Reject, inspect_images
from headstart.features.images.scan_memory import ScanMemory
from headstart.pipeline.data.layouts import REJECTS, class_folders, count_strays
from headstart.pipeline.data.listing import walk
from headstart.pipeline.data.splits import split_of

_REJECT_FIELDS = ("path", "reason", "detail")


@dataclass(frozen=True, slots=True)
class Example:
    """An image, its label (an index into the class names) and its split."""

    image: ImageFile
    label: int
    split: str


@dataclass(frozen=True)
class Scan:
    """The examples of a data folder, and the files that can't be used."""

    examples: list[Example]
    class_names: list[str]
    rejects: list[Reject]
    ignored: int  # number of other files: clutter, files outside class folders, files that are no images


def scan(
    data: Path,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    memory: ScanMemory | None = None,
    pages: Pages = "first",
) -> Scan:
    """Read the digest and header of every image in `data`.

    Raises DataError if `data` is not a folder, or has no class folders or no images.

    Args:
        seed: decides the splits if `data` has no split folders.
        max_pixels: an image with more pixels is rejected as `too-large`.
        memory: digests and headers from the last scan of `data`. Unchanged files are not read again. The scan updates
            the memory.
        pages: which pages of a TIFF are examples. All of them are in one split.
    """
    folders = class_folders(data)
    class_names = sorted({folder.name for _, folder in folders})
    labels = {name: label for label, name in enumerate(class_names)}
    examples, rejects = [], []
    ignored = count_strays(data, [folder for _, folder in folders])
    found: list[tuple[str, int, str]] = []  # split, label and path
    for split, folder in folders:
        files, hidden = walk(folder)
        found += [(split, labels[folder.name], file) for file in files]
        ignored += hidden
    seen = inspect_images([file for _, _, file in found], max_pixels, memory.recall if memory else None, pages)
    for (split, label, _), images in zip(found, seen, strict=True):
        ignored += not images
        rejects += [image for image in images if isinstance(image, Reject)]
        usable = [image for image in images if isinstance(image, ImageFile)]
        # All pages of a file are in the split of its first one, as they may be much alike.
        examples += [Example(image, label, split or split_of(usable[0].digest, seed)) for image in usable]
    if not examples and not rejects:
        raise DataError(f"{data}: no images; expected {data}/<class>/*.jpg or {data}/train/<class>/*.jpg")
    if memory:
        memory.save([example.image for example in examples])
    return Scan(examples, class_names, rejects, ignored)


def scan_memory(store: Path, data: Path, forget: bool = False) -> ScanMemory:
    """Open the scan memory of `data` in the folder `store`. With `forget`, the memory starts empty."""
    return ScanMemory(store / "scans", data, forget)


def scan_all_sizes(store: Path, data: Path, seed: int = 0) -> Scan:
    """Scan all pages in `data` without a limit on pixels, as features may be of any page and any size."""
    return scan(data, seed, sys.maxsize, scan_memory(store, data), "all")


def reject_undecodable(scan: Scan, undecodable: Iterable[Reject]) -> Scan:
    """Move images that could not be decoded, and their copies, from the examples to the rejects."""
    by_path = {reject.path: reject for reject in undecodable}
    images = [example.image for example in scan.examples]
    by_digest = {image.digest: by_path[image.path] for image in images if image.path in by_path}
    more = [_reject_copy(by_digest[image.digest], image.path) for image in images if image.digest in by_digest]
    usable = [example for example in scan.examples if example.image.digest not in by_digest]
    return replace(scan, examples=usable, rejects=scan.rejects + more)


def _reject_copy(reject: Reject, path: str) -> Reject:
    """Make the reject for `path`, which is the file of `reject` itself or an equal file that was not decoded."""
    if path == reject.path or reject.reason not in ("vanished", "unreadable"):
        return replace(reject, path=path)
    return replace(reject, path=path, detail=f"equal to {reject.path}, which could not be read; repeat the command")


def require_trainable(examples: Sequence[Example], class_names: Sequence[str], data: Path) -> None:
    """Raise a DataError if there are fewer than two classes, or a class has no images in train or in val."""
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


def require_few_rejects(rejects: Sequence[Reject], found: int, max_rejects: float) -> None:
    """Raise a DataError that names a few `rejects` if they exceed the fraction `max_rejects` of the `found` files."""
    if len(rejects) > max_rejects * found:
        first = "; ".join([f"{one.path} ({one.reason})" for one in rejects[:3]] + ["..."] * (len(rejects) > 3))
        raise DataError(f"{len(rejects)} of {found} images can't be used, over --max-rejects {max_rejects}: {first}")


def write_rejects(folder: Path, rejects: Iterable[Reject], keep_other_than: Collection[str] | None = None) -> None:
    """Write `rejects.csv` (path, reason, detail) into `folder`.

    An earlier file is replaced. `keep_other_than` is a collection of paths: earlier rows are kept if their path is not
    in it. Without `keep_other_than`, no earlier row is kept.
    """
    path = folder / REJECTS
    old = path.read_bytes() if path.is_file() else b""
    rows: list[Sequence[str]] = [_REJECT_FIELDS]
    if keep_other_than is not None:
        lines = csv.reader(io.StringIO(old.decode(errors="surrogateescape"), newline=""))
        whole = [line for line in lines if len(line) == len(_REJECT_FIELDS)]
        rows += [line for line in whole[1:] if line[0] not in keep_other_than]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows + [(one.path, one.reason, one.detail) for one in rejects])
    data = text.getvalue().encode(errors="surrogateescape")
    if data != old:  # without a change nothing is written, so the disk may be read-only
        write_atomically(path, data)
