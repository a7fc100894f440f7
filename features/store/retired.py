"""Shards that others replaced: out of use at once, and removed a generation later, for readers that know them.

A file `shard-<sha256>.h5.retired` marks one. Whoever renames it to `.removing` removes the shard.
"""

import os
import time
from collections.abc import Collection
from pathlib import Path

from headstart.features.errors import StoreError
from headstart.features.files import flush_to_disk
from headstart.features.store.shards import SHARD_NAME

_REMOVAL_SECONDS = 5.0  # after which whoever claimed a removal was killed


def retire(shards: Collection[Path], folder: Path) -> None:
    """Take `shards` of `folder` out of use."""
    for shard in shards:
        _marker(shard).touch()
    flush_to_disk(folder)


def shards_in_use(folder: Path) -> list[Path]:
    """The finished shards in `folder` that are not retired, by name.

    Raises:
        OSError: the folder can't be read. One that does not exist has none.
    """
    try:
        names = set(os.listdir(folder))
    except FileNotFoundError:
        return []
    retired = {_shard_of(name) for name in names}
    return [folder / name for name in sorted(names - retired) if SHARD_NAME.fullmatch(name)]


def put_in_use(shard: Path) -> bool:
    """Make `shard`, which was written just now and may have been retired before, no retired one.

    Returns:
        Whether it is still there. If not, someone was removing the old one, and it must be written again.
    """
    try:
        _marker(shard).unlink()
    except FileNotFoundError:
        end = time.monotonic() + _REMOVAL_SECONDS
        while _claim(shard).exists() and time.monotonic() < end:
            time.sleep(0.01)
        _claim(shard).unlink(missing_ok=True)
        return shard.exists()
    return True


def has_retired(folder: Path) -> bool:
    """Whether `remove_retired` has something to do."""
    return any(map(_shard_of, os.listdir(folder)))


def remove_retired(folder: Path) -> None:
    """Remove the files of retired shards.

    Raises:
        StoreError: one is a folder.
    """
    for name in filter(_shard_of, os.listdir(folder)):
        marker, shard = folder / name, folder / _shard_of(name)
        if shard.is_dir() and not shard.is_symlink():
            raise StoreError(f"{shard}: a folder where a shard should be; remove it by hand")
        try:
            if marker == _claim(shard) and time.time() - marker.stat().st_ctime < _REMOVAL_SECONDS:
                continue
            marker.rename(_claim(shard))
        except FileNotFoundError:
            continue  # taken back, or claimed by another
        shard.unlink(missing_ok=True)
        _claim(shard).unlink(missing_ok=True)


def _marker(shard: Path) -> Path:
    return shard.with_name(f"{shard.name}.retired")


def _claim(shard: Path) -> Path:
    return shard.with_name(f"{shard.name}.removing")


def _shard_of(name: str) -> str:
    """The name of the shard that a marker or claim is of; empty for another file."""
    shard, _, kind = name.rpartition(".")
    return shard if kind in ("retired", "removing") and SHARD_NAME.fullmatch(shard) else ""
