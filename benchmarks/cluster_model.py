"""A discrete-event simulator of processes that fill one store: what features/extract.py and features/store/ do.

It has the real constants: portions, claims that are void after ten minutes, marks of done portions, listings, shards,
the small ones of a small set that processes share, the thread that writes them, the waiting in the end, and the
compaction of a set that fits into one large shard. Large sets are simulated in units of several portions.
"""

from collections import Counter, deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from headstart.benchmarks.cluster_parts import Costs, Disk, Node, Outcome, Protocol, Work
from headstart.features import extract
from headstart.features.store import claims, compact, kept_index, merged, writer
from headstart.features.store.portions import portion_size

try:
    import simpy
except ImportError as error:
    raise SystemExit("error: the simulator of a cluster needs SimPy: pip install 'simpy>=4.1'") from error

Events = Generator[Any, Any, None]

MOST_UNITS = 20_000  # of a simulation
_SLICE = 0.25  # seconds after which a process of a shared machine sees how many cores it gets
_SCAN_SLICES, _SCAN_THREADS = 64, 16
_SMALLEST_CHUNK, _LARGEST_CHUNK = 16, 1024  # portions that a process looks at before the others go on
_PART = 50  # operations of a process, for each portion of a unit, after which those of others have their turn
_ENTRIES = 1000  # of a folder that one operation lists
_NEVER = np.inf


def simulate(
    work: Work,
    nodes: Sequence[Node],
    disk: Disk = Disk(),
    costs: Costs = Costs(),
    protocol: Protocol = Protocol(),
    seed: int = 0,
) -> Outcome:
    """Simulate the extraction of `work` by `nodes`. The outcome follows from the arguments alone."""
    cluster = _Cluster(work, nodes, disk, costs, protocol, np.random.default_rng(seed))
    cluster.clock.run()
    return cluster.outcome()


class _Server:
    """Answers requests in their order, at `rate` units per second."""

    def __init__(self, clock: simpy.Environment, rate: float) -> None:
        self._clock, self._rate, self._free, self.total = clock, rate, 0.0, 0.0

    def seconds(self, units: float) -> float:
        """Ask for `units`. Return the seconds until they are served."""
        self._free = max(self._clock.now, self._free) + units / self._rate
        self.total += units
        return self._free - self._clock.now


class _Cluster:
    """The store and the disk: what all processes see. A portion is written from its first image on."""

    def __init__(
        self,
        work: Work,
        nodes: Sequence[Node],
        disk: Disk,
        costs: Costs,
        protocol: Protocol,
        rng: np.random.Generator,
    ) -> None:
        self.work, self.disk, self.costs, self.protocol, self.rng = work, disk, costs, protocol, rng
        self.clock = simpy.Environment()
        self.operations = _Server(self.clock, disk.operations)
        self.bytes = _Server(self.clock, disk.bandwidth)
        mean = protocol.portion_images or portion_size(work.images)
        self.shard_images = protocol.shard_images or writer.shard_size(work.images)
        self.small_shard_images = protocol.shard_images or writer.small_shard_size(work.images)
        self.grain = max(1, round(work.images / mean / MOST_UNITS))  # portions in a unit
        self.size = self._cut(mean)
        units = len(self.size)
        self.written, self.before = np.zeros(units, np.int64), np.zeros(units, np.int64)  # before: the last shard
        self.wrote_at = np.full(units, -_NEVER)
        self.owner = np.full(units, -1)
        self.void_at = np.full(units, _NEVER)
        self.marked_until = np.full(units, -_NEVER)
        self.shards = self.images = 0  # the images of the shards
        self.index_kept = self.compacted = False
        self.finished = 0.0
        self.processes = [_Process(self, number, node) for number, node in enumerate(nodes)]

    def _cut(self, mean: int) -> np.ndarray:
        """The sizes of the units, int64 [n]: a portion ends at each image with probability 1 / `mean`."""
        left, sizes = self.work.images, []
        while left > 0:
            drawn = self.rng.negative_binomial(self.grain, 1 / mean, 1024) + self.grain
            sizes.append(drawn)
            left -= drawn.sum()
        size = np.concatenate(sizes)
        ends = np.cumsum(size).clip(max=self.work.images)
        cut = np.diff(np.concatenate([[0], ends]))
        found: np.ndarray = cut[cut > 0]
        return found

    def known(self, units: np.ndarray, listed: float) -> np.ndarray:
        """How many images of each unit had features at the time `listed`, int64 [n]."""
        found: np.ndarray = np.where(self.wrote_at[units] <= listed, self.written[units], self.before[units])
        return found

    def wrote(self, unit: int, stop: int) -> None:
        """The images of a unit before `stop` have features from now on."""
        if stop > self.written[unit]:
            self.before[unit] = self.written[unit] if self.wrote_at[unit] < self.clock.now else self.before[unit]
            self.written[unit], self.wrote_at[unit] = stop, self.clock.now

    def outcome(self) -> Outcome:
        times: Counter[str] = Counter()
        for process in self.processes:
            times.update(process.times)
        return Outcome(
            self.finished, self.work.images, int(self.written.sum()), sum(one.extracted for one in self.processes),
            len(self.processes), self.operations.total, self.disk.operations, self.shards, dict(times),
        )  # fmt: skip


class _Process:
    """One process: a thread that claims portions ahead, the passes, and a thread that writes shards."""

    def __init__(self, cluster: _Cluster, number: int, node: Node) -> None:
        self._cluster, self._number, self._node = cluster, number, node
        self._clock, self._costs = cluster.clock, cluster.costs
        self.times: Counter[str] = Counter()
        self.extracted = 0
        self._knows = self._listed = self._took = self._since = 0.0  # it knows the store as of `_knows`
        self._seen_shards = self._seen_images = 0
        self._open = np.empty(0, np.int64)
        self._held: set[int] = set()
        self._taken: deque[int] = deque()
        self._collected: list[tuple[int, int]] = []  # a unit, and where its finished images end
        self._count = 0
        self._keeps_shards_small = False
        self._writing: simpy.Process | None = None
        self._hangs = node.hangs
        self._running: list[simpy.Process] = []
        self._spawn(self._live())
        if node.dies < _NEVER:
            self._clock.process(self._die())

    def _spawn(self, events: Events) -> simpy.Process:
        def until_death() -> Events:
            with suppress(simpy.Interrupt):
                yield from events

        self._running = [one for one in self._running if one.is_alive]
        self._running.append(self._clock.process(until_death()))
        return self._running[-1]

    def _die(self) -> Events:
        yield self._clock.timeout(self._node.dies)
        for one in self._running:
            if one.is_alive:
                one.interrupt()
        # Other hosts find a claim void when it was not renewed for long; the same host knows that its process ended.
        renewed = self._clock.now - self._cluster.rng.uniform(0, claims._RENEW_SECONDS)
        void = self._clock.now if self._node.host else renewed + claims.VOID_SECONDS
        self._cluster.void_at[list(self._held)] = void

    def _live(self) -> Events:
        yield self._clock.timeout(self._node.joins)
        yield from self._compute(self._node.start, self._node.start_demand, "start")
        yield from self._scan()
        yield from self._list("start")
        self._since = self._clock.now
        every = np.arange(len(self._cluster.size))
        self._open = every[self._cluster.known(every, self._knows) < self._cluster.size]
        again = False
        while len(self._open):
            if again:
                yield from self._spend(extract._WAIT_SECONDS, "waiting")
            yield from self._round(again)
            again = True
        yield from self._finish()
        self._cluster.finished = max(self._cluster.finished, self._clock.now)

    # The passes.

    def _round(self, again: bool) -> Events:
        ahead = max(1, round(5 * self._node.batch * len(self._cluster.size) / self._cluster.work.images))
        queue = simpy.Store(self._clock, ahead)
        self._spawn(self._claim_all(queue, again))
        while True:
            start = self._clock.now
            unit, first = yield queue.get()
            self.times["waiting" if again and unit is None else "claims"] += self._clock.now - start
            if unit is None:
                break
            yield from self._extract(unit, first)
        yield from self._flush(None)
        yield from self._wait_for_shards()

    def _extract(self, unit: int, first: int) -> Events:
        self._taken.append(unit)
        rate = self._node.speed
        while first < self._cluster.size[unit]:
            soon = int(rate * max(0.0, self._since + writer.SHARD_SECONDS - self._clock.now)) + 1
            if self._node.host:
                soon = min(soon, int(rate * _SLICE) + 1)
            to_fill = 0 if self._keeps_shards_small else self._full_shard() - self._count
            images = min(int(self._cluster.size[unit]) - first, max(self._node.batch, to_fill), soon)
            yield from self._pass(images)
            first += images
            self._collected.append((unit, first))
            self._count += images
            self.extracted += images
            if self._count >= self._full_shard() or self._clock.now - self._since > writer.SHARD_SECONDS:
                yield from self._flush(unit)

    def _full_shard(self) -> int:
        """The images of a shard. While a small shard is written, images are collected for a larger one."""
        cluster, is_idle = self._cluster, self._writing is None or not self._writing.is_alive
        small = self._keeps_shards_small and is_idle
        return (cluster.small_shard_images if small else cluster.shard_images) * cluster.grain

    def _pass(self, images: int) -> Events:
        """Extract `images`. The slowest step decides: the others run beside it."""
        node, work, cluster = self._node, self._cluster.work, self._cluster
        self._hang()
        waits = images * work.read_operations * cluster.disk.latency / node.cores  # a core that reads can't decode
        steps = {
            "frozen network": images / node.speed,
            "decoding": images / (node.cores * node.decode) + waits,
            "connection": images * work.image_bytes / node.bandwidth,
            "disk bytes": cluster.bytes.seconds(images * work.image_bytes),
            "metadata of images": cluster.operations.seconds(images * work.read_operations)
            if work.read_operations
            else 0.0,
        }
        cluster.operations.total += len(self._held) * cluster.grain * images / node.speed / claims._RENEW_SECONDS
        slowest = max(steps, key=lambda name: steps[name])
        seconds = steps[slowest]
        if slowest == "decoding" and waits > seconds / 2:
            slowest = "disk latency"
        if self._clock.now < self._hangs[0] <= self._clock.now + seconds:
            yield from self._hang_now()
        yield from self._compute(node.slow * seconds, node.demand, slowest)

    def _hang(self) -> None:
        if self._hangs[0] < self._clock.now:  # it was to hang before the first pass
            self._hangs = (self._clock.now + 1e-9, self._hangs[1])

    def _hang_now(self) -> Events:
        cluster, held = self._cluster, list(self._held)
        cluster.void_at[held] = self._clock.now + claims.VOID_SECONDS
        seconds, self._hangs = self._hangs[1], (_NEVER, 0.0)
        yield from self._spend(seconds, "hanging")
        mine = [unit for unit in held if cluster.owner[unit] == self._number]
        cluster.void_at[mine] = _NEVER

    def _compute(self, seconds: float, demand: float, what: str) -> Events:
        """Work as `_share` does, and count the time."""
        start = self._clock.now
        try:
            yield from self._share(seconds, demand)
        finally:
            self.times[what] += self._clock.now - start

    def _share(self, seconds: float, demand: float = 1.0) -> Events:
        """Work for `seconds` of a machine of its own; longer, if it shares the machine and its cores are wanted."""
        host = self._node.host
        if host is None:
            yield self._clock.timeout(seconds)
            return
        host.demand += demand
        try:
            while seconds > 1e-9:
                share = min(1.0, host.cores / host.demand)
                step = min(seconds / share, _SLICE)
                yield self._clock.timeout(step)
                seconds -= step * share
        finally:
            host.demand -= demand

    def _spend(self, seconds: float, what: str) -> Events:
        start = self._clock.now
        try:
            yield self._clock.timeout(seconds)
        finally:
            self.times[what] += self._clock.now - start

    # Shards.

    def _flush(self, before: int | None) -> Events:
        """Write what was collected, and mark the units as done that were taken before the unit `before`, or all."""
        yield from self._wait_for_shards()
        done = []
        while self._taken and self._taken[0] != before:
            done.append(self._taken.popleft())
        if self._collected or done:
            self._writing = self._spawn(self._write(dict(self._collected), self._count, done))
        self._collected, self._count, self._since = [], 0, self._clock.now

    def _wait_for_shards(self) -> Events:
        if self._writing is not None and self._writing.is_alive:
            start = self._clock.now
            yield self._writing
            self.times["writing"] += self._clock.now - start

    def _write(self, collected: dict[int, int], images: int, done: list[int]) -> Events:
        cluster, costs = self._cluster, self._costs
        shards = max(1, round(images / cluster.shard_images)) if images else 0
        operations = shards * costs.write_shard + len(done) * costs.done * cluster.grain * cluster.protocol.claims
        waits = max(operations * cluster.disk.latency, cluster.operations.seconds(operations))
        moved = images * cluster.work.feature_bytes
        yield from self._share(images * costs.write + shards * costs.begin_shard)
        yield self._clock.timeout(max(waits, moved / self._node.bandwidth, cluster.bytes.seconds(moved)))
        cluster.shards += shards
        cluster.images += images
        for unit, stop in collected.items():
            cluster.wrote(unit, stop)
        for unit in done:
            cluster.marked_until[unit] = self._clock.now + claims._KEPT_SECONDS
            self._release(unit)

    def _release(self, unit: int) -> None:
        self._held.discard(unit)
        if self._cluster.owner[unit] == self._number:
            self._cluster.owner[unit], self._cluster.void_at[unit] = -1, _NEVER

    # Claims, and looking again.

    def _claim_all(self, queue: simpy.Store, again: bool) -> Events:
        """Claim the open units one by one, and put each with its first image without features into `queue`."""
        cluster, costs, shares = self._cluster, self._costs, self._cluster.protocol
        waiting, left = self._open, []
        drawn = not shares.claims
        if drawn:
            waiting = cluster.rng.permutation(waiting)
        largest = max(1, _LARGEST_CHUNK // cluster.grain)
        at, chunk = 0, min(_SMALLEST_CHUNK, largest)
        while at < len(waiting):
            units = waiting[at : at + chunk]
            busy, marked = self._states(units, again)
            if self._must_list() or (again and not busy.all()):
                yield from self._list()
            known = cluster.known(units, self._knows) >= cluster.size[units]
            busy, marked = self._states(units, again)
            free = ~(busy | marked | known)
            passed = int(free.argmax()) if free.any() else len(units)
            conflict = busy[:passed] | marked[:passed]
            if not drawn and conflict.any():
                passed = int(conflict.argmax()) + 1
                drawn = self._keeps_shards_small = True
                rest = cluster.rng.permutation(waiting[at + passed :])
                waiting = np.concatenate([waiting[: at + passed], rest])
                free = np.zeros(len(units), bool)
            yield from self._pass_by(units[:passed], busy[:passed], marked[:passed], again)
            left += units[:passed][busy[:passed] | (marked[:passed] & ~known[:passed])].tolist()
            at += passed
            chunk = min(2 * chunk, largest)
            if free.any():
                unit = int(units[passed])
                taken = yield from self._take(unit, again)
                if taken is None:
                    continue  # another process was faster: it is seen in the next turn
                at, chunk = at + 1, min(_SMALLEST_CHUNK, largest)
                if taken < cluster.size[unit]:
                    yield queue.put((unit, taken))
                else:
                    yield from self._operate(costs.release * cluster.grain)
                    self._release(unit)
        self._open = np.array(sorted(left), np.int64)
        yield queue.put((None, 0))

    def _states(self, units: np.ndarray, again: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return which of `units` another process has claimed, and which others are marked as done; bool [n] each."""
        cluster = self._cluster
        if not cluster.protocol.claims:
            return np.zeros(len(units), bool), np.zeros(len(units), bool)
        owner = cluster.owner[units]
        busy = (owner >= 0) & (owner != self._number) & (cluster.void_at[units] > self._clock.now)
        marked = (cluster.marked_until[units] > self._clock.now) & ~np.bool_(again)
        return busy & ~marked, marked

    def _pass_by(self, units: np.ndarray, busy: np.ndarray, marked: np.ndarray, again: bool) -> Events:
        """Look at units that others have, or that have features."""
        if not len(units):
            return
        cluster, costs = self._cluster, self._costs
        look = costs.look * float(cluster.size[units[~busy]].sum())
        rest = int((~busy & ~marked).sum()) if cluster.protocol.claims and not cluster.protocol.look_first else 0
        operations = (
            int(busy.sum()) * (costs.busy - again) + int(marked.sum()) * costs.marked
            + rest * (costs.claim + costs.release)
        )  # fmt: skip
        if again and not cluster.protocol.look_first:
            look += max(0, int((~busy).sum()) * cluster.grain - 1) * self._took_without_news()
        yield from self._operate(operations * cluster.grain, look)

    def _take(self, unit: int, again: bool) -> Generator[Any, Any, int | None]:
        """Claim a unit. Return its first image without features, or None if another process was faster."""
        cluster = self._cluster
        here = np.array([unit])
        if cluster.protocol.claims:
            yield from self._operate(self._costs.claim * cluster.grain, self._costs.look * float(cluster.size[unit]))
            busy, marked = self._states(here, again)
            if busy[0] or marked[0]:
                return None
            taken_over = cluster.owner[unit] not in (-1, self._number)
            cluster.owner[unit], cluster.void_at[unit] = self._number, _NEVER
            self._held.add(unit)
            if again or taken_over:
                yield from self._list()
        else:
            yield from self._operate(0, self._costs.look * float(cluster.size[unit]))
        return int(cluster.known(here, self._knows)[0])

    def _must_list(self) -> bool:
        return self._clock.now - self._listed >= min(self._took / writer._SHARE, claims.KNOWN_SECONDS)

    def _list(self, what: str = "") -> Events:
        """List the store, and read the digests of new shards."""
        start, cluster, costs = self._clock.now, self._cluster, self._costs
        new, images = cluster.shards - self._seen_shards, cluster.images - self._seen_images
        self._seen_shards, self._seen_images = cluster.shards, cluster.images
        yield from self._operate(new * costs.open_shard, new * costs.learn_shard + images * costs.learn_image)
        if (without := self._took_without_news()) > 0:
            yield from self._operate(0, without)
        self._knows, self._listed, self._took = start, self._clock.now, self._clock.now - start
        if what:
            self.times[what] += self._took

    def _took_without_news(self) -> float:
        shards = self._cluster.shards
        return shards * self._costs.list_entry + (1 + shards / _ENTRIES) * self._cluster.disk.latency

    def _operate(self, operations: float, seconds: float = 0.0) -> Events:
        """Do metadata operations one after the other, and compute for `seconds`."""
        while operations > 0:
            part = min(operations, _PART * self._cluster.grain)
            yield self._clock.timeout(max(part * self._cluster.disk.latency, self._cluster.operations.seconds(part)))
            operations -= part
        if seconds > 0:
            yield from self._share(seconds)

    # The beginning and the end.

    def _scan(self) -> Events:
        work, cluster = self._cluster.work, self._cluster
        part = work.images / _SCAN_SLICES
        for _ in range(_SCAN_SLICES if work.scan_operations or work.scan_seconds or work.scan_bytes else 0):
            operations, size = part * work.scan_operations, part * work.scan_bytes
            seconds = max(
                operations * cluster.disk.latency / _SCAN_THREADS,
                cluster.operations.seconds(operations),
                size / self._node.bandwidth,
                cluster.bytes.seconds(size),
                part * work.scan_seconds,
            )
            yield from self._spend(seconds, "scan")

    def _finish(self) -> Events:
        """Compact many small shards unless another process does. Write the merged file, and the index if none did."""
        cluster, costs = self._cluster, self._costs
        start = self._clock.now
        yield from self._list()
        is_small = cluster.work.images * cluster.work.feature_bytes < compact.LARGE_SHARD_BYTES
        if is_small and cluster.shards > compact.MANY_SHARDS and not cluster.compacted:
            cluster.compacted = (cluster.owner < 0).all()
            yield from self._share(cluster.shards * costs.compact_shard * cluster.compacted)
        shown = 1 if cluster.compacted else min(cluster.shards, merged.MOST_SHARDS)
        yield from self._operate(shown * costs.open_shard, shown * costs.learn_shard)
        if cluster.shards >= kept_index.LARGE and not cluster.index_kept:
            size = 40.0 * cluster.work.images
            waits = max(size / self._node.bandwidth, cluster.bytes.seconds(size))
            yield self._clock.timeout(cluster.work.images * costs.keep_index + waits)
            cluster.index_kept = True
        self.times["index"] += self._clock.now - start
