"""The job of a worker that extracts features. This module needs no Ray."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.backbones.cuts import KNOWN_WEIGHTS
from headstart.features.backbones.facts import KnownBackbones
from headstart.features.backbones.outlines import is_own
from headstart.features.cluster.nodes import why_other_features
from headstart.features.cluster.probe import NodeError, is_seen, require_store_seen
from headstart.features.cluster.stream import Finished, UnitStream
from headstart.features.cluster.unit_job import UnitJob
from headstart.features.cluster.worker import Built, Job
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.device import processor
from headstart.features.images.augment import View
from headstart.features.images.columns.images import Images
from headstart.features.images.files.paths import is_url
from headstart.features.images.scan import ImageFile
from headstart.features.store.fingerprint import Fingerprint

if TYPE_CHECKING:
    from headstart.features.frozen.frozen import FrozenBackbone
    from headstart.features.frozen.network import Network

_AWAY = (errno.ESTALE, errno.EIO, errno.ENOENT, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV)


@dataclass(frozen=True)
class Met:
    """What a worker tells the driver about its node, before the first unit.

    `fingerprints` has the fingerprint of each cut, as JSON. `sees_images` tells whether the worker can read at least
    one image of the task's `sample`, unchanged since the scan. It is true if the sample is empty.
    """

    fingerprints: Sequence[Mapping[str, Any]]
    sees_images: bool


@dataclass(frozen=True)
class ExtractionTask:
    """The task to extract features with one network. All paths are absolute."""

    config: FeatureConfig  # of one backbone, resolved; see `Network.config`
    extraction: ExtractionConfig  # without `scratch`, which need not be on the worker's node
    view: View | None
    nonce: str  # in the probe file; see `probe`
    sample: Sequence[ImageFile]  # some of the images
    images: int  # the number of images that lack features
    fingerprints: Sequence[Fingerprint]  # the driver's, for the cuts of the network
    kept: Path | None = None  # the folder in which the driver keeps bytes of remote images; see `fetched`
    takes_network = True

    @property
    def tries_batch_sizes(self) -> bool:
        """Whether a worker on a GPU finds its batch size by trials."""
        return not self.extraction.batch_size and self.config.precision != "int8"

    def job(self, before: Job | None) -> ExtractionJob:
        """Return the job that does this task in a worker.

        The argument `before` is an earlier job of the worker, or None. The new job may take over the earlier job's
        network.
        """
        return ExtractionJob(self, before)

    def require_same(self, met: Met) -> None:
        """Raise a NodeError if a worker can't see the driver's images, or has other fingerprints than the driver."""
        if not met.sees_images and any(map(is_seen, self.sample)):
            first = self.sample[0].file
            raise NodeError(f"{first}: this node does not see the image, or sees another one at this path")
        for asked, there in zip(self.fingerprints, map(Fingerprint.from_json, met.fingerprints), strict=True):
            if asked.key != there.key:
                raise NodeError(why_other_features(asked, there))


@dataclass(frozen=True)
class FactsTask:
    """The task to build networks and to save their facts in the store.

    The driver and the other workers then read the facts from the store, and need not build the networks.
    """

    config: FeatureConfig
    extraction: ExtractionConfig
    tries_batch_sizes = takes_network = False
    kept = None

    def job(self, before: Job | None) -> FactsJob:
        """Return the job that does this task in a worker. The argument is ignored."""
        return FactsJob(self)

    def require_same(self, met: Any) -> None:
        """Do nothing."""


class FactsJob(UnitJob):
    """Builds networks, which an `ExtractionJob` then takes over. A `FactsJob` has no units."""

    def __init__(self, task: FactsTask) -> None:
        super().__init__()
        self._task = task
        self.networks: list[Network] = []

    def meet(self) -> None:
        """Build the networks.

        If OpenVINO runs a network, also write the network into the store, in the form that OpenVINO reads.
        """
        from headstart.features.frozen.engines import engine, uses_openvino
        from headstart.features.frozen.network import load_networks

        known = KnownBackbones(self._task.extraction.store)
        self.networks = load_networks(self._task.config, self._task.extraction, known)
        for network in self.networks:
            if uses_openvino(network.backbone.precision, engine(network.backbone)):
                network.freeze(keep=True)

    def do(self, items: Any) -> Any:
        """Do nothing."""


@dataclass(frozen=True)
class Given:
    """The images of a unit, as they are sent to a worker. No two images have the same digest.

    `again` is true if some of the images may have features already.
    """

    images: Images
    again: bool


class ExtractionJob:
    """The job that extracts features. A worker can get its next unit while it still extracts the present unit."""

    def __init__(self, task: ExtractionTask, before: Job | None = None) -> None:
        self._network: Network
        self._backbone: FrozenBackbone
        self._task, self._before = task, before
        self._built: Built | None = None
        self._stream: UnitStream | None = None

    def meet(self) -> Met:
        """Check that this node can do the job's task.

        If this node does not see the store, a NodeError is raised. If weights are missing, a WeightsError is raised.
        """
        from headstart.features.frozen.network import load_networks

        task, before, self._before = self._task, self._before, None
        require_store_seen(task.extraction.store, task.nonce)
        sees_images = not task.sample or any(map(is_seen, task.sample))
        if isinstance(before, ExtractionJob) and before.has_network_of(task):
            self._network, self._backbone, self._built = before._network, before._backbone, before._built
        else:
            known = KnownBackbones(task.extraction.store, read_only=True)
            (self._network,) = load_networks(task.config, task.extraction, known)
            if isinstance(before, FactsJob):
                self._network = _with_built_model(self._network, before.networks)
        fingerprints = [self._network.fingerprint(cut, task.view).to_json() for cut in self._network.cuts]
        return Met(fingerprints, sees_images)

    def has_network_of(self, task: ExtractionTask) -> bool:
        """Return whether this job has built the network of `task`."""
        own = self._task
        return self._built is not None and (own.config, own.extraction) == (task.config, task.extraction)

    def build(self, batch_sizes: Mapping[str, int]) -> Built:
        """Build the network, unless the job took over a built network from the previous job.

        `batch_sizes` holds the batch sizes that other workers found; see `Job.build`.
        """
        from headstart.features.device import start_tensorflow

        task = self._task
        if self._built is None:
            built = Built(device=start_tensorflow(), processor=processor())
            size = task.extraction.batch_size or batch_sizes.get(built.kind, 0)
            self._network = replace(self._network, extraction=replace(task.extraction, batch_size=size))
            self._backbone = self._network.freeze(keep=True)
            self._built = replace(built, batch_size=self._backbone.batch_size, features=self._of_sample())
        stores = self._network.stores(task.view)
        self._stream = UnitStream(self._backbone, stores, self._network.images, task.view, task.images)
        return self._built

    def _of_sample(self) -> dict[str, np.ndarray]:
        """Return features by which workers are compared: the features of fixed noise, and those of a sample image.

        The key of the noise is "". The key of the sample image is the digest of the image.
        """
        from headstart.features.images.batches import decoded_batches

        size = self._network.images.size
        pixels = {"": np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)}
        for image in self._task.sample:
            for _, decoded in decoded_batches([image], self._network.images, 1):
                pixels[image.digest] = decoded
            if len(pixels) > 1:
                break
        features = {name: self._backbone(image) for name, image in pixels.items()}
        cuts = self._network.cuts
        return {name: np.concatenate([found[cut].ravel() for cut in cuts]) for name, found in features.items()}

    def do_unit(self, unit: int, items: Given, backwards: bool) -> Finished:
        """Extract the features of the unit with the number `unit`; see `UnitStream.extract`.

        If this node no longer sees the store, a NodeError is raised.
        """
        stream = self._in_use()
        try:
            return stream.extract(unit, items.images, items.again, backwards)
        except OSError as error:
            folders = [store.folder for store in stream.stores.values()]
            gone = [folder for folder in folders if not (folder / "fingerprint.json").exists()]
            if gone or error.errno in _AWAY:
                raise NodeError(f"{gone[0]}: this node no longer sees the store" if gone else str(error)) from error
            raise

    def tell(self, unit: int) -> int:
        """Return how many images of the unit with the number `unit` are done; 0 if this job does not have this unit."""
        return self._in_use().tried(unit)

    def stop(self, unit: int) -> None:
        """End the unit with the number `unit` early. The features extracted so far are written."""
        self._in_use().stop(unit)

    def share(self, unit: int) -> None:
        """From now on, write the features of a unit every few seconds, because a second worker has the same unit."""
        self._in_use().share(unit)

    def close(self) -> None:
        """End the thread of this job. The job must have no unit."""
        if self._stream:
            self._stream.close()

    def _in_use(self) -> UnitStream:
        if self._stream is None:
            raise RuntimeError("a unit was given before `build`")
        return self._stream


def _with_built_model(network: Network, others: Sequence[Network]) -> Network:
    """Look in `others` for a network with the same backbone as `network`.

    If there is such a network, return a copy of `network` that has the other network's model. Otherwise, return
    `network` itself.
    """
    own = network.backbone
    for other in (one.backbone for one in others):
        same = (other.weights_digest, other.image_size, other.precision, other.shapes)
        if same == (own.weights_digest, own.image_size, own.precision, own.shapes):
            return replace(network, backbone=replace(own, load=other.load))
    return network


def absolute(images: Images) -> Images:
    """Return `images` with absolute paths, because a worker has another current folder. URLs stay as they are."""
    here, folders = os.getcwd(), images.files.folders
    return images.at(images.files.with_folders([one if is_url(one) else os.path.join(here, one) for one in folders]))


def absolute_settings(config: FeatureConfig, extraction: ExtractionConfig) -> tuple[FeatureConfig, ExtractionConfig]:
    """Return `config` and `extraction` for a worker: with absolute paths, and without a scratch folder.

    A worker has another current folder, and may lack the scratch folder.
    """
    weights = config.weights if config.weights in KNOWN_WEIGHTS else str(Path(config.weights).absolute())
    backbone = str(Path(config.backbone).absolute()) if is_own(config.backbone) else config.backbone
    extraction = replace(extraction, store=extraction.store.absolute(), scratch=None)
    return replace(config, weights=weights, backbone=backbone), extraction
