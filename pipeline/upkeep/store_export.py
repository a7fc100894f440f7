"""`store export`: write features, labels and splits into one plain HDF5 or NumPy file."""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import h5py
import numpy as np
from headstart.features.backbones.backbone import OWN
from headstart.features.backbones.outlines import is_own
from headstart.features.backbones.used import weights_by_digest
from headstart.features.digests import hex_digests
from headstart.features.errors import DataError, OptionError
from headstart.features.files import require_space, written_atomically
from headstart.features.store.maintain import open_stores, stores_named
from headstart.features.store.shards import describe
from headstart.features.store.store import FeatureStore
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import Examples, scan_all_sizes, tell_reading
from headstart.pipeline.upkeep.config import StoreExportConfig
from headstart.pipeline.upkeep.telling import told_stores

_SLAB_BYTES = 1 << 27


@dataclass(frozen=True)
class Exported:
    """A summary of the exported file. `shape` is the shape of its features, [N, D] or [N, H, W, D]."""

    path: str
    examples: int  # N
    missing: int  # images left out: rejects, and images without features
    shape: list[int]
    classes: int
    fingerprint: str

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the summary that is printed without `--json`."""
        without = f"; {self.missing} images have none" if self.missing else ""
        return [f"{self.path}: features of {self.examples} images, {self.shape}{without}"]


def export(
    root: Path, data: Path, file: Path, config: StoreExportConfig, seed: int = 0, reading: DataConfig = DataConfig()
) -> Exported:
    """Read the features of the images in `data` from the store at `root`, and write them to `file` with labels.

    The file has these entries, where N is the number of images that have features:

    - `features`: float32 [N, *shape].
    - `labels`: int64 [N].
    - `splits`, `paths` and `digests`: N texts each.
    - `class_names`: a text for each class.

    The ending of the file's name decides the format: `.npz`, `.h5` or `.hdf5`. An existing file is replaced. `seed`
    decides the split if `data` has no split folders.

    Raises OptionError for another ending, or if `config` does not select exactly one store. Raises DataError if too
    many images lack features. Raises StoreError if `root` holds no features.
    """
    if file.suffix not in (".npz", ".h5", ".hdf5"):
        raise OptionError(f"{file}: the file's name must end in .npz, .h5 or .hdf5. Received: {file.suffix!r}")
    if file.is_dir():
        raise OptionError(f"{file}: is a folder; name a file")
    store = _chosen(root, config)
    found = scan_all_sizes(root, data, seed, reading)
    tell_reading(found)
    lacking = store.lacking(found.examples.digests)
    examples = found.examples[~lacking]
    # With `--pages first`, the other pages of a TIFF were not asked for.
    missing = int((found.examples.images.numbers("page")[lacking] == 1).sum()) + len(found.rejects)
    total = len(examples) + missing
    if not examples or missing > config.max_rejects * total:
        raise DataError(
            f"{data}: {missing} of {total} images have no features in {store.folder}, over --max-rejects "
            f"{config.max_rejects}; run `headstart features`, or `headstart store explain` to see why"
        )
    _write(file, store, examples, found.class_names)
    shape = [len(examples), *store.form.shape]
    return Exported(str(file), len(examples), missing, shape, len(found.class_names), store.key)


def _chosen(root: Path, config: StoreExportConfig) -> FeatureStore:
    """Return the only store in `root` that fits `config`. Raises OptionError if no store or several stores fit."""
    stores = open_stores(root)
    named = [
        store for store in stores_named(stores, config.fingerprint) if config.fingerprint or not store.fingerprint.view
    ]
    backbone = OWN if is_own(config.backbone) else config.backbone
    fitting = [
        store
        for store in named
        if backbone in ("", store.fingerprint.backbone) and config.cut in ("", store.fingerprint.cut)
    ]
    if len(fitting) == 1:
        return fitting[0]
    told = "; ".join(told_stores(fitting or named or stores, weights_by_digest(root)))
    if fitting:
        raise OptionError(f"--backbone, --cut or --fingerprint: say which features of {root}, for several fit: {told}")
    raise OptionError(
        f"--backbone {config.backbone or 'any'}, --cut {config.cut or 'any'}: none fit in {root}; it has {told}"
    )


def _write(file: Path, store: FeatureStore, examples: Examples, class_names: list[str]) -> None:
    digests = examples.digests
    columns = {
        "labels": examples.labels.astype(np.int64),
        "splits": np.array(list(examples.splits)),
        "paths": np.array(list(examples.images.paths())),
        "digests": np.array(hex_digests(digests)),
        "class_names": np.array(class_names),
    }
    text_bytes = sum(column.nbytes for column in columns.values())
    file.parent.mkdir(parents=True, exist_ok=True)
    require_space(file.parent, 4 * len(examples) * math.prod(store.form.shape) + text_bytes)
    with written_atomically(file) as partial:
        if file.suffix == ".npz":
            np.savez(partial, allow_pickle=False, **columns)
            _add_features(partial, store, digests)
        else:
            _write_hdf5(partial, store, digests, columns)


def _slabs(store: FeatureStore, digests: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the features of `digests` in slabs that fit in memory, each with the position of its first row."""
    rows = max(1, _SLAB_BYTES // (4 * math.prod(store.form.shape)))
    for start in range(0, len(digests), rows):
        yield start, store.read(digests[start : start + rows]).astype(np.float32, copy=False)


def _add_features(file: Path, store: FeatureStore, digests: np.ndarray) -> None:
    """Add the array `features` to an `.npz` file, slab by slab. `np.savez` would need all features in memory."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(digests), *store.form.shape)}
    with ZipFile(file, "a") as out, out.open("features.npy", "w", force_zip64=True) as array:
        np.lib.format.write_array_header_1_0(array, header)
        for _, slab in _slabs(store, digests):
            array.write(slab.astype("<f4", copy=False).tobytes())


def _write_hdf5(partial: Path, store: FeatureStore, digests: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    with h5py.File(partial, "w") as out:
        features = out.create_dataset("features", (len(digests), *store.form.shape), np.float32)
        for start, slab in _slabs(store, digests):
            features[start : start + len(slab)] = slab
        for name, column in columns.items():
            if column.dtype.kind == "U":
                encoded = np.array([os.fsencode(text) for text in column.tolist()], object)
                out.create_dataset(name, data=encoded, dtype=h5py.string_dtype())
            else:
                out[name] = column
        describe(out, store.fingerprint.to_json())
