"""The command line with small shards, a slow disk and counted forward passes: -m tests.counted COUNTS ARGUMENT...

COUNTS gets a line for each finished forward pass: how many images it was of.
"""

import sys
import time
from pathlib import Path

import headstart.features.files
import headstart.features.store.writer
import numpy as np
from headstart import cli
from headstart.features.backbones.cuts import Cut
from headstart.features.frozen.frozen import FrozenBackbone, Pass

SHARD_IMAGES = 32
PASS_SECONDS = 0.02
FLUSH_SECONDS = 0.02


def main() -> None:
    counts = Path(sys.argv[1])
    original = FrozenBackbone.__call__

    def counted(self: FrozenBackbone, pixels: np.ndarray, *run: Pass) -> dict[Cut, np.ndarray]:
        vectors = original(self, pixels, *run)
        with counts.open("a") as file:
            file.write(f"{len(pixels)}\n")
        time.sleep(PASS_SECONDS)
        return vectors

    flush = headstart.features.files.flush_to_disk

    def slow_flush(path: Path) -> None:
        time.sleep(FLUSH_SECONDS)
        flush(path)

    headstart.features.files.flush_to_disk = slow_flush
    FrozenBackbone.__call__ = counted  # type: ignore[method-assign]
    headstart.features.store.writer.SHARD_IMAGES = SHARD_IMAGES
    cli.app(sys.argv[2:])


if __name__ == "__main__":
    main()
