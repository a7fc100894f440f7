"""Find the images of a tar, and the label that the tar has for each image."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from headstart.features.errors import DataError
from headstart.features.images.columns.threads import in_threads
from headstart.features.images.files.paths import Member
from headstart.features.images.scan import Reject
from headstart.features.terminal import progress
from headstart.pipeline.archives.entries import Entry
from headstart.pipeline.archives.names import leads_out
from headstart.pipeline.archives.opening import open_plain_tar
from headstart.pipeline.archives.tars import require_not_stopped
from headstart.pipeline.data.clutter import clutter_kinds
from headstart.pipeline.data.manifest import object_of
from headstart.pipeline.data.names import as_label, has_image_suffix, is_text, listed

_LABEL_FIELDS = ("label", "class", "cls", "class_name", "category", "target")
_MOST_FIELDS = 100
_MOST_CLASS_BYTES, _MOST_JSON_BYTES = 1 << 12, 16 << 20


@dataclass
class TarImages:
    """The images of a tar, in order, and facts about the other content of the tar."""

    names: list[str]  # in the tar, with slashes
    paths: list[str]  # see `files.paths`
    labels: list[str | None]
    groups: list[str | None]  # the images of one key form a group
    rejects: list[Reject]  # links, devices, and names that lead out of the tar
    ignored: Counter[str]  # number of other files by kind
    fields: set[str]  # some fields of the files `key.json`; the field that was asked for is among them if a file has it


def read_tars(tars: Sequence[str], label_field: str, labelled: bool) -> list[TarImages]:
    """Return the result of `read_tar` for each of `tars`. Several threads read tars, because a far disk is slow."""
    found, stop = [], Event()
    with progress("reading tars", len(tars), "tars") as advance:

        def read(positions: np.ndarray) -> list[TarImages]:
            return [read_tar(tars[at], label_field, labelled, stop) for at in positions.tolist()]

        for _, images in in_threads(read, np.arange(len(tars)), 1, remote=False, at_end=stop.set):
            found += images
            advance(len(images))
    return found


def read_tar(tar: str, label_field: str, labelled: bool, stop: Event | None = None) -> TarImages:
    """List the images of the tar at `tar`, and find their labels.

    The label of the image `1.jpg` is in the file `1.json` or `1.cls`:

    - If `label_field` is given, the label is this field of `1.json`. If there is no `1.json`, the label is in `1.cls`.
    - If `label_field` is "", the label is in `1.cls`. If there is no `1.cls`, the label is a field of `1.json` with a
      usual name, such as `label`.

    If `labelled` is false, no label is read. Raises DataError if the tar is damaged or ends early, if a label can't be
    read or is not clear, or if `stop` is set meanwhile.
    """
    with open_plain_tar(Path(tar), stop) as entries:
        return _images_of(tar, entries, label_field, labelled, stop)


def _images_of(tar: str, entries: Sequence[Entry], label_field: str, labelled: bool, stop: Event | None) -> TarImages:
    """Find the images and labels among `entries`, the files of the tar at `tar`; see `read_tar`."""
    found = TarImages([], [], [], [], [], Counter(), set())
    keys: list[str] = []
    beside: dict[str, dict[str, Entry]] = defaultdict(dict)
    again: dict[str, str] = {}  # of a key with two files for its label: the second one
    for entry, clutter in zip(entries, clutter_kinds(entry.name for entry in entries), strict=True):
        key, suffix = _key_of(entry.name)
        if clutter:
            found.ignored[clutter] += 1
        elif not has_image_suffix(entry.name):
            found.ignored["no image"] += 1
            if suffix in ("cls", "json") and entry.start is not None:
                if suffix in beside[key]:
                    again.setdefault(key, entry.name)
                beside[key][suffix] = entry
        elif why := _why_unusable(entry):
            found.rejects.append(Reject(f"{tar}/{entry.name}", "unsupported", why))
        else:
            assert entry.start is not None
            found.names.append(entry.name)
            found.paths.append(Member(tar, entry.name, entry.start, entry.size).path)
            keys.append(key)
    with_label = [key for key in dict.fromkeys(keys) if labelled and key in beside]
    if unclear := [again[key] for key in with_label if key in again]:
        raise _has_twice(tar, unclear[0])
    labels = {}
    for key in with_label:
        require_not_stopped(tar, stop)  # a label may have to be read from a far disk
        labels[key] = _label(tar, beside[key], label_field, found.fields)
    found.labels = [labels.get(key) for key in keys]
    if twice := [name for name, count in Counter(found.names).items() if count > 1 and _key_of(name)[0] in labels]:
        raise _has_twice(tar, twice[0])
    several = {key for key, count in Counter(keys).items() if count > 1 and key in labels}
    found.groups = [f"{tar}/{key}" if key in several else None for key in keys]
    return found


def require_field(data: Path, field: str, tars: Iterable[TarImages]) -> None:
    """Raise a DataError if no `key.json` has the field `field`. `tars` are the tars of `data`."""
    fields = {name for tar in tars for name in tar.fields}
    if field not in fields:
        there = listed(sorted(fields)) or "none"
        raise DataError(f"{data}: --label-column {field}: no key.json has this field; there are {there}")


def hold_samples(names: Iterable[str]) -> bool:
    """Return whether any of `names` is an image beside a `.cls` or `.json` with the same key."""
    beside, images = set[str](), set[str]()
    for name in names:
        key, suffix = _key_of(name)
        (images if has_image_suffix(name) else beside if suffix in ("cls", "json") else set()).add(key)
    return bool(beside & images)


def _key_of(name: str) -> tuple[str, str]:
    """Return the key and the suffix of a sample's file: `a/1` and `left.jpg` for `a/1.left.jpg`."""
    folder, file = os.path.split(name)
    stem, _, suffix = file.partition(".")
    return os.path.join(folder, stem), suffix.lower()


def _why_unusable(entry: Entry) -> str:
    if entry.fault:
        return entry.fault.detail
    if leads_out(entry.name):
        return "a path out of the archive"
    return "a sparse file" if entry.start is None else ""


def _has_twice(tar: str, name: str) -> DataError:
    """Return the error to raise if `tar` holds the file `name` twice."""
    return DataError(f"{tar}: has {name} twice, so labels are not clear; give each sample its own key, with `tar -c`")


def _label(tar: str, beside: dict[str, Entry], field: str, fields: set[str]) -> str | None:
    if "json" in beside and (field or "cls" not in beside):
        return _label_in_json(tar, beside["json"], field, fields)
    return _label_in_text(tar, beside["cls"]) if "cls" in beside else None


def _label_in_text(tar: str, entry: Entry) -> str:
    where = f"{tar}/{entry.name}"
    text = _text(tar, entry, _MOST_CLASS_BYTES).strip()
    if not text or "\n" in text or "\0" in text:
        raise DataError(f"{where}: expected the number or name of a class. Received: {text[:40]!r}")
    return as_label(text)


def _label_in_json(tar: str, entry: Entry, field: str, fields: set[str]) -> str | None:
    where = f"{tar}/{entry.name}"
    try:
        row = json.loads(_text(tar, entry, _MOST_JSON_BYTES), object_pairs_hook=object_of)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    row = row if isinstance(row, dict) else {"label": row}
    if len(fields) < _MOST_FIELDS:
        fields.update(row)
    if field in row:
        fields.add(field)
    there = [name for name in ([field] if field else _LABEL_FIELDS) if row.get(name) is not None]
    if len({str(row[name]) for name in there}) > 1:
        raise DataError(f"{where}: has {' and '.join(there)}; say with --label-column which is the label")
    if not there:
        return None
    return _as_class(where, there[0], row[there[0]])


def _as_class(where: str, field: str, value: Any) -> str:
    if not isinstance(value, (str, int)) or not str(value).strip() or not is_text(str(value)):
        raise DataError(f"{where}: {field} must be the number or name of a class. Received: {str(value)[:40]!a}")
    return as_label(str(value).strip())


def _text(tar: str, entry: Entry, most: int) -> str:
    where = f"{tar}/{entry.name}"
    if entry.size > most:
        raise DataError(f"{where}: {entry.size} bytes are too many for a label; at most {most} are read")
    try:
        return b"".join(entry.blocks()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not in UTF-8 ({error.reason})") from error
