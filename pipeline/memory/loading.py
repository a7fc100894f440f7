"""Load features from stores into memory, or into scratch files if they would take more memory than is allowed."""

import errno
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from headstart.features.backbones.cuts import Cut
from headstart.features.config import ExtractionConfig
from headstart.features.files import NOT_WRITABLE
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console, progress
from headstart.pipeline.memory.limits import free_memory, memory_limit
from headstart.pipeline.memory.on_disk import Features, FeaturesOnDisk, Part, Piece
from rich.filesize import decimal

Stores = Mapping[Cut, FeatureStore]
Digests = Sequence[str] | np.ndarray  # hexadecimal, or of dtype `DIGEST`
_TOLD = 1 << 30  # bytes in memory that are worth a line


def load_features(wanted: Sequence[tuple[Stores, Digests]], extraction: ExtractionConfig) -> list[Features]:
    """Load the features of images into memory. If the features do not fit, copy them to scratch files.

    Each of `wanted` is a pair: the stores of some cuts, and the digests of N images.

    Each result is float32 [N, D], with the features of all cuts side by side. Scratch files hold the same values as
    memory would. A line is printed if the features are copied, or if they take 1 GiB of memory or more. Raises OSError
    if there is no space for scratch files. For other errors, see `FeatureStore.stream`.
    """
    size = sum(4 * width(stores) * len(digests) for stores, digests in wanted)
    disk_size = sum(store.form.image_bytes * len(digests) for stores, digests in wanted for store in stores.values())
    limit = memory_limit(extraction.memory)
    free = size if extraction.memory else free_memory() // 2
    if size <= min(limit, free):
        if size >= _TOLD:
            console.print(f"features take {decimal(size)} of memory")
        return [read_features(*each) for each in wanted]
    why = (
        f"--memory {extraction.memory:g}"
        if extraction.memory
        else f"{decimal(limit)}, a quarter of all memory"
        if size > limit
        else f"{decimal(free)}, half of the memory that is free"
    )
    folder = scratch_place(extraction)
    console.print(
        f"features would take {decimal(size)} of memory, over {why}: they are read from scratch files of "
        f"{decimal(disk_size)} in {folder}, which gives the same heads"
    )
    with full_disk_explained("raise --memory"):
        return [_on_disk(folder, *each) for each in wanted]


@contextmanager
def full_disk_explained(otherwise: str) -> Iterator[None]:
    """While the context is open, add advice to the OSError of a full disk, and raise this error again.

    The advice is to name a larger disk by --scratch, or to follow the argument `otherwise`. This argument is a phrase,
    such as "leave out --jobs".
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.strerror = f"{error.strerror}; name a larger disk by --scratch, or {otherwise}"
        raise


def read_features(stores: Stores, digests: Digests) -> np.ndarray:
    """Read the features of images into memory, float32 [N, D]. The features of all cuts are side by side.

    `digests` are the digests of the images: hexadecimal texts, or an array of dtype `DIGEST`.
    """
    found = np.empty((len(digests), width(stores)), np.float32)
    start = 0
    for store in stores.values():
        for positions, rows in store.stream(digests):
            found[positions, start : start + rows.shape[1]] = rows
        start += store.form.shape[0]
    return found


def width(stores: Stores) -> int:
    """Return D, the number of features of an image, summed over all cuts."""
    return sum(store.form.shape[0] for store in stores.values())


def _on_disk(folder: Path, stores: Stores, digests: Digests) -> FeaturesOnDisk:
    """Copy the features of images to scratch files in `folder`."""
    with progress("copying features", len(stores) * len(digests)) as advance:

        def pieces(store: FeatureStore) -> Iterator[Piece]:
            for positions, rows in store.stream(digests):
                yield positions, rows
                advance(len(positions))

        parts = [Part(store.form.shape[0], store.form.dtype, pieces(store)) for store in stores.values()]
        return FeaturesOnDisk.write(folder, len(digests), parts)


def scratch_place(extraction: ExtractionConfig, otherwise: Path | None = None) -> Path:
    """Return the folder for scratch files.

    The folder of `--scratch` is returned if this option is given. Otherwise, the store is returned if files can be
    written to it. If the store is read-only, the folder that the argument `otherwise` names is returned. Without this
    argument, the system's folder for temporary files is returned.
    """
    if extraction.scratch:
        return extraction.scratch
    try:
        with tempfile.TemporaryFile(dir=extraction.store):
            return extraction.store
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        return otherwise or Path(tempfile.gettempdir())
