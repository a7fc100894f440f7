"""Extraction on a cluster: the driver gives units to the crew, and collects rejects. The stores hold what is done."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from headstart.features.backbones.cuts import Cut
from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.connection import connected
from headstart.features.cluster.crew import Crew, Member
from headstart.features.cluster.extraction_job import ExtractionTask, Finished, absolute, absolute_settings
from headstart.features.cluster.probe import probe_file
from headstart.features.cluster.scanning import inspect_by
from headstart.features.cluster.units import Unit, Units
from headstart.features.extract import Extracted, NodeWork
from headstart.features.files import require_space
from headstart.features.frozen.network import Network
from headstart.features.images.augment import View
from headstart.features.images.columns.inspected import Elsewhere
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.store.fingerprint import Fingerprint
from headstart.features.store.store import FeatureStore
from headstart.features.store.writer import ShardWriter
from headstart.features.terminal import console, progress

_TICK_SECONDS = 0.2
_TELL_SECONDS = 1.0
_LAST_SECONDS = 5.0  # for a unit that is stopped to write its features
_SAMPLE = 5


@dataclass
class Cluster:
    """A crew of workers on a Ray cluster, for one command."""

    crew: Crew

    def scanner(self) -> Elsewhere | None:
        """Return a function that inspects files by the crew. Return None if this machine is the whole cluster.

        Then its own threads inspect files as fast.
        """
        return partial(inspect_by, self.crew) if self.crew.is_elsewhere() else None

    def extract(
        self,
        images: Sequence[ImageFile],
        network: Network,
        stores: Mapping[Cut, FeatureStore],
        view: View | None = None,
    ) -> Extracted:
        """Extract the features of `images` that are missing in `stores`, as `extract_features` does.

        A node that can't take part is told, and left out. If none can, a HeadstartError is raised.
        """
        by_digest: dict[str, ImageFile] = {}
        for image in images:
            by_digest.setdefault(image.digest, image)
        writer = ShardWriter(stores, list(by_digest))
        lacking = writer.lacking()
        done = Extracted()
        if lacking:
            require_space(writer.folder, writer.bytes_to_come())
            missing = [image for digest, image in by_digest.items() if digest in lacking]
            which = "" if view is None else f"view {view.number} of "
            console.print(f"extracting features of {which}{len(missing)} images that have none yet, by Ray")
            with probe_file(network.extraction.store) as nonce:
                sample = missing[:: max(1, len(missing) // _SAMPLE)][:_SAMPLE]
                fingerprints = [one.fingerprint for one in stores.values()]
                self.crew.begin(_task(network, view, nonce, sample, fingerprints))
                description = "extracting features" if view is None else f"view {view.number}"
                with progress(description, len(missing)) as advance:
                    done = _Extraction(missing, self.crew, advance).run()
        writer.close()
        for store in stores.values():
            store.update_merged()
        return done


@contextmanager
def cluster(config: ClusterConfig) -> Iterator[Cluster | None]:
    """Connect to the cluster that `config` names, and dismiss the crew at the end. Without a name, yield None."""
    if not config.ray:
        yield None
        return
    with connected(config.ray):
        crew = Crew(config)
        try:
            yield Cluster(crew)
        finally:
            crew.dismiss()


def _task(
    network: Network,
    view: View | None,
    nonce: str,
    sample: Sequence[ImageFile],
    fingerprints: Sequence[Fingerprint],
) -> ExtractionTask:
    """Return what a worker must know. All its paths are absolute, as the worker has another current folder."""
    return ExtractionTask(
        *absolute_settings(network),
        view,
        nonce,
        absolute(sample),
        fingerprints,
    )


class _Extraction:
    """The extraction of `missing` by a crew."""

    def __init__(self, missing: Sequence[ImageFile], crew: Crew, advance: Callable[[int], None]) -> None:
        self.missing, self.crew, self.advance = missing, crew, advance
        self._units = Units[Member](len(missing))
        self._rejects: list[Reject] = []
        self._work: dict[Member, NodeWork] = defaultdict(NodeWork)
        self._shown, self._asked = 0, 0.0
        self._start: float | None = None

    def run(self) -> Extracted:
        """Give out units until all are done. After an error, let the workers write their features so far."""
        try:
            while not self._units.all_done:
                self.crew.recruit()
                self._give_out()
                for member, answer in self.crew.answers(_TICK_SECONDS):
                    self._take(member, answer)
                self._show_progress()
        finally:
            self.crew.rest(_LAST_SECONDS)
        for position in self._units.crashed:
            image = self.missing[position]
            self._rejects.append(Reject(image.path, "crashed", "three workers died while they extracted it"))
        seconds = time.perf_counter() - self._start if self._start else 0.0
        rejected = {reject.path for reject in self._rejects}
        digests = frozenset(image.digest for image in self.missing if image.path not in rejected)
        order = {image.path: position for position, image in enumerate(self.missing)} if rejected else {}
        return Extracted(digests, sorted(self._rejects, key=lambda reject: order[reject.path]), seconds, self._nodes())

    def _give_out(self) -> None:
        workers = len(self.crew.working())
        for member in self.crew.ready():
            unit = self._units.take(member, time.monotonic(), member.speed, workers)
            if unit:
                self._start = self._start or time.perf_counter()
                images = absolute(self.missing[unit.start : unit.stop])
                self.crew.extract(member, images, backwards=len(unit.holders) > 1)

    def _take(self, member: Member, answer: Finished | None) -> None:
        """Take the answer of a member that had a unit: None if it died."""
        unit = self._units.held_by(member)
        if answer is None:
            (self._units.die if member.died else self._units.give_back)(member)
            return
        self._work[member] = self._work[member] + NodeWork(answer.extracted, answer.seconds)
        if answer.extracted and answer.seconds:
            member.speed = answer.extracted / answer.seconds
        if unit is None:  # another worker was faster
            return
        if answer.stopped:
            self._units.give_back(member)
            return
        if self._cannot_read(unit, answer):
            self.crew.refuse(member, f"it can't read {self.missing[unit.start].file}, which the driver can")
            self._units.give_back(member)
            return
        for position, reason, detail in answer.rejects:
            self._rejects.append(Reject(self.missing[unit.start + position].path, reason, detail))
        for other in self._units.finish(member):
            self.crew.stop(other)

    def _cannot_read(self, unit: Unit[Member], answer: Finished) -> bool:
        """Return whether most images of a unit are gone for the worker, and not for the driver."""
        gone = [position for position, reason, _ in answer.rejects if reason in ("vanished", "unreadable")]
        return 2 * len(gone) > len(unit) and all(self.missing[unit.start + one].is_unchanged() for one in gone)

    def _show_progress(self) -> None:
        """Ask busy workers how far they are, and show the sum."""
        busy = [member for member in self.crew.working() if self._units.held_by(member)]
        now = time.monotonic()
        if now - self._asked > _TELL_SECONDS:
            self._asked = now
            self.crew.ask(busy)
        done = self._units.done
        for unit in {self._units.held_by(member) for member in busy}:
            if unit:
                done += min(len(unit), max(member.tried for member in unit.holders))
        if done > self._shown:
            self.advance(done - self._shown)
            self._shown = done

    def _nodes(self) -> dict[str, NodeWork]:
        """Return the work of each node. Its workers run at the same time, so their speeds are summed."""
        nodes: dict[str, NodeWork] = {}
        for name in sorted({member.name for member in self._work}):
            slots: dict[int, NodeWork] = defaultdict(NodeWork)  # a worker may have followed a dead one
            for member, work in self._work.items():
                if member.name == name:
                    slots[member.slot] = slots[member.slot] + work
            speed = sum(work.images / work.seconds for work in slots.values() if work.seconds)
            images = sum(work.images for work in slots.values())
            nodes[name] = NodeWork(images, images / speed if speed else 0.0)
        return nodes
