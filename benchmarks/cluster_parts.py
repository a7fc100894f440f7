"""What the simulator of a cluster is told: nodes, their shared disk, the work, the costs of each step, the protocol.

Costs were measured on the machines of docs/measurements.md, with photographs of 45 KB and features of 2,048 float16.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

GIGABIT = 1e9 / 8  # bytes per second


@dataclass(frozen=True)
class Disk:
    """A disk that all nodes share. Its metadata operations are answered one after the other, and so are its bytes."""

    latency: float = 0.5e-3  # seconds until one metadata operation is answered
    operations: float = 50_000.0  # metadata operations per second, of all nodes together
    bandwidth: float = 10e9  # bytes per second, of all nodes together


@dataclass
class Host:
    """A machine whose cores several processes share. `demand` is the number of cores that they want now."""

    cores: float
    demand: float = 0.0


@dataclass(frozen=True)
class Node:
    """One process that extracts, and its machine.

    Args:
        speed: images per second of the frozen network.
        cores, decode: cores that decode, and the images per second that one of them decodes.
        batch: images per forward pass.
        bandwidth: bytes per second of its connection to the disk.
        start: seconds from its begin to its first pass.
        joins, dies: seconds after the begin of the first node.
        slow: a straggler takes this many times as long.
        hangs: when it hangs, and for how many seconds.
        host: the machine that it shares with other processes; `demand` and `start_demand` are the cores that it wants
            while it extracts and while it starts. Without a host, it has a machine of its own.
    """

    speed: float
    cores: float = math.inf
    decode: float = math.inf
    batch: int = 8
    bandwidth: float = 10 * GIGABIT
    start: float = 20.0
    joins: float = 0.0
    dies: float = math.inf
    slow: float = 1.0
    hangs: tuple[float, float] = (math.inf, 0.0)
    host: Host | None = field(default=None, compare=False)
    demand: float = 1.0
    start_demand: float = 1.0


@dataclass(frozen=True)
class Work:
    """The images, and where they lie. Each process scans all of them before it begins.

    Args:
        images: at least 1.
        image_bytes, feature_bytes: of one image.
        read_operations: metadata operations to read one image: open, fstat, read and close of a file; the read of a
            member, and a share of opening its tar.
        scan_operations, scan_seconds, scan_bytes: metadata operations, processor seconds and bytes to look at one known
            image: the size and time of a file, or the headers of a member and its label; and the scan memory.
    """

    images: int
    image_bytes: float = 45_000.0
    feature_bytes: float = 4096.0 + 32
    read_operations: float = 4.0
    scan_operations: float = 1.0
    scan_seconds: float = 25e-6
    scan_bytes: float = 100.0


@dataclass(frozen=True)
class Costs:
    """Processor seconds, and metadata operations, of the steps of the protocol on a node.

    A metadata operation is a system call that reaches the disk. The caches of a client may save some.
    """

    look: float = 3.5e-6  # to look an image up in the index
    list_entry: float = 5e-6  # for each shard in a listing
    learn_shard: float = 3.7e-3  # to open a new shard
    learn_image: float = 0.3e-6  # to read the digest of an image of a new shard, and to sort it in
    write: float = 47e-6  # for each image of a shard, by the thread that writes
    begin_shard: float = 3.3e-3  # for each shard, by this thread
    compact_shard: float = 3.2e-3  # for each small shard that is compacted in the end
    keep_index: float = 0.2e-6  # for each image in the end
    claim: int = 5  # stat of .done, create, write, close, stat of .done
    release: int = 4  # open, read, close, unlink
    done: int = 7  # create, close, the release, unlink of an old .done
    marked: int = 1  # stat of .done
    busy: int = 7  # stat of .done, create, lstat twice, open, read, close
    open_shard: int = 7  # lstat, open, fstat, three reads, close
    write_shard: int = 12  # exists, create, write, close, three for each flush, rename, unlink of .retired


@dataclass(frozen=True)
class Protocol:
    """How processes share the work.

    Args:
        claims: whether they claim portions. Without, each takes portions in an order drawn at random, and looks before.
        portion_images: the mean size of a portion, a power of 2; 0 is the size that headstart chooses.
        shard_images: the size of a shard; 0 is the size that headstart chooses.
        look_first: a process looks in its index before it claims, and lists the store once a round in the end. The
            real one claims first, and in the end lists once a portion.
    """

    claims: bool = True
    portion_images: int = 0
    shard_images: int = 0
    look_first: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a simulation found. `times` has the seconds of all nodes by what they did or waited for."""

    seconds: float
    images: int
    written: int  # images with features
    extracted: int  # by all nodes together; an image counts as often as it was extracted
    nodes: int
    operations: float  # of metadata
    disk_operations: float  # those per second that the disk can do
    shards: int
    times: Mapping[str, float]

    @property
    def images_per_second(self) -> float:
        return self.written / self.seconds

    @property
    def waste(self) -> float:
        """The images extracted again, as a fraction of all."""
        return (self.extracted - self.written) / self.images

    @property
    def idle(self) -> float:
        """The fraction of the nodes' seconds in which they extracted nothing."""
        total = sum(self.times.values())
        return 1 - sum(self.times.get(name, 0.0) for name in EXTRACTING) / total if total else 0.0

    @property
    def operations_per_second(self) -> float:
        return self.operations / self.seconds

    @property
    def bottleneck(self) -> str:
        """What took most of the nodes' seconds."""
        return max(self.times, key=lambda name: self.times[name])


# While images are extracted, the slowest of these decides.
EXTRACTING = ("frozen network", "decoding", "disk latency", "disk bytes", "connection", "metadata of images")
