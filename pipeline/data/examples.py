"""Scan a data folder or manifest into examples. An image without a split gets one by a hash, as in `prepare`."""

import csv
import io
import itertools
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headstart.features.errors import DataError, OptionError
from headstart.features.files import write_atomically
from headstart.features.images.faults import MAX_PIXELS, NO_IMAGE
from headstart.features.images.files.paths import is_url
from headstart.features.images.files.urls import require_access
from headstart.features.images.pixels import Pages
from headstart.features.images.scan import ImageFile, Reject, inspect_images
from headstart.features.images.scan_memory import ScanMemory
from headstart.features.terminal import console
from headstart.pipeline.data.clutter import told
from headstart.pipeline.data.config import NEAR_DUPLICATES, DataConfig
from headstart.pipeline.data.layouts_v1 import REJECTS
from headstart.pipeline.data.reading import Files, read_data
from headstart.pipeline.data.splits import FRACTIONS, Item, complete, split_of, takes_val_from_train
from headstart.pipeline.data.tars.shards import kind_of
from headstart.pipeline.spreadsheets import csv_line, original_text

_REJECT_FIELDS = ("path", "reason", "detail")


@dataclass(frozen=True, slots=True)
class Example:
    """An image with its label and split.

    Images of one `group` get the same split when splits are drawn. In a cross-validation, they are in one fold.
    """

    image: ImageFile
    label: int  # an index into the class names; -1 without labels
    split: str
    group: str | None = None

    @property
    def together(self) -> str:
        """Return the group or, without one, the digest. Examples with equal values get into one fold."""
        return self.group or self.image.digest


@dataclass(frozen=True)
class Scan:
    """The examples of a data folder or manifest, and the files that can't be used."""

    examples: list[Example]
    class_names: list[str]  # empty if the images have no labels
    rejects: list[Reject]
    ignored: int  # number of other files: clutter, files outside class folders, files that are no images
    ignored_kinds: dict[str, int]  # `ignored` by kind
    reading: list[str]  # lines that say how the data were read
    has_splits: bool  # whether the data name the split of an image; else all splits are drawn


def scan(
    data: Path,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    memory: ScanMemory | None = None,
    pages: Pages = "first",
    config: DataConfig = DataConfig(),
    labelled: bool = True,
) -> Scan:
    """Make an example of every image in `data`, a folder or manifest, from its digest and header.

    An image that can't be used becomes a reject. Raises DataError if there are no images, and the errors of
    `read_data` and, for URLs, of `require_access`.

    Args:
        seed: decides the splits of the images that have no split in `data`.
        max_pixels: an image with more pixels is rejected as `too-large`.
        memory: digests and headers from the last scan of `data`. Unchanged files are not read again. The scan updates
            the memory.
        pages: which pages of a TIFF are examples. The pages of one file form a group.
        config: how `data` is read.
        labelled: whether to raise DataError if the images have no labels.
    """
    if config.group == NEAR_DUPLICATES:
        raise OptionError(f"--group {NEAR_DUPLICATES}: is for `headstart prepare`, which compares the images")
    files = read_data(data, config, labelled)
    require_access(files.paths)
    seen = inspect_images(files.paths, max_pixels, memory.recall if memory else None, pages)
    images, items, rejects, ignored = _sorted(files, seen, kind_of(data) == "list")
    if not images and not rejects:
        raise DataError(f"{data}: no images; expected {data}/<class>/*.jpg or {data}/train/<class>/*.jpg")
    if memory:
        memory.save(images)
    splits, how = _splits(items, seed, config)
    examples = [
        Example(image, item.label, split, item.group) for image, item, split in zip(images, items, splits, strict=True)
    ]
    lines, given = [*files.reading.lines, *how], any(item.split for item in items)
    return Scan(examples, files.reading.class_names, rejects, ignored.total(), dict(+ignored), lines, given)


def _sorted(
    files: Files, seen: Sequence[Sequence[ImageFile | Reject]], is_list: bool
) -> tuple[list[ImageFile], list[Item], list[Reject], Counter[str]]:
    """Return the images of `files`, an item for each, the rejects, and the number of ignored files by kind.

    `seen` has the images and rejects of each file. If `is_list`, the files are rows of a manifest. Then a file that is
    no image is a reject.
    """
    reading = files.reading
    labels = {name: label for label, name in enumerate(reading.class_names)}
    images, items, rejects, ignored = list[ImageFile](), list[Item](), list(files.rejects), files.ignored.copy()
    groups = reading.groups or itertools.repeat(None)
    rows = zip(files.paths, seen, reading.splits, reading.labels, groups, strict=False)
    for path, found, split, label, group in rows:
        if not found and is_list:
            rejects.append(_listed_in_vain(path))
        ignored["no image"] += not found and not is_list
        number = -1 if label is None else labels[label]
        together = group or (path if len(found) > 1 else None)
        for image in found:
            if isinstance(image, Reject):
                rejects.append(image)
            else:
                images.append(image)
                items.append(Item(image.digest, number, together, split, path=path))
    return images, items, rejects, ignored


def _listed_in_vain(path: str) -> Reject:
    """Return the reject for a file that a manifest names. The file at `path` is missing, or is no image."""
    if is_url(path) or os.path.lexists(path):
        return Reject(path, NO_IMAGE.reason, NO_IMAGE.detail)
    return Reject(path, "vanished", "no such file")


def _splits(items: list[Item], seed: int, config: DataConfig) -> tuple[list[str], list[str]]:
    """Return the split of each item, and lines that describe how splits were drawn; see `complete`."""
    if config.layout == "v1":
        return [item.split or split_of(item.digest, seed) for item in items], []
    given = {item.split for item in items} - {""}
    if takes_val_from_train(given, FRACTIONS):
        items = [item._replace(split="", of_train=True) if item.split == "train" else item for item in items]
    return complete(items, given, seed, FRACTIONS)


def tell_reading(scanned: Scan) -> None:
    """Print how the data were read, and the number of ignored files by kind."""
    for line in scanned.reading:
        console.print(line)
    if scanned.ignored:
        console.print(f"{scanned.ignored} files ignored: {told(scanned.ignored_kinds)}")


def scan_memory(store: Path, data: Path, forget: bool = False) -> ScanMemory:
    """Open the scan memory of `data` in the folder `store`. With `forget`, the memory starts empty."""
    return ScanMemory(store / "scans", data, forget)


def scan_all_sizes(store: Path, data: Path, seed: int = 0, config: DataConfig = DataConfig()) -> Scan:
    """Scan all pages of all images in `data`, whatever their labels and number of pixels.

    A store may hold features of any page, and of images of any size. Raises the same errors as `scan`.
    """
    return scan(data, seed, sys.maxsize, scan_memory(store, data), "all", config, labelled=False)


def reject_undecodable(scan: Scan, undecodable: Iterable[Reject]) -> Scan:
    """Return a scan in which the images in `undecodable`, and their copies, are rejects instead of examples."""
    by_path = {reject.path: reject for reject in undecodable}
    images = [example.image for example in scan.examples]
    by_digest = {image.digest: by_path[image.path] for image in images if image.path in by_path}
    more = [_reject_copy(by_digest[image.digest], image.path) for image in images if image.digest in by_digest]
    usable = [example for example in scan.examples if example.image.digest not in by_digest]
    return replace(scan, examples=usable, rejects=scan.rejects + more)


def _reject_copy(reject: Reject, path: str) -> Reject:
    """Return the reject for the file at `path`: the file of `reject` itself, or a copy of this file.

    Copies were not decoded themselves. So if the file of `reject` could not be read, the reject of a copy says so.
    """
    if path == reject.path or reject.reason not in ("vanished", "unreadable"):
        return replace(reject, path=path)
    return replace(reject, path=path, detail=f"equal to {reject.path}, which could not be read; repeat the command")


def require_rejects_file(folder: Path) -> None:
    """Raise a DataError if `rejects.csv` can't be written into `folder`, because a folder has its name."""
    if (folder / REJECTS).is_dir():
        raise DataError(
            f"{folder / REJECTS}: a folder; the list of rejected images must be a file: remove or rename it"
        )


def write_rejects(folder: Path, rejects: Iterable[Reject], keep_other_than: Collection[str] | None = None) -> None:
    """Write `rejects.csv` (path, reason, detail) into `folder`.

    The new rows replace all rows of an existing file. If `keep_other_than` is given, an old row stays unless its path
    is in `keep_other_than`.
    """
    path = folder / REJECTS
    old = path.read_bytes() if path.is_file() else b""
    rows: list[Sequence[str]] = [_REJECT_FIELDS]
    if keep_other_than is not None:
        lines = csv.reader(io.StringIO(old.decode(errors="surrogateescape"), newline=""))
        whole = [list(map(original_text, line)) for line in lines if len(line) == len(_REJECT_FIELDS)]
        rows += [line for line in whole[1:] if line[0] not in keep_other_than]
    rows += [(one.path, one.reason, one.detail) for one in rejects]
    data = "".join(map(csv_line, rows)).encode(errors="surrogateescape")
    if data != old:  # without a change nothing is written, so the disk may be read-only
        write_atomically(path, data)
