"""A worker that counts its passes, takes its time for each, and can be killed by an image."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import headstart.features.store.writer
import numpy as np
from headstart.features.backbones.cuts import Cut
from headstart.features.cluster.extraction_job import ExtractionTask
from headstart.features.cluster.worker import Built, Task, Worker
from headstart.features.frozen.frozen import FrozenBackbone, Pass
from headstart.features.images.scan import ImageFile

SHARD_IMAGES = 32
DEADLY = "deadly.jpg"


class CountedWorker(Worker):
    """Writes a line into COUNTED for each finished pass: the ID of the process, and the number of images."""

    def __init__(self, cpus: int, libraries: bool = True) -> None:
        super().__init__(cpus, libraries)
        headstart.features.store.writer.SHARD_IMAGES = SHARD_IMAGES
        original, counts = FrozenBackbone.__call__, Path(os.environ["COUNTED"])
        pause, unchanged = Path(os.environ["COUNTED"] + ".pause"), ImageFile.is_unchanged
        seconds = float(pause.read_text()) if pause.exists() else 0.02

        def counted(self: FrozenBackbone, pixels: np.ndarray, *run: Pass) -> dict[Cut, np.ndarray]:
            vectors = original(self, pixels, *run)
            with counts.open("a") as file:
                file.write(f"{os.getpid()} {len(pixels)}\n")
            time.sleep(seconds)
            return vectors

        def survived(self: ImageFile) -> bool:
            if self.path.endswith(DEADLY) and counts.exists():  # it is not among those shown first
                os.kill(os.getpid(), signal.SIGKILL)
            return unchanged(self)

        FrozenBackbone.__call__ = counted  # type: ignore[method-assign]
        ImageFile.is_unchanged = survived  # type: ignore[method-assign]


class ForeignWorker(CountedWorker):
    """On one of two nodes, its features differ in the last bits, as those of another processor."""

    def build(self, batch_sizes: Mapping[str, int]) -> Built:
        """Build the network, and wait for the other node to have built it, so that both have work."""
        built = super().build(batch_sizes)
        first, second = (Path(f"{os.environ['COUNTED']}.{which}") for which in ("first", "second"))
        try:
            first.touch(exist_ok=False)
        except FileExistsError:
            built.features[""][0] = np.nextafter(built.features[""][0], np.float32(np.inf))
            second.touch()
        end = time.monotonic() + 60
        while not second.exists() and time.monotonic() < end:
            time.sleep(0.1)
        return built


class BlindWorker(CountedWorker):
    """Its node has another folder in the place of the store."""

    def meet(self, task: Task) -> Any:
        """See elsewhere."""
        assert isinstance(task, ExtractionTask)
        elsewhere = replace(task.extraction, store=task.extraction.store.parent)
        return super().meet(replace(task, extraction=elsewhere))


class OldWorker(CountedWorker):
    """Its node has another version of headstart."""

    def hello(self) -> dict[str, Any]:
        """Return another version."""
        return {**super().hello(), "headstart": "0.0.1"}
