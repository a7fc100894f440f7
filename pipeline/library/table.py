"""`headstart.features`: the features of a folder, a list or some files, as NumPy arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.backbones.cuts import chosen_cuts
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError
from headstart.features.frozen.network import Network
from headstart.features.images.columns.inspected import inspect_images
from headstart.features.images.files.fetched import bytes_kept
from headstart.features.images.scan import Reject
from headstart.features.store.store import create_folder
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import Example, Examples, Scan
from headstart.pipeline.extracting import Stores, extract_all
from headstart.pipeline.featured import cache_features, networks_for
from headstart.pipeline.library.arguments import Place, path_text, received, switch, whole
from headstart.pipeline.library.options import feature_configs, made, require_known, require_no_rejects
from headstart.pipeline.memory.limits import memory_limit
from headstart.pipeline.memory.loading import read_features
from rich.filesize import decimal

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """The features of images: a row per image, in the order of `paths`.

    - `X` holds features: float32 [N, D], or float32 [N, H, W, D] at a cut such as `mixed8:map`.
    - `y` holds labels: int64 [N], indices into `class_names`. If the images have no labels, each value is -1.
    - `splits` holds `train`, `val` or `test` for each image. If the table was made from a sequence of files, and not
      from a folder, a list or tars, each value is "".
    """

    X: np.ndarray
    y: np.ndarray
    paths: list[str]
    splits: np.ndarray
    class_names: list[str]  # empty without labels
    digests: list[str]  # SHA-256 of each file; of a page of a TIFF, see `page_digest`
    rejects: list[Reject]  # images in the folder that can't be used, each with the reason

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.X.shape))
        counts = {
            str(name): int(count) for name, count in zip(*np.unique(self.splits, return_counts=True), strict=True)
        }
        splits = ", ".join(f"{count} {name}" for name, count in counts.items() if name)
        return f"<FeatureTable: {shape}, {len(self.class_names)} classes{f', {splits}' if splits else ''}>"

    def split(self, name: str) -> FeatureTable:
        """Return the rows of the split `name`. Raises OptionError if no image is in that split."""
        rows = np.flatnonzero(self.splits == name) if isinstance(name, str) else ()
        if not len(rows):
            there = ", ".join(sorted({str(one) for one in self.splits if one})) or "no splits"
            raise OptionError(f"split must be one that has images. Received: {name}; there are {there}")
        return replace(
            self,
            X=self.X[rows],
            y=self.y[rows],
            paths=[self.paths[row] for row in rows],
            splits=self.splits[rows],
            digests=[self.digests[row] for row in rows],
        )

    def tf(self, batch_size: int = 64, shuffle: bool = False, seed: int = 0) -> tf.data.Dataset:
        """Return a dataset of batches. A batch has `batch_size` rows of the table; the last batch may have fewer.

        If the table has labels, a batch is a pair: rows of `X` (float32) and rows of `y` (int64 [b]). If the table has
        no labels, a batch is rows of `X`. With `shuffle`, each epoch has another order, which depends on `seed` and on
        the number of the epoch.
        """
        from headstart.features.images.batches import explicit_options
        from headstart.features.tensorflow import tf

        batch_size, seed = whole("batch_size", batch_size, 1), whole("seed", seed)
        columns = (self.X, self.y) if self.class_names else self.X
        rows = tf.data.Dataset.from_tensor_slices(columns)
        if switch("shuffle", shuffle):
            rows = rows.shuffle(len(self), seed=seed, reshuffle_each_iteration=True)
        return rows.batch(batch_size).prefetch(2).with_options(explicit_options())


def features(
    data: Place | Sequence[Place],
    *,
    backbone: str | None = None,
    cut: str | Sequence[str] | None = None,
    weights: str | None = None,
    store: Place | None = None,
    seed: int = 0,
    **options: Any,
) -> FeatureTable:
    """Return the features of images at a cut of a frozen network. Features that the store lacks are extracted first.

    Every argument except `data` is an option of `headstart features`, and has the same default: `backbone` is
    `inception_v3`, `weights` is `imagenet`, `store` is `./store`. Environment variables set options here, too.

    Args:
        data: either DATA of `headstart features` (a folder, tars, or a list of images), or a sequence of paths of image
            files. Images need no labels. For a sequence, the rows of the table are in the order of the paths.
        backbone: the name of a network, or a `.keras` file. `a+b` puts the features of two networks side by side.
        cut: a block, or several blocks. Features are taken at the end of each block. The default is the last block.
        weights: `imagenet`, `random`, or a file.
        store: the folder of cached features.
        seed: decides the splits, if `data` has no split folders.
        options: further options of `headstart features`, such as `image_size=224` or `group="near-duplicates"`.

    Raises:
        OptionError: for an option or argument that is unknown, or that can't be used.
        DataError: if there are no images, if too many images can't be used (`max_rejects`), if a file of a sequence
            can't be used, or if memory can't hold the features.
        WeightsError: if weights are missing or damaged.
        StoreError: if the store can't be used.
    """
    seed = whole("seed", seed)
    given = {"backbone": backbone, "cut": cut, "weights": weights, "store": store, **options}
    require_known(given, FeatureConfig, ExtractionConfig, DataConfig)
    config, extraction = feature_configs(given)
    if config.views:
        raise OptionError("views: only `headstart head` uses views; leave views out")
    reading = made(DataConfig, given)
    _require_alike(config)
    if isinstance(data, str | os.PathLike):
        place, require = Path(path_text("data", data)), partial(_require_room, extraction)
        found = cache_features(place, config, extraction, seed, require, reading, labelled=False)
        return _table(found.examples, found.class_names, found.rejects, found.stores)
    if reading != DataConfig():
        raise OptionError("data: a sequence of files has no layout; leave out options that say how a folder is read")
    require_no_rejects(given)
    return features_of_files(_listed(data), config, extraction)


def _listed(paths: Any) -> list[Any]:
    is_scalar = isinstance(paths, np.ndarray) and not paths.ndim
    if is_scalar or isinstance(paths, bytes) or not isinstance(paths, Iterable):
        raise OptionError(f"data must be a folder, a list of images, or paths. Received: {received(paths)}")
    return list(paths)


def features_of_files(
    paths: Sequence[Place],
    config: FeatureConfig,
    extraction: ExtractionConfig,
    require: Callable[[list[Network]], None] = lambda _: None,
) -> FeatureTable:
    """Return the features of the image files `paths`, in this order. Missing features are extracted first.

    `require` is called with the networks before extraction, and raises an error if the networks can't be used. Raises
    DataError if `paths` is empty, or if a file can't be used. For other errors, see `features`.
    """
    names = [path_text("data", path, "paths of images") for path in paths]
    if not names:
        raise DataError("data: names no file; give at least one image")
    create_folder(extraction.store)
    with bytes_kept(extraction.store, os.path.dirname(names[0])):
        seen = inspect_images(names, extraction.max_pixels, pages=config.pages)
        _require_images(names, seen.rejects, len({*seen.of_image.tolist()}))
        examples = Examples.of(Example(image, -1, "") for image in seen.images)
        scanned = Scan(examples, [], [], 0, {}, [], has_splits=False)
        networks = networks_for(scanned, config, extraction)
        _require_room(extraction, scanned, networks)
        require(networks)
        scanned, _, stores, _ = extract_all(scanned, networks)
    _require_images(names, scanned.rejects, len(names) - len({one.path for one in scanned.rejects}))
    return _table(scanned.examples, [], [], stores)


def _require_images(names: Sequence[str], rejects: Sequence[Reject], usable: int) -> None:
    """Raise DataError if one of the files `names` can't be used."""
    bad = len(names) - usable
    if rejects:
        first, more = rejects[0], f" ({bad} such files)" if bad > 1 else ""
        raise DataError(f"{first.path}: {first.reason}, {first.detail}; leave it out, or mend it{more}")
    if bad:
        lost = next((name for name in names if not os.path.lexists(name)), None)
        what = f"{lost}: no such file" if lost else f"{_no_image(names)}: is no image"
        raise DataError(f"{what}; leave it out, or mend it{f' ({bad} such files)' if bad > 1 else ''}")


def _no_image(names: Sequence[str]) -> str:
    from headstart.features.images.scan import inspect_image

    return next(name for name in names if not inspect_image(name))


def _require_alike(config: FeatureConfig) -> None:
    """Raise OptionError if `config` names several cuts and one of them is a map."""
    cuts = chosen_cuts(config)
    if len(cuts) > 1 and any(cut.map for cut in cuts):
        raise OptionError("cut: maps can't lie side by side; give one map alone, or no maps")


def _require_room(extraction: ExtractionConfig, scanned: Scan, networks: Sequence[Network]) -> None:
    """Raise a DataError if the features of the scanned images take more than `memory_limit` allows."""
    count = len(scanned.examples)
    size = sum(4 * int(np.prod(one.backbone.shape(cut))) for one in networks for cut in one.cuts) * count
    if size > memory_limit(extraction.memory):
        limit = f"memory={extraction.memory:g}" if extraction.memory else "a quarter of all memory"
        raise DataError(
            f"the features of {count} images take {decimal(size)}, over {limit}; give a larger memory "
            "(in GiB), or use `headstart head`, which reads them from disk"
        )


def _table(examples: Examples, class_names: list[str], rejects: list[Reject], stores: Stores) -> FeatureTable:
    return FeatureTable(
        X=_read(stores, examples.digests),
        y=examples.labels.astype(np.int64),
        paths=list(examples.images.paths()),
        splits=np.array(list(examples.splits), dtype=np.str_),
        class_names=list(class_names),
        digests=[image.digest for image in examples.images],
        rejects=list(rejects),
    )


def _read(stores: Stores, digests: np.ndarray) -> np.ndarray:
    """Read the features of images into memory: float32 [N, D], or [N, H, W, D] if the only cut is a map."""
    if not any(cut.map for cut in stores):
        return read_features(stores, digests)
    (store,) = stores.values()
    found = np.empty((len(digests), *store.form.shape), np.float32)
    for positions, rows in store.stream(digests):
        found[positions] = rows
    return found
