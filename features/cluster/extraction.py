"""Extraction on a cluster: the driver gives units to the crew, and collects rejects.

The workers write features into the stores, so that the stores show which images are done.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from headstart.features.backbones.cuts import Cut
from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.connection import connecting
from headstart.features.cluster.crew import Crew
from headstart.features.cluster.extraction_job import ExtractionTask, FactsTask, Given, absolute, absolute_settings
from headstart.features.cluster.member import Member
from headstart.features.cluster.probe import is_seen, probe_file
from headstart.features.cluster.scanning import inspect_by
from headstart.features.cluster.sharing import Sharing
from headstart.features.cluster.stream import Finished
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.digests import first_positions, hex_digests, raw_digests
from headstart.features.errors import HeadstartError
from headstart.features.extract import Extracted, NodeWork
from headstart.features.files import require_space
from headstart.features.frozen.network import Network, may_build_here
from headstart.features.images.augment import View
from headstart.features.images.columns.images import Images
from headstart.features.images.columns.inspected import Elsewhere
from headstart.features.images.faults import UNREAD
from headstart.features.images.files.fetched import kept_folder
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.store.claims import Claims
from headstart.features.store.store import FeatureStore
from headstart.features.store.writer import ShardWriter
from headstart.features.terminal import console, progress

_SAMPLE = 5
_PREPARED_SECONDS = 120.0  # for a worker to build the network, so that the driver need not
_CLAIM_BYTES = 32  # of a claim's name, which is longer than the name of any portion


@dataclass
class Cluster:
    """A crew of workers on a Ray cluster, for one command.

    The function `begun` waits for the connection to the cluster, and returns the crew.
    """

    config: ClusterConfig
    begun: Callable[[], Crew]

    def scanner(self) -> Elsewhere | None:
        """Return a function that lets the workers inspect files. If this machine is the whole cluster, return None.

        On a single machine, the threads of the driver inspect files just as fast as workers would.
        """
        if self.config.ray == "local":
            return None
        crew = self.begun()
        return partial(inspect_by, crew) if crew.is_elsewhere() else None

    def prepare(self) -> None:
        """Wait until a worker has built the networks, and has saved their facts in the store; see `FactsTask`.

        The wait takes at most two minutes from the moment when Ray is connected. It ends without an error if the worker
        fails. If no worker has a `FactsTask`, there is no wait.
        """
        self.begun().prepared(_PREPARED_SECONDS)

    def extract(
        self,
        images: Sequence[ImageFile],
        network: Network,
        stores: Mapping[Cut, FeatureStore],
        view: View | None = None,
    ) -> Extracted:
        """Extract the features that `stores` lack for `images`. The workers of the crew do the work.

        If `view` is given, the workers augment the images first. A node that can't take part is left out, with a
        message. If no node can take part, a HeadstartError is raised. For other errors, see `extract_features` in
        `extract.py`.
        """
        missing = _missing(images, stores)
        done = Extracted()
        if len(missing):
            which = "" if view is None else f"view {view.number} of "
            console.print(f"extracting features of {which}{len(missing)} images that have none yet, by Ray")
            description = "extracting features" if view is None else f"view {view.number}"
            with ExitStack() as at_the_end:
                nonce = at_the_end.enter_context(probe_file(network.extraction.store))
                renew_claims = at_the_end.enter_context(_claimed(stores.values()))
                crew = self.begun()
                crew.begin(_task(network, stores, view, nonce, missing))
                advance = at_the_end.enter_context(progress(description, len(missing)))
                done = _extracted(missing, crew, advance, renew_claims)
        return done


@contextmanager
def _claimed(stores: Iterable[FeatureStore]) -> Iterator[Callable[[], None]]:
    """While the context is open, hold a claim in each store, so that no process compacts the store automatically.

    Yield a function that renews the claims.
    """
    claims = [Claims(store.folder) for store in stores]

    def renew() -> None:
        for one in claims:
            one.renew()

    try:
        for one in claims:
            one.take(secrets.token_hex(_CLAIM_BYTES))
        yield renew
    finally:
        for one in claims:
            one.release_all()


def _missing(images: Sequence[ImageFile], stores: Mapping[Cut, FeatureStore]) -> Images:
    """Return the distinct images that lack features. Raise an OSError if the features can't be stored."""
    every = Images.of(images)
    different = every[first_positions(every.digests)]
    writer = ShardWriter(stores, different.digests)
    if lacking := writer.lacking():
        require_space(writer.folder, writer.bytes_to_come())
        writer.require_writable()
    writer.close()
    return different[np.isin(different.digests, raw_digests(list(lacking)))]


@contextmanager
def cluster(
    config: ClusterConfig, features: FeatureConfig | None = None, extraction: ExtractionConfig | None = None
) -> Iterator[Cluster | None]:
    """Connect to a Ray cluster, and yield a `Cluster`. When the context ends, kill the workers and disconnect.

    If `config` names no cluster, yield None. Workers start at once, while the caller goes on.

    If `features` and `extraction` are given, a worker on this machine may build the networks of `features`. The worker
    then saves the networks' facts in the store; see `FactsTask`.
    """
    if not config.ray:
        yield None
        return

    def begin() -> Crew:
        crew = Crew(config)
        crew.recruit()
        with suppress(HeadstartError):  # the driver finds the same error
            if features and extraction and "+" not in features.weights and not may_build_here(features, extraction):
                crew.prepare(FactsTask(*absolute_settings(features, extraction)))
        return crew

    with connecting(config.ray, begin, Crew.dismiss) as begun:
        yield Cluster(config, begun)


def _task(
    network: Network, stores: Mapping[Cut, FeatureStore], view: View | None, nonce: str, missing: Images
) -> ExtractionTask:
    config, extraction = absolute_settings(network.config, network.extraction)
    sample = list(absolute(missing[:: max(1, len(missing) // _SAMPLE)][:_SAMPLE]))
    fingerprints = [store.fingerprint for store in stores.values()]
    return ExtractionTask(config, extraction, view, nonce, sample, len(missing), fingerprints, kept_folder())


def _extracted(
    missing: Images, crew: Crew, advance: Callable[[int], None], renew_claims: Callable[[], None]
) -> Extracted:
    """Extract the features of `missing` with the workers of `crew`."""
    sent = absolute(missing)
    rejects: dict[int, Reject] = {}  # by position
    work = defaultdict[Member, NodeWork](NodeWork)

    def unread(positions: Sequence[int], result: Finished) -> Sequence[int]:
        return [positions[at] for at, reason, _ in result.rejects if reason in UNREAD]

    def blind(positions: Sequence[int], result: Finished) -> str:
        gone = unread(positions, result)
        most = gone[:_SAMPLE] if 2 * len(gone) > len(positions) else ()
        seen_here = next((missing[one] for one in most if is_seen(missing[one])), None)
        return f"it can't read {seen_here.file}, which the driver can" if seen_here else ""

    def worked(member: Member, result: Finished) -> None:
        work[member] += NodeWork(result.extracted, result.seconds)

    sharing = Sharing(
        crew,
        len(missing),
        lambda positions, again: Given(sent[np.array(positions)], again),
        advance,
        blind=blind,
        unread=unread,
        worked=worked,
        tried=lambda positions, result: result.extracted + len(result.rejects),
        tick=renew_claims,
        ahead=True,
    )
    for positions, result in sharing.run():
        for position in positions if rejects else ():  # another worker could not read it
            rejects.pop(position, None)
        if result is None:
            crashed = "three workers died while they extracted it"
            rejects[positions[0]] = Reject(missing[positions[0]].path, "crashed", crashed)
            continue
        for at, reason, detail in result.rejects:
            rejects[positions[at]] = Reject(missing[positions[at]].path, reason, detail)
    seconds = time.perf_counter() - sharing.begun if sharing.begun else 0.0
    extracted = np.ones(len(missing), bool)
    extracted[list(rejects)] = False
    digests = frozenset(hex_digests(missing.digests[extracted]))
    return Extracted(digests, [rejects[position] for position in sorted(rejects)], seconds, _by_node(work))


def _by_node(work: Mapping[Member, NodeWork]) -> dict[str, NodeWork]:
    """Return a dict from the name of each node to the work of the node.

    The speed of a node is the sum of the speeds of its workers, because the workers run at the same time.
    """
    nodes: dict[str, NodeWork] = {}
    for name in sorted({member.name for member in work}):
        slots: dict[int, NodeWork] = defaultdict(NodeWork)  # a worker may have followed a dead one
        for member, done in work.items():
            if member.name == name:
                slots[member.slot] = slots[member.slot] + done
        speed = sum(done.images / done.seconds for done in slots.values() if done.seconds)
        images = sum(done.images for done in slots.values())
        nodes[name] = NodeWork(images, images / speed if speed else 0.0)
    return nodes
