"""The batches of phase 2: training images, val images, and the training images for the `Reference`."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from headstart.features.images.pixels import ImageConfig
from headstart.features.tensorflow import keras, tf
from headstart.features.terminal import console
from headstart.pipeline.data.examples import Example
from headstart.pipeline.extracting import extract_at, first_views
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.model import FinetuneModel
from headstart.pipeline.inputs import NextEpoch, eval_dataset, features_dataset, train_dataset
from headstart.pipeline.memory.limits import free_memory, memory_limit
from headstart.pipeline.scoring.unlike import reference_rows

_SHARE = 2  # the training needs memory, too

Batch = tuple[Any, Any]  # the inputs of the trained part, [b, ...] each; labels, int64 [b]


class MapBatches:
    """Batches of the inputs of the trained part. Each iteration yields the same batches in the same order.

    The first iteration keeps batches in memory until they would take more than `most_bytes`. Later iterations compute
    only the other batches anew. One iteration must end before the next one begins.
    """

    def __init__(self, after: Callable[[int], Iterable[Batch]], most_bytes: int = 0) -> None:
        self._after = after  # returns all batches after the first n images
        self._free = most_bytes
        self._kept = list[Batch]()
        self.kept_seconds = 0.0  # the time to compute the batches that are kept

    def __iter__(self) -> Iterator[Batch]:
        yield from self._kept
        since = time.perf_counter()
        for batch in self._after(sum(len(labels) for _, labels in self._kept)):
            self._keep(batch, time.perf_counter() - since)
            yield batch
            since = time.perf_counter()

    def _keep(self, batch: Batch, seconds: float) -> None:
        """Keep `batch` if it fits. Otherwise, keep no more batches, so that those that are kept are the first ones."""
        if self._free and (size := sum(array.nbytes for array in keras.tree.flatten(batch))) <= self._free:
            self._kept.append(batch)
            self._free -= size
            self.kept_seconds += seconds
        else:
            self._free = 0


@dataclass(frozen=True)
class Batches:
    """The datasets of training images, of val images, and of the training images for the `Reference`."""

    train: tf.data.Dataset  # of inputs of the model; each iteration is an epoch, with its own order and augmentation
    val: MapBatches
    reference: MapBatches  # training images without augmentation or, from a cache of views, their first view
    reference_images: int


def make_batches(
    built: FinetuneModel,
    config: FinetuneConfig,
    seed: int,
    next_epoch: NextEpoch,
    raised: list[Exception] | None = None,
) -> Batches:
    """Make the datasets for the model `built`.

    `next_epoch` returns the number of the epoch that begins. The number decides the order of the training images. For
    `raised`, see `features_dataset`.

    If the model takes maps, missing maps are extracted first. If the model takes pixels, the frozen part computes the
    maps of val images. These maps are kept in memory as long as there is space. The remaining maps are computed again
    in each epoch; see `MapBatches`.
    """
    cached, batch_size = built.cached, config.batch_size
    train, val = cached.of("train"), cached.of("val")
    width = built.scored.output_shape[0][-1]
    drawn = [train[row] for row in reference_rows(np.array([one.label for one in train]), width)]
    if built.map_cut is None:
        images, kept_bytes = cached.network.images, min(memory_limit(0), free_memory()) // _SHARE
        return Batches(
            train_dataset(train, images, batch_size, config.augment, seed, next_epoch),
            _computed(built.frozen, val, images, batch_size, kept_bytes),
            _computed(built.frozen, drawn, images, batch_size),
            len(drawn),
        )
    if not config.views:
        console.print("trained on images as they are; --views K caches K augmented views of each")
    views = first_views(config.augment, seed, config.views)
    (plain,) = extract_at(cached.network, built.map_cut, val if views else [*train, *val], [None])
    viewed = extract_at(cached.network, built.map_cut, train, views) or [plain]
    val_maps = features_dataset([plain], val, batch_size, seed, lambda: 0, raised)
    reference_maps = features_dataset(viewed[:1], drawn, batch_size, seed, lambda: 0, raised)
    return Batches(
        features_dataset(viewed, train, batch_size, seed, next_epoch, raised),
        MapBatches(lambda _: val_maps),
        MapBatches(lambda _: reference_maps),
        len(drawn),
    )


def _computed(
    frozen: keras.Model, examples: Sequence[Example], images: ImageConfig, batch_size: int, most_bytes: int = 0
) -> MapBatches:
    """Return batches of the outputs of `frozen` for `examples`; see `frozen_part`."""

    def after(count: int) -> Iterator[Batch]:
        if count < len(examples):
            for pixels, labels in eval_dataset(examples[count:], images, batch_size):
                yield frozen.predict_on_batch(pixels), labels.numpy()

    return MapBatches(after, most_bytes)
