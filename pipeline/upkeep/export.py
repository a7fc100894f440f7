"""Features, labels and splits in one plain file, for scikit-learn and whatever else reads HDF5 or NumPy."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from headstart.features.errors import DataError, OptionError
from headstart.features.files import require_space, written_atomically
from headstart.features.store.maintain import open_stores
from headstart.features.store.shards import describe
from headstart.features.store.store import FeatureStore
from headstart.pipeline.featured import scan_all

_SLAB_BYTES = 1 << 29


@dataclass(frozen=True)
class Exported:
    """What was written: `examples` rows of `shape`; `missing` images of the folder have no features."""

    path: str
    examples: int
    missing: int
    shape: list[int]
    classes: int
    fingerprint: str


def export(
    root: Path, data: Path, file: Path, fingerprint: str = "", seed: int = 0, max_rejects: float = 0.05
) -> Exported:
    """Write `features` float32 [N, *shape], `labels` int64 [N], `splits`, `paths`, `digests` and `class_names`.

    Args:
        file: ends in `.npz`, `.h5` or `.hdf5`; it is replaced if it is there.
        fingerprint: the beginning of a fingerprint, or of a folder's name in the store; may be empty if there is one.
        seed: of the split, where `data` has no split folders.
        max_rejects: the fraction of images that may be without features.

    Raises:
        OptionError: another ending, or a fingerprint that is not one of the store's.
        DataError: too many images have no features.
        StoreError: nothing is in `root`.
    """
    if file.suffix not in (".npz", ".h5", ".hdf5"):
        raise OptionError(f"{file}: the file's name must end in .npz, .h5 or .hdf5. Received: {file.suffix!r}")
    # Views are of training images alone, and exported where they are asked for.
    stores = [store for store in open_stores(root) if fingerprint or "view" not in store.fingerprint]
    store = _chosen(stores, fingerprint)
    found = scan_all(root, data, seed)
    lacking = set(store.missing([example.image.digest for example in found.examples]))
    examples = [example for example in found.examples if example.image.digest not in lacking]
    missing = len(found.examples) - len(examples) + len(found.rejects)
    total = len(examples) + missing
    if not examples or missing > max_rejects * total:
        raise DataError(
            f"{data}: {missing} of {total} images have no features in {store.folder}, over --max-rejects "
            f"{max_rejects}; run `headstart features`, or `headstart store explain` to see why"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "labels": np.array([example.label for example in examples], np.int64),
        "splits": np.array([example.split for example in examples]),
        "paths": np.array([example.image.path for example in examples]),
        "digests": np.array([example.image.digest for example in examples]),
        "class_names": np.array(found.class_names),
    }
    text_bytes = sum(column.nbytes for column in columns.values())
    require_space(file.parent, 4 * len(examples) * math.prod(store.form.shape) + text_bytes)
    with written_atomically(file) as partial:
        if file.suffix == ".npz":
            features = np.empty((len(examples), *store.form.shape), np.float32)
            for positions, rows in store.stream(columns["digests"].tolist()):
                features[positions] = rows
            np.savez(partial, allow_pickle=False, features=features, **columns)
        else:
            _write_hdf5(partial, store, columns)
    shape = [len(examples), *store.form.shape]
    return Exported(str(file), len(examples), missing, shape, len(found.class_names), store.key)


def _chosen(stores: Sequence[FeatureStore], wanted: str) -> FeatureStore:
    fitting = [store for store in stores if store.key.startswith(wanted) or store.folder.name.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(store.folder.name for store in fitting or stores)
    if not fitting:
        raise OptionError(f"--fingerprint: none begins with {wanted!r}; there are {names}")
    raise OptionError(f"--fingerprint: say which, by the beginning of its name: {names}")


def _write_hdf5(partial: Path, store: FeatureStore, columns: dict[str, np.ndarray]) -> None:
    digests = columns["digests"].tolist()
    rows = max(1, _SLAB_BYTES // (4 * math.prod(store.form.shape)))
    with h5py.File(partial, "w") as out:
        features = out.create_dataset("features", (len(digests), *store.form.shape), np.float32)
        for start in range(0, len(digests), rows):
            features[start : start + rows] = store.read(digests[start : start + rows])
        for name, column in columns.items():
            if column.dtype.kind == "U":
                encoded = np.array([os.fsencode(text) for text in column.tolist()], object)
                out.create_dataset(name, data=encoded, dtype=h5py.string_dtype())
            else:
                out[name] = column
        describe(out, store.fingerprint)
