"""One file for people: an HDF5 virtual dataset over the shards, for any HDF5 tool."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from headstart.features.files import write_atomically
from headstart.features.store.shards import DIGEST_BYTES, ShardFormat, describe, hdf5_in_memory


def write_view(path: Path, form: ShardFormat, digests: Mapping[Path, np.ndarray]) -> None:
    """Write `features`, `digest` (hexadecimal) and the fingerprint's fields as attributes; NaN where a shard is gone.

    Args:
        digests: of each shard beside `path`, in the order to show, `DIGEST` [n].
    """
    layout = h5py.VirtualLayout((sum(map(len, digests.values())), *form.shape), form.dtype)
    start = 0
    for shard, part in digests.items():
        source = h5py.VirtualSource(shard.name, "features", (len(part), *form.shape))
        layout[start : start + len(part)] = source
        start += len(part)
    with hdf5_in_memory() as (buffer, file):
        file.create_virtual_dataset("features", layout, fillvalue=np.nan)
        text = b"".join(part.tobytes() for part in digests.values()).hex().encode()
        file["digest"] = np.frombuffer(text, f"S{2 * DIGEST_BYTES}")
        describe(file, form.fingerprint)
    write_atomically(path, buffer.getvalue())


def shown_shards(path: Path) -> list[str]:
    """The names of the shards that a view shows; none for what is no view."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return [source.file_name for source in file["features"].virtual_sources()]
    except (OSError, KeyError, RuntimeError, AttributeError):
        return []
