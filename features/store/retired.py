"""Retired shards are out of use. They stay on disk until the next clean-up, because processes may be reading them.

An empty file `shard-<hash>.h5.retired` marks a retired shard. To remove the shard, a process first renames this marker
to `shard-<hash>.h5.removing`. So only one process removes the shard.
"""

import os
import time
from collections.abc import Collection
from pathlib import Path

from headstart.features.files import flush_to_disk
from headstart.features.store.shards import SHARD_NAME

_REMOVAL_SECONDS = 5.0  # a `.removing` file older than this was left by a killed process


def retire(shards: Collection[Path], folder: Path) -> None:
    """Mark `shards`, which are files in `folder`, as retired."""
    for shard in shards:
        shard.with_name(f"{shard.name}.retired").touch()
    flush_to_disk(folder)


def entries_of(folder: Path) -> list[str]:
    """List the names of all files and folders in `folder`. If `folder` does not exist, return an empty list."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def in_use(entries: Collection[str]) -> list[str]:
    """Return the sorted names of finished shards that are not retired. `entries` are all names in a store's folder."""
    retired = {_shard_of(name) for name in entries if name.endswith((".retired", ".removing"))}
    return sorted(name for name in entries if SHARD_NAME.fullmatch(name) and name not in retired)


def put_in_use(shard: Path) -> bool:
    """Put `shard` into use. Return whether `shard` is in use now.

    The file `shard` was just written. If an equal shard was retired earlier, its `.retired` marker is removed. If
    another process removed `shard` meanwhile, the result is False. The caller must then write `shard` again.
    """
    try:
        shard.with_name(f"{shard.name}.retired").unlink()
    except FileNotFoundError:
        end = time.monotonic() + _REMOVAL_SECONDS
        while _claim(shard).exists() and time.monotonic() < end:
            time.sleep(0.01)
        _claim(shard).unlink(missing_ok=True)
        return shard.exists()
    return True


def has_retired(folder: Path) -> bool:
    """Return whether `folder` has retired shards."""
    return any(map(_shard_of, os.listdir(folder)))


def remove_retired(folder: Path) -> None:
    """Remove the retired shards of `folder`, and their markers.

    A folder that has the name of a retired shard is not removed, and neither is its marker.
    """
    for name in filter(_shard_of, os.listdir(folder)):
        marker, shard = folder / name, folder / _shard_of(name)
        if shard.is_dir() and not shard.is_symlink():
            continue  # it may hold anything
        try:
            if marker == _claim(shard) and time.time() - marker.stat().st_ctime < _REMOVAL_SECONDS:
                continue  # another process is removing this shard
            marker.rename(_claim(shard))
        except FileNotFoundError:
            continue  # the shard is in use again, or another process has claimed it
        shard.unlink(missing_ok=True)
        _claim(shard).unlink(missing_ok=True)


def _claim(shard: Path) -> Path:
    return shard.with_name(f"{shard.name}.removing")


def _shard_of(name: str) -> str:
    """Return the name of the shard that the marker file `name` belongs to, or "" if the file is no marker."""
    shard, _, kind = name.rpartition(".")
    return shard if kind in ("retired", "removing") and SHARD_NAME.fullmatch(shard) else ""
