"""Compute logits of a fine-tuned classifier on a cluster. Workers get units of images, and return the logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from headstart.features.backbones.facts import KnownBackbones
from headstart.features.cluster.crew import Crew
from headstart.features.cluster.extraction_job import absolute, absolute_settings
from headstart.features.cluster.probe import NodeError, is_seen
from headstart.features.cluster.scanning import drawn, require_seen
from headstart.features.cluster.sharing import Sharing
from headstart.features.cluster.unit_job import Outcome, UnitJob
from headstart.features.cluster.worker import Built, Job
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError
from headstart.features.files import sha256_of
from headstart.features.frozen.network import Network
from headstart.features.images.columns.images import Images
from headstart.features.images.files.fetched import kept_folder
from headstart.features.images.files.paths import is_url
from headstart.pipeline.runs import Run

if TYPE_CHECKING:
    from headstart.pipeline.classifier import FrozenClassifier

_LARGEST = 1 << 14  # images in a unit


@dataclass(frozen=True)
class LogitsTask:
    """The task of computing the logits of images with a run's fine-tuned classifier. All paths are absolute."""

    run: Path
    config: FeatureConfig  # of the run's network
    extraction: ExtractionConfig
    digest: str  # of the driver's classifier
    sample: Sequence[tuple[str, tuple[int, int]]]  # see `require_seen`
    kept: Path | None = None
    takes_network = False

    @property
    def tries_batch_sizes(self) -> bool:
        """Whether a worker on a GPU finds its batch size by trials; see `worker.Task.tries_batch_sizes`."""
        return not self.extraction.batch_size

    def job(self, before: Job | None) -> LogitsJob:
        """Return the job that does this task in a worker. The argument is ignored."""
        return LogitsJob(self)

    def require_same(self, met: str) -> None:
        """Raise a NodeError if a worker has another classifier than the driver.

        `met` is the result of `LogitsJob.meet` in this worker.
        """
        if met != self.digest:
            raise NodeError(f"{self.run}: this node has another classifier at this path")


class LogitsJob(UnitJob):
    """Computes logits in a worker. A unit is `Images` with absolute paths."""

    def __init__(self, task: LogitsTask) -> None:
        super().__init__()
        self._task = task
        self._classifier: FrozenClassifier

    def meet(self) -> str:
        """Check that the worker can read the task's sample of images. Return the digest of the worker's classifier."""
        require_seen(self._task.sample)
        return sha256_of(Run.open(self._task.run).classifier_file)

    def build(self, batch_sizes: Mapping[str, int]) -> Built:
        """Build the classifier. Return facts about the classifier, and its logits for an image of noise.

        `batch_sizes` holds the best batch size for each kind of device; see `Built.kind`.
        """
        from headstart.features.device import processor, start_tensorflow
        from headstart.features.frozen.network import load_networks
        from headstart.pipeline.classifier import freeze_in_parts

        task, built = self._task, Built(device=start_tensorflow(), processor=processor())
        batch_size = task.extraction.batch_size or batch_sizes.get(built.kind, 0)
        extraction = replace(task.extraction, batch_size=batch_size)
        (network,) = load_networks(task.config, extraction, KnownBackbones(extraction.store, read_only=True))
        self._classifier = freeze_in_parts(Run.open(task.run), network)
        side = network.images.size
        noise = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        logits = self._classifier(noise).ravel()
        return replace(built, batch_size=self._classifier.backbone.batch_size, features={"": logits})

    def do(self, items: Images) -> tuple[np.ndarray, np.ndarray]:
        """Compute the logits of `items`; see `FrozenClassifier.logits`."""
        return self._classifier.logits(items, self.advance, self.is_stopped)


def logits_by(
    crew: Crew, run: Run, network: Network, images: Images, advance: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the logits of `images` with the workers of `crew`. `network` is the network of `run`.

    Returns the same two arrays as `FrozenClassifier.logits`. An image that one node could not decode is sent to another
    node, if there is one. Raises DataError if an image has killed three workers.
    """
    every = absolute(images)
    sample = drawn([path for path in every.files if not is_url(path)])
    settings = absolute_settings(network.config, network.extraction)
    crew.begin(LogitsTask(run.path.absolute(), *settings, sha256_of(run.classifier_file), sample, kept_folder()))

    def lost_of(positions: Sequence[int], outcome: Outcome) -> list[int]:
        found: list[int] = np.delete(np.array(positions), outcome.result[0]).tolist()
        return found

    def blind(positions: Sequence[int], outcome: Outcome) -> str:
        lost = lost_of(positions, outcome)
        if 2 * len(lost) <= len(positions) or not is_seen(images[lost[0]]):
            return ""
        # Most images of a unit may well be broken. Only a decoder knows, so this is rare and slow.
        from headstart.features.images.batches import why_undecodable

        image = every[lost[0]]
        return (
            f"it can't read {image.file}, which the driver can" if why_undecodable(image).reason == "vanished" else ""
        )

    positions, rows = list[np.ndarray](), list[np.ndarray]()
    sharing = Sharing(
        crew, len(images), lambda at, again: every[np.array(at)], advance, blind=blind, unread=lost_of, largest=_LARGEST
    )
    for piece in sharing.run():
        if piece.result is None:
            path = images[piece.positions[0]].path
            raise DataError(f"{path}: crashed, three workers died while they classified it")
        decoded, logits = piece.result.result
        positions.append(np.array(piece.positions)[decoded])
        rows.append(logits)
    found = np.concatenate(positions)
    order = np.argsort(found)
    return found[order], np.concatenate([part for part in rows if len(part)] or rows)[order]
