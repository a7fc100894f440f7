"""The merged file: one HDF5 virtual dataset that shows the features of many shards to any HDF5 tool."""

import heapq
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from headstart.features.digests import DIGEST_BYTES
from headstart.features.files import write_atomically
from headstart.features.store.shards import ShardFormat, describe, hdf5_in_memory

# HDF5 keeps open every shard that it has read, and silently shows NaN for a shard that it can't open. macOS allows a
# process 256 open files, and a notebook needs about 60 of them.
MOST_SHARDS = 160
_NOTE = (
    "This file holds no features: it shows those of the shards beside it. Copied or moved alone, it shows NaN. "
    "`headstart store export STORE DATA FILE.h5` writes a file that holds them."
)


def largest_shards(lengths: Mapping[str, int]) -> list[str]:
    """Return the names of the `MOST_SHARDS` largest shards, sorted by name.

    `lengths` maps the name of each shard to its number of images.
    """
    return sorted(heapq.nlargest(MOST_SHARDS, lengths, key=lengths.__getitem__))


def write_merged(path: Path, form: ShardFormat, digests: Mapping[Path, np.ndarray], rows_left_out: int) -> None:
    """Write the merged file to `path`. The file shows the shards in `digests` one after the other.

    `digests` maps the path of each shard to its digests, `DIGEST` [n]. The file does not show the other shards of the
    store; `rows_left_out` is the number of features in these other shards.

    The file has two datasets: `features`, [N, *shape], and `digest`, [N], in hexadecimal. The attributes of the file
    are the fields of the fingerprint, `rows_left_out`, and a `note`, which warns that the file is useless without its
    shards. If a shard is removed, its rows in the file become NaN.
    """
    layout = h5py.VirtualLayout((sum(map(len, digests.values())), *form.shape), form.dtype)
    start = 0
    for shard, part in digests.items():
        layout[start : start + len(part)] = h5py.VirtualSource(shard.name, "features", (len(part), *form.shape))
        start += len(part)
    with hdf5_in_memory() as (buffer, file):
        file.create_virtual_dataset("features", layout, fillvalue=np.nan)
        text = b"".join(part.tobytes() for part in digests.values()).hex().encode()
        file["digest"] = np.frombuffer(text, f"S{2 * DIGEST_BYTES}")
        describe(file, {**form.fingerprint, "rows_left_out": rows_left_out, "note": _NOTE})
    write_atomically(path, buffer.getvalue())


def merged_shards(path: Path) -> list[str]:
    """Return the names of the shards whose features a merged file shows. If `path` is no merged file, return []."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return [source.file_name for source in file["features"].virtual_sources()]
    except (OSError, KeyError, RuntimeError, AttributeError):
        return []
