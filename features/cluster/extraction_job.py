"""The job of a worker that extracts features. This module needs no Ray."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.backbones.cuts import KNOWN_WEIGHTS
from headstart.features.backbones.facts import KnownBackbones
from headstart.features.backbones.outlines import is_own
from headstart.features.cluster.nodes import why_other_features
from headstart.features.cluster.probe import NodeError, require_store_seen
from headstart.features.cluster.worker import Built
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.device import processor
from headstart.features.images.augment import View
from headstart.features.images.faults import Reason
from headstart.features.images.files.paths import is_url
from headstart.features.images.scan import ImageFile
from headstart.features.store.fingerprint import Fingerprint

if TYPE_CHECKING:
    from headstart.features.frozen.frozen import FrozenBackbone
    from headstart.features.frozen.network import Network

_AWAY = (errno.ESTALE, errno.EIO, errno.ENOENT, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV)


@dataclass(frozen=True)
class ExtractionTask:
    """The extraction of features with one network. All paths are absolute."""

    config: FeatureConfig  # of one backbone, resolved; see `Network.config`
    extraction: ExtractionConfig
    view: View | None
    nonce: str  # in the probe file; see `probe`
    sample: Sequence[ImageFile]  # some of the images
    fingerprints: Sequence[Fingerprint]  # that the driver has for the cuts of the network

    def job(self) -> ExtractionJob:
        """Return the job of a worker."""
        return ExtractionJob(self)

    def require_same(self, met: Sequence[Mapping[str, Any]]) -> None:
        """Raise a NodeError unless a worker has the driver's fingerprints. `met` has the worker's as JSON."""
        for asked, there in zip(self.fingerprints, map(Fingerprint.from_json, met), strict=True):
            if asked.key != there.key:
                raise NodeError(why_other_features(asked, there))


@dataclass(frozen=True)
class Finished:
    """A unit that is finished, unless it was `stopped`. Rejects are (position in the unit, reason, detail)."""

    extracted: int  # images; less than the unit has if some had features already
    rejects: Sequence[tuple[int, Reason, str]]
    seconds: float
    stopped: bool


class ExtractionJob:
    """Extracts units. `tell` and `stop` may be called in another thread meanwhile."""

    def __init__(self, task: ExtractionTask) -> None:
        self._network: Network
        self._backbone: FrozenBackbone
        self._task = task
        self._tried, self._unit, self._stopped = 0, -1, False

    def meet(self) -> list[dict[str, Any]]:
        """Check that this node can do a task. Return the fingerprint of each cut as JSON.

        A store or images that this node does not see raise a NodeError. Weights that are missing raise a WeightsError.
        """
        from headstart.features.frozen.network import load_networks

        task = self._task
        require_store_seen(task.extraction.store, task.nonce)
        unseen = [image for image in task.sample if not image.is_unchanged()]
        if task.sample and len(unseen) == len(task.sample):
            raise NodeError(f"{unseen[0].file}: this node does not see the image, or sees another one at this path")
        known = KnownBackbones(task.extraction.store, read_only=True)
        (self._network,) = load_networks(task.config, task.extraction, known)
        return [self._network.fingerprint(cut, task.view).to_json() for cut in self._network.cuts]

    def build(self, batch_size: int) -> Built:
        """Build the network. `batch_size` 0 means that this worker chooses it, by trials on a GPU."""
        from headstart.features.device import start_tensorflow

        extraction = replace(self._task.extraction, batch_size=batch_size or self._task.extraction.batch_size)
        self._network = replace(self._network, extraction=extraction)
        self._stores = self._network.stores(self._task.view)
        self._backbone = self._network.freeze(keep=True)
        features = self._of_sample()
        return Built(self._backbone.batch_size, features, start_tensorflow(), processor())

    def _of_sample(self) -> np.ndarray:
        """Return the features of a drawn image, and of one of the task's images from its file, float32 [F]."""
        from headstart.features.images.batches import decoded_batches

        size = self._network.images.size
        pixels = [np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)]
        pixels += [decoded for _, decoded in decoded_batches(self._task.sample[:1], self._network.images, 1)]
        found = [self._backbone(image)[cut] for image in pixels for cut in self._network.cuts]
        return np.concatenate([features.ravel() for features in found])

    def extract(self, unit: int, images: Sequence[ImageFile], backwards: bool) -> Finished:
        """Extract the features of the unit with the number `unit`; see `extract_unit`.

        A store that is gone here raises a NodeError.
        """
        from headstart.features.extract import extract_unit

        self._tried, self._unit, self._stopped = 0, unit, False
        start = time.perf_counter()
        try:
            done = extract_unit(
                images,
                self._backbone,
                self._stores,
                self._network.images,
                self._task.view,
                self._advance,
                lambda: self._stopped,
                backwards,
            )
        except OSError as error:
            gone = [store.folder for store in self._stores.values() if not (store.folder / "fingerprint.json").exists()]
            if gone or error.errno in _AWAY:
                raise NodeError(f"{gone[0]}: this node no longer sees the store" if gone else str(error)) from error
            raise
        positions = {image.path: position for position, image in enumerate(images)}
        rejects = [(positions[reject.path], reject.reason, reject.detail) for reject in done.rejects]
        return Finished(done.extracted, rejects, time.perf_counter() - start, self._stopped)

    def tell(self, unit: int) -> int:
        """Return how many images of a unit are done, 0 if it is not the current one."""
        return self._tried if unit == self._unit else 0

    def stop(self, unit: int) -> None:
        """End a unit early, if it is the current one. Its features so far are written."""
        self._stopped |= unit == self._unit

    def _advance(self, count: int) -> None:
        self._tried += count


def absolute(images: Sequence[ImageFile]) -> list[ImageFile]:
    """Return `images` with absolute paths, as a worker has another current folder. URLs stay as they are."""
    return [
        image if is_url(image.path) or os.path.isabs(image.path) else replace(image, path=os.path.abspath(image.path))
        for image in images
    ]


def absolute_settings(network: Network) -> tuple[FeatureConfig, ExtractionConfig]:
    """Return the settings from which a worker loads `network`. Scratch files are for the driver alone."""
    config, extraction = network.config, network.extraction
    weights = config.weights if config.weights in KNOWN_WEIGHTS else str(Path(config.weights).absolute())
    backbone = str(Path(config.backbone).absolute()) if is_own(config.backbone) else config.backbone
    config = replace(config, weights=weights, backbone=backbone)
    return config, replace(extraction, store=extraction.store.absolute(), scratch=None)
