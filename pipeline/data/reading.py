"""Find the split, label and group of each file of a folder, a manifest or tars."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from headstart.features.errors import DataError, OptionError
from headstart.features.images.columns.paths import Paths
from headstart.features.images.files.paths import is_url
from headstart.features.images.scan import Reject
from headstart.features.paths import require_no_url
from headstart.pipeline.data.columns.coded import Coded
from headstart.pipeline.data.config import NEAR_DUPLICATES, DataConfig
from headstart.pipeline.data.layouts import Reading, read_layout
from headstart.pipeline.data.layouts_v1 import REJECTS, read_folder_v1
from headstart.pipeline.data.listing import Listing, list_files, require_readable
from headstart.pipeline.data.manifest import SUFFIXES, Entry, is_manifest, read_manifest
from headstart.pipeline.data.names import (
    has_image_suffix,
    labels_matched,
    listed,
    matched,
    perhaps_labels,
    told_cases,
    told_missed,
)
from headstart.pipeline.data.splits import SPLITS
from headstart.pipeline.data.tars import naming
from headstart.pipeline.data.tars.samples import read_tars, require_field

PREPARED = "prepared.json"  # file in a data folder, with the settings of the `prepare` that made the folder


@dataclass(frozen=True)
class Files:
    """The files of a data set, and how they were read."""

    paths: Paths
    reading: Reading  # of `paths`, in the same order
    ignored: Counter[str]  # number of other files by kind
    rejects: list[Reject] = field(default_factory=list)  # files that are never read, such as links in a tar


def read_data(data: Path, config: DataConfig, labelled: bool = True) -> Files:
    """List the files of `data`: a folder, a manifest or tars. Find the split, label and group of each file.

    If only some files of `data` have a label, the files without a label are left out. For a manifest, this happens only
    if `config.label_from` is set. If `labelled` is true, a DataError can be raised in two cases: a row of a manifest
    has no label (see `read_manifest`), or no file of a folder or of tars has a label (see `read_names`).

    Raises OptionError if `config` does not fit the kind of `data`. For other errors, see `require_data`,
    `read_manifest`, `read_names` and, for tars, `naming.tars_of` and `read_tars`.
    """
    require_data(data)
    kind = naming.kind_of(data)
    config.require_fit(kind)
    if kind == "list":
        return _read_list(data, config, labelled)
    if kind == "tars" and config.layout == "v1":
        raise OptionError("--layout v1: versions before 0.2 did not read tars; leave it out")
    if kind == "tars":
        return _read_tars(data, config, labelled)
    if config.layout == "v1":
        return Files(*read_folder_v1(data))
    names, listing = folder_names(data)
    tars = naming.told_tars(data, names)
    try:
        reading = read_names(names, str(data), config, listing.empty, labelled)
    except DataError as error:
        raise DataError("; ".join([str(error), *tars])) from error
    reading = replace(reading, lines=[*reading.lines, *tars])
    return _with_labels(names.below(os.path.join(data, "")), reading, Counter(listing.ignored), "outside classes")


def folder_names(data: Path) -> tuple[Paths, Listing]:
    """Return two things: the names of the files that may be images, and the listing of the folder `data`.

    Raises DataError if a folder in `data` can't be read.
    """
    listing = list_files(data)
    require_readable(data, listing)
    names = listing.files
    own = [at for at in names.by_folder().get("", np.zeros(0, np.int64)).tolist() if names[at] in (REJECTS, PREPARED)]
    return names[np.delete(np.arange(len(names)), own)] if own else names, listing


def _with_labels(paths: Paths, reading: Reading, ignored: Counter[str], kind: str) -> Files:
    """Return the files that have a label. If no file has a label, return all files.

    The number of files that are left out is added to `ignored[kind]`.
    """
    kept = ~Coded.of(reading.labels).is_(None)
    if kept.all() or not reading.class_names:
        return Files(paths, reading, +ignored)
    ignored[kind] += int((~kept).sum())
    return Files(paths[kept], _taken(reading, kept), +ignored)


def require_data(data: Path) -> None:
    """Raise an error unless `data` is a folder, tars that exist, or a file with the suffix of a manifest.

    The error is an OptionError for a URL, and otherwise a DataError.
    """
    if data.is_dir() or is_manifest(data) or (data.name.endswith(naming.SUFFIX) and naming.is_there(data)):
        return
    require_no_url("DATA", data, "name a folder, tars or a list on a disk; a list may hold URLs")
    if not data.exists():
        raise DataError(f"{data}: no such folder")
    if naming.is_tar(data.name):
        naming.require_plain(str(data))
    raise DataError(f"{data}: neither a folder nor a list ({', '.join(SUFFIXES)}); `headstart prepare` takes archives")


def read_names(
    names: Sequence[str], where: str, config: DataConfig, empty: Sequence[str] = (), labelled: bool = True
) -> Reading:
    """Find the split, label and group of each file in `names`.

    Args:
        names: paths relative to the folder or archive `where`, with slashes.
        empty: folders without files, relative to `where`.
        labelled: whether labels are needed.

    If `read_layout` raises a DataError, there are two cases. If `labelled` is true or `config.label_from` is given, the
    function raises this error. Otherwise, the error becomes a line of the result, and no file gets a label or a split.
    Also raises DataError if `labelled` is true and no file has a label, or if `config.group` matches no path. Raises
    OptionError if `config.group` or `config.label_from` takes seconds on a path.
    """
    try:
        reading = read_layout(names, where, config.layout, config.class_list, empty, config.label_from)
    except DataError as error:
        if labelled or config.label_from:
            raise
        lines = [f"{where}: read without labels, because they are not needed here ({error})"]
        reading = Reading(Coded.repeated("", len(names)), Coded[str | None].repeated(None, len(names)), lines)
    if labelled and not reading.class_names:
        images = [os.path.basename(name) for name in names if has_image_suffix(name)]
        raise _no_labels(where, images, [name for name in names if name.lower().endswith(SUFFIXES) and "/" not in name])
    return _grouped(_resplit(reading, where, config), names, where, config)


def _no_labels(where: str, names: Sequence[str], lists: Sequence[str] = ()) -> DataError:
    """Return the error for images without labels, which says how to give labels."""
    perhaps = perhaps_labels(names)
    hint = "give a CSV file with columns path,label as DATA, or --label-from REGEX"
    if lists:
        hint = f"{where}/{lists[0]} may list the labels: then give it as DATA, or --label-from REGEX"
    if perhaps:
        hint = (
            f"names such as {names[0]} may hold {len(perhaps)} classes ({listed(sorted(perhaps))}): then give "
            r"--label-from '(?P<label>.+?)[-_ ]*\d+\.\w+'"
        )
    return DataError(
        f"{where}: no class folders; expected {where}/<class>/*.jpg, found {len(names)} images without classes; {hint}"
    )


def _resplit(reading: Reading, where: str, config: DataConfig) -> Reading:
    given = sorted(set(Coded.of(reading.splits).used()) - {""})
    if not config.resplit or not given:
        return reading
    line = f"{where}: its splits ({', '.join(given)}) are dissolved, as --resplit says"
    return replace(reading, splits=Coded.repeated("", len(reading.splits)), lines=[*reading.lines, line])


def _grouped(reading: Reading, names: Sequence[str], where: str, config: DataConfig) -> Reading:
    if not config.group or config.group == NEAR_DUPLICATES or not names:
        return reading
    pattern = re.compile(config.group)

    def group_in(name: str) -> str | None:
        match = pattern.search(name)
        return match[1 if pattern.groups else 0] if match else None

    groups = Coded.of(matched("--group", pattern, group_in, names))
    without = groups.is_(None)
    alone = int((without & ~Coded.of(reading.labels).is_(None)).sum())
    if without.all():
        raise DataError(f"{where}: --group {config.group} matches no path, such as {names[0]}")
    line = f"{where}: {len(set(groups.used()) - {None})} groups by --group"
    if any(Coded.of(reading.groups).used()):
        line += f", not by the column {config.group_column}"
    return replace(
        reading, groups=groups, lines=[*reading.lines, line + (f"; {alone} images have none" if alone else "")]
    )


def _read_list(file: Path, config: DataConfig, labelled: bool) -> Files:
    entries = read_manifest(file, config, labelled)
    root = os.path.dirname(file)
    names = [entry.path for entry in entries]
    reading = Reading(
        splits=Coded.of(entry.split for entry in entries),
        labels=Coded.of(entry.label for entry in entries),
        lines=[],
        groups=Coded.of(entry.group for entry in entries),
    )
    lines = [_described(file, entries)]
    if config.label_from:
        labels = labels_matched(names, config.label_from)
        missed = [name for name, label in zip(names, labels, strict=True) if not label]
        lines.append(f"{file}: labels by --label-from, {len(set(labels) - {None})} classes")
        lines += told_missed(str(file), config.label_from, missed, len(names))
        reading = replace(reading, labels=labels)
    if {entry.split for entry in entries} == {"train"}:
        lines.append(f"{file}: all images are of train, so they count as not split yet")
        reading = replace(reading, splits=Coded.repeated("", len(names)))
    lines += told_cases(reading.class_names)
    without = _without_row(file, names)
    if without:
        lines.append(f"{len(without)} images beside them have no row and are left out, {without[0]} the first")
    reading = _grouped(_resplit(replace(reading, lines=lines), str(file), config), names, str(file), config)
    ignored = Counter({"without a row": len(without)})
    paths = Paths.of(name if is_url(name) else os.path.join(root, name) for name in names)
    if config.label_from:
        return _with_labels(paths, reading, ignored, "without a label")
    return Files(paths, reading, +ignored)


def _read_tars(data: Path, config: DataConfig, labelled: bool) -> Files:
    """Read tars of samples. If no `.cls` or `.json` has a label, find labels in file names, as for a folder."""
    there = naming.tars_of(data)
    tars = there.paths
    splits, lines = ([""] * len(tars), []) if config.resplit else naming.split_of_each(tars, data)
    by_names = bool(config.label_from or config.classes) or config.layout not in ("auto", "none")
    by_fields = not by_names and config.layout != "none"
    found = read_tars(tars, config.label_column, by_fields)
    if by_fields and config.label_column:
        require_field(data, config.label_column, found)
    names = Paths.of(name for one in found for name in one.names)
    labels = [label for one in found for label in one.labels]
    reading = Reading(
        splits=[split for split, one in zip(splits, found, strict=True) for _ in one.names],
        labels=labels,
        lines=lines,
        groups=[group for one in found for group in one.groups],
    )
    if any(label is not None for label in labels):
        described = f"{len(names)} images in {len(reading.class_names)} classes, by .cls and .json"
        count = f"{len(tars)} tars" if len(tars) > 1 else "a tar"
        reading = replace(reading, lines=[f"{data}: {count} of {described}", *lines])
    elif config.layout != "none":
        reading = _labelled_by_names(names, data, config, reading, labelled)
    reading = _grouped(reading, names, str(data), config)
    ignored = sum((one.ignored for one in found), there.ignored)
    files = _with_labels(Paths.of(path for one in found for path in one.paths), reading, ignored, "without a label")
    return replace(files, rejects=[reject for one in found for reject in one.rejects])


def _labelled_by_names(
    names: Sequence[str], data: Path, config: DataConfig, reading: Reading, labelled: bool
) -> Reading:
    """Find labels, and perhaps splits, in file names. Return `reading` with these labels and splits."""
    try:
        inside = read_names(names, str(data), replace(config, group="", label_column=""), labelled=labelled)
    except DataError as error:
        raise DataError(f"no label in a key.cls or key.json of the tars, and none in names: {error}") from error
    splits = inside.splits if any(Coded.of(inside.splits).used()) else reading.splits
    return replace(reading, labels=inside.labels, splits=splits, lines=[*reading.lines, *inside.lines])


def _described(file: Path, entries: Sequence[Entry]) -> str:
    labels, given = {entry.label for entry in entries} - {None}, {entry.split for entry in entries}
    splits = [split for split in SPLITS if split in given]
    parts = [f"{len(entries)} images in {len(labels)} classes" if labels else f"{len(entries)} images without labels"]
    parts += [f"splits {', '.join(splits)}"] if splits else []
    return f"{file}: a list of {', '.join(parts)}"


def _without_row(file: Path, names: Sequence[str]) -> list[str]:
    """Return images that have no row in the manifest `file`. Only the folders of the paths in `names` are searched."""
    known = set(names)
    found = []
    for folder in sorted({os.path.dirname(name) for name in names if not is_url(name)}):
        here = file.parent / folder
        if here.is_dir():
            inside = sorted(
                os.path.join(folder, entry.name) for entry in os.scandir(here) if has_image_suffix(entry.name)
            )
            found += [name for name in inside if name not in known]
    return found


def _taken(reading: Reading, kept: np.ndarray) -> Reading:
    """Return `reading` for only those files for which `kept`, bool [N], is True."""
    return replace(
        reading,
        splits=Coded.of(reading.splits)[kept],
        labels=Coded.of(reading.labels)[kept],
        groups=Coded.of(reading.groups)[kept] if reading.groups else (),
    )
