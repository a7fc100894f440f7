"""Find out which weights are available, and what the disk of the store can do."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from headstart.features.backbones.cuts import KNOWN_WEIGHTS
from headstart.features.backbones.outlines import place_of_weights
from headstart.features.backbones.zoo import BACKBONES
from headstart.features.locks import lock


def without_home(text: object) -> str:
    """Return `text` with `~` in place of the path of the home folder."""
    shown = str(text)
    for home in {str(Path.home()), str(Path.home().resolve())}:
        if len(home) > 1:
            shown = re.sub(rf"(?<![\w.~-]){re.escape(home)}(?![\w-]|\.\w)", "~", shown)
    return shown


def weights() -> dict[str, Any]:
    """Return facts about the ImageNet weights of the networks, and about the environment variable HEADSTART_WEIGHTS.

    - `shipped`: the names of the networks whose weights come with headstart
    - `cached`: the names of the networks whose weights Keras has downloaded
    - `download`: the number of networks whose weights are still to be downloaded
    - `HEADSTART_WEIGHTS`: the value of the variable, or None
    - `HEADSTART_WEIGHTS_exists`: whether all files in this value exist, or None if there is no file in the value
    """
    places = {name: place_of_weights(name) for name in BACKBONES}
    by_place = {place: [name for name in places if places[name] == place] for place in ("shipped", "cached")}
    given = os.environ.get("HEADSTART_WEIGHTS") or None
    there = _all_there(given) if given else None
    return {
        **by_place,
        "download": sum(place == "download" for place in places.values()),
        "HEADSTART_WEIGHTS": without_home(given) if given else None,
        "HEADSTART_WEIGHTS_exists": there,
    }


def _all_there(weights: str) -> bool | None:
    """Return whether all files named in the text `weights` exist. Return None if the text names no file.

    The text may join several names by `+`.
    """
    files = [weights] if Path(weights).is_file() else weights.split("+")
    files = [file for file in files if file not in KNOWN_WEIGHTS]
    return all(Path(file).is_file() for file in files) if files else None


def disk(store: Path) -> dict[str, Any]:
    """Return facts about the disk of `store`, such as the free space and whether files can be renamed.

    If `store` is no folder, the nearest folder above `store` is examined. To find the facts, files are made in a
    temporary folder. This folder is removed at the end.
    """
    folder = next(one for one in (store.absolute(), *store.absolute().parents) if _is_folder(one))
    is_file = False
    with suppress(OSError):
        is_file = store.exists() and not store.is_dir()
    found = {
        "is_file": is_file,
        "store": without_home(store),
        "tried_in": without_home(folder),
        "file_system": _file_system(folder),
        "free_bytes": _free(folder),
        "full": False,
    }
    able = {"writable": False, "hard_links": False, "rename": False, "locks": False, "mtime_resolution_ns": None}
    try:
        with tempfile.TemporaryDirectory(prefix=".headstart-doctor-", dir=folder) as scratch:
            able = {"writable": True, **_abilities(Path(scratch))}
    except OSError as error:
        found["full"] = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return {**found, **able}


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except OSError:  # a folder above it can't be entered
        return False


def _free(folder: Path) -> int | None:
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return None


def _abilities(folder: Path) -> dict[str, Any]:
    first, second = folder / "first", folder / "second"
    first.write_bytes(b"1")

    def link() -> None:
        os.link(first, folder / "link")

    def rename() -> None:
        second.write_bytes(b"2")
        os.replace(second, first)

    def locked() -> None:
        with (folder / "lock").open("w") as file:
            lock(file, wait=False)

    return {
        "hard_links": _works(link),
        "rename": _works(rename) and first.read_bytes() == b"2",
        "locks": _works(locked),
        "mtime_resolution_ns": _resolution(first),
    }


def _works(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


def _resolution(file: Path) -> int | None:
    """Return the resolution of file times on the disk of `file`, in nanoseconds.

    If file times can't be set on this disk, return None.
    """
    wanted = 1_234_567_891_111_111_111
    try:
        os.utime(file, ns=(wanted, wanted))
    except OSError:
        return None
    off = abs(file.stat().st_mtime_ns - wanted)
    return next(step for step in (1, 10, 100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000, 2**63) if off < step)


def _file_system(folder: Path) -> str:
    """Return the type of the file system of `folder`, such as `ext4`. Return `unknown` if the type is not known."""
    with suppress(OSError, ValueError):
        mounts = psutil.disk_partitions(all=True)
        holds = [one for one in mounts if folder.resolve().is_relative_to(one.mountpoint)]
        return max(holds, key=lambda one: len(one.mountpoint)).fstype or "unknown"
    return "unknown"
