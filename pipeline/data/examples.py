"""Scan a data folder, manifest or tars into examples. If images have no splits, splits are drawn by a hash."""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
from headstart.features.device import release_memory
from headstart.features.digests import HexDigests, numbered
from headstart.features.errors import DataError, OptionError
from headstart.features.images.columns.images import Images
from headstart.features.images.columns.inspected import Elsewhere, Inspected, Turn, inspect_images
from headstart.features.images.faults import MAX_PIXELS, NO_IMAGE
from headstart.features.images.files.paths import is_url
from headstart.features.images.files.urls import require_access
from headstart.features.images.pixels import Pages
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.images.scan_memory import ScanMemory
from headstart.features.terminal import console
from headstart.pipeline.data.clutter import told
from headstart.pipeline.data.columns.coded import Coded
from headstart.pipeline.data.columns.items import Items
from headstart.pipeline.data.config import NEAR_DUPLICATES, DataConfig
from headstart.pipeline.data.reading import Files, read_data
from headstart.pipeline.data.splits import FRACTIONS, complete, split_of, takes_val_from_train
from headstart.pipeline.data.tars.naming import kind_of


@dataclass(frozen=True, slots=True)
class Example:
    """An image with its label and split.

    Images with the same `group` get the same split when splits are drawn, and are in one fold of a cross-validation.
    """

    image: ImageFile
    label: int  # an index into the class names; -1 without labels
    split: str
    group: str | None = None


@dataclass(frozen=True, eq=False)
class Examples(Sequence[Example]):
    """A sequence of examples, in columns. Indexing with a slice, an array or a mask returns `Examples`."""

    images: Images
    labels: np.ndarray  # int32 [N]
    splits: Coded[str]
    groups: Coded[str | None]

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Examples":
        """Make columns of `examples`, in the same order. If `examples` are columns already, return them unchanged."""
        if isinstance(examples, Examples):
            return examples
        rows = list(examples)
        return cls(
            Images.of(one.image for one in rows),
            np.array([one.label for one in rows], np.int32),
            Coded.of(one.split for one in rows),
            Coded.of(one.group for one in rows),
        )

    @property
    def digests(self) -> np.ndarray:
        """The digest of each image: an array [N] of the dtype `DIGEST`."""
        return self.images.digests

    @cached_property
    def different(self) -> int:
        """The number of different images: copies count once."""
        return len(numbered(self.digests)[0])

    def of_split(self, split: str) -> "Examples":
        """Return the examples of `split`. The split `all` means every example."""
        return self if split == "all" else self[self.splits.is_(split)]

    def counts(self) -> Counter[tuple[int, str]]:
        """Return the number of examples for each pair (label, split)."""
        pairs, counts = np.unique(np.stack([self.labels, self.splits.codes]), axis=1, return_counts=True)
        rows = zip(*pairs.tolist(), counts.tolist(), strict=True)
        return Counter({(label, self.splits.values[code]): count for label, code, count in rows})

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice | np.ndarray) -> "Examples": ...
    def __getitem__(self, at: "int | slice | np.ndarray") -> "Example | Examples":
        if isinstance(at, (slice, np.ndarray)):
            return Examples(self.images[at], self.labels[at], self.splits[at], self.groups[at])
        return Example(self.images[at], int(self.labels[at]), self.splits[at], self.groups[at])

    def __iter__(self) -> Iterator[Example]:
        return map(Example, self.images, self.labels.tolist(), self.splits, self.groups)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))  # noqa: B905

    __hash__ = None  # type: ignore[assignment] # as of a list


@dataclass(frozen=True)
class Scan:
    """The examples of a data folder, manifest or tars, and the files that can't be used."""

    examples: Examples
    class_names: list[str]  # empty if the images have no labels
    rejects: list[Reject]
    ignored: int  # number of other files: clutter, files outside class folders, files that are no images
    ignored_kinds: dict[str, int]  # `ignored` by kind
    reading: list[str]  # lines that say how the data were read
    has_splits: bool  # whether the data name the split of an image; else all splits are drawn


def scan(
    data: Path,
    seed: int = 0,
    *,
    max_pixels: int = MAX_PIXELS,
    memory: ScanMemory | None = None,
    pages: Pages = "first",
    config: DataConfig = DataConfig(),
    labelled: bool = True,
    turn: Turn | None = None,
    elsewhere: Elsewhere | None = None,
) -> Scan:
    """Scan `data`: a folder, a manifest or tars. Usable images become examples. All other images become rejects.

    Images are not decoded. Raises DataError if there are no images. Raises OptionError if `config.group` is
    `near-duplicates`. For other errors, see `read_data` and, for URLs, `require_access`.

    Args:
        seed: decides the splits of the images that have no split in `data`.
        max_pixels: an image with more pixels is rejected as `too-large`.
        memory: digests and headers from the last scan of `data`. Unchanged files are not read again. The scan updates
            the memory.
        pages: which pages of a TIFF are examples. The pages of one file form a group.
        config: how `data` is read.
        labelled: whether labels are needed; see `read_data`.
        turn, elsewhere: see `inspect_images`.
    """
    if config.group == NEAR_DUPLICATES:
        raise OptionError(f"--group {NEAR_DUPLICATES}: is for `headstart prepare`, which compares the images")
    files = read_data(data, config, labelled)
    release_memory()
    require_access(files.paths)
    seen = inspect_images(files.paths, max_pixels, memory, pages, turn, elsewhere)
    release_memory()
    rejects, ignored = _left_out(files, seen, kind_of(data) == "list")
    if not seen.images and not rejects:
        raise DataError(f"{data}: no images; expected {data}/<class>/*.jpg or {data}/train/<class>/*.jpg")
    if memory:
        memory.save(seen.images)
    items, class_names = _items(files, seen), files.reading.class_names
    splits, how = _splits(items, seed, config)
    examples = Examples(seen.images, items.labels, Coded.of(splits), items.groups)
    del splits
    release_memory()
    lines, given = [*files.reading.lines, *how], not items.without_split.all()
    return Scan(examples, class_names, rejects, ignored.total(), dict(+ignored), lines, given)


def _left_out(files: Files, seen: Inspected, is_list: bool) -> tuple[list[Reject], Counter[str]]:
    """Return the rejects, and the number of ignored files by kind."""
    ignored, rejects = files.ignored.copy(), list(zip(seen.of_reject, seen.rejects, strict=True))
    found = np.zeros(len(files.paths), bool)
    found[seen.of_image] = found[np.array(seen.of_reject, np.int64)] = True
    others = np.flatnonzero(~found).tolist()
    if is_list:
        rejects += [(at, _listed_in_vain(files.paths[at])) for at in others]
        rejects.sort(key=lambda one: one[0])
    else:
        ignored["no image"] += len(others)
    return [*files.rejects, *(reject for _, reject in rejects)], ignored


def _items(files: Files, seen: Inspected) -> Items:
    """Return the images in `seen` as `Items`. Their labels, groups and splits come from `files`."""
    reading, at = files.reading, seen.of_image
    number = {name: number for number, name in enumerate(reading.class_names)}
    labels = Coded.of(reading.labels)
    numbers = np.array([-1 if name is None else number[name] for name in labels.values], np.int32)
    groups = Coded[str | None].of(reading.groups) if reading.groups else Coded[str | None].repeated(None, len(labels))
    groups = groups.with_values([name or None for name in groups.values])
    _, same = numbered(seen.images.digests)
    paths = seen.images.files
    return Items(
        digests=HexDigests(seen.images.digests),
        same=same,
        labels=numbers[labels.codes[at]] if len(at) else np.zeros(0, np.int32),
        groups=_with_pages(groups[at], seen),
        splits=Coded.of(reading.splits)[at],
        drawn=np.zeros(len(at), bool),
        of_train=np.zeros(len(at), bool),
        paths=paths,
    )


def _with_pages(groups: Coded[str | None], seen: Inspected) -> Coded[str | None]:
    """Return `groups` with new groups. If a file has several pages, its pages without a group form one new group."""
    count = np.bincount(np.concatenate([seen.of_image, np.array(seen.of_reject, np.int64)]))
    paged = np.flatnonzero((count[seen.of_image] > 1) & groups.is_(None))
    if not len(paged):
        return groups
    paths = Coded[str | None].of(seen.images.files[paged])
    codes = groups.codes.copy()
    codes[paged] = paths.codes + len(groups.values)
    values = [*groups.values, *paths.values]
    return Coded(codes, values).with_values(values)


def _listed_in_vain(path: str) -> Reject:
    """Return the reject for `path`. The path is named in a manifest, but the file is missing or is no image."""
    if is_url(path) or os.path.lexists(path):
        return Reject(path, NO_IMAGE.reason, NO_IMAGE.detail)
    return Reject(path, "vanished", "no such file")


def _splits(items: Items, seed: int, config: DataConfig) -> tuple[list[str], list[str]]:
    """Return two lists: the split of each item, and lines that describe how splits were drawn; see `complete`."""
    if config.layout == "v1":
        drawn = zip(items.splits, items.digests, strict=True)
        return [split or split_of(digest, seed) for split, digest in drawn], []
    given = set(items.splits.used()) - {""}
    if takes_val_from_train(given, FRACTIONS):
        of_train = items.splits.is_("train")
        splits = items.splits.with_values(["" if name == "train" else name for name in items.splits.values])
        items = replace(items, splits=splits, of_train=of_train)
    return complete(items, given, seed, FRACTIONS)


def tell_reading(scanned: Scan) -> None:
    """Print how the data were read, and the number of ignored files by kind."""
    for line in scanned.reading:
        console.print(line)
    if scanned.ignored:
        console.print(f"{scanned.ignored} files ignored: {told(scanned.ignored_kinds)}")


def scan_memory(store: Path, data: Path, forget: bool = False) -> ScanMemory:
    """Open the scan memory of `data` in the folder `store`. If `forget` is true, the memory starts empty."""
    return ScanMemory(store / "scans", data, forget)


def scan_all_sizes(store: Path, data: Path, seed: int = 0, config: DataConfig = DataConfig()) -> Scan:
    """Scan all pages of all images in `data`, of any size, with or without a label.

    This finds all images that a store may hold features of. Raises the same errors as `scan`.
    """
    memory = scan_memory(store, data)
    return scan(data, seed, max_pixels=sys.maxsize, memory=memory, pages="all", config=config, labelled=False)


def reject_undecodable(scan: Scan, undecodable: Iterable[Reject]) -> Scan:
    """Return a scan in which the images in `undecodable`, and their copies, are rejects instead of examples."""
    by_path = {reject.path: reject for reject in undecodable}
    if not by_path:
        return scan
    images = scan.examples.images
    bad = np.fromiter((path in by_path for path in images.paths()), bool, len(images))
    _, number = numbered(images.digests)
    copied = np.isin(number, number[bad])
    by_digest = {image.digest: by_path[image.path] for image in images[bad]}
    more = [_reject_copy(by_digest[image.digest], image.path) for image in images[copied]]
    return replace(scan, examples=scan.examples[~copied], rejects=scan.rejects + more)


def _reject_copy(reject: Reject, path: str) -> Reject:
    """Return the reject of a copy. The reject says "repeat the command" if the original could not be read."""
    if path == reject.path or reject.reason not in ("vanished", "unreadable"):
        return replace(reject, path=path)
    return replace(reject, path=path, detail=f"equal to {reject.path}, which could not be read; repeat the command")
