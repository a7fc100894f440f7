"""Workers that scan, and die of a file or see none. Ray's processes must be able to import them."""

import os
import signal
from pathlib import Path
from typing import Any

from headstart.features.cluster.worker import Worker
from headstart.features.images.columns import inspected

DEADLY = "cat/60.png"


class DeadlyWorker(Worker):
    """Is killed by one of the files."""

    def __init__(self, cpus: int, libraries: bool = True) -> None:
        super().__init__(cpus, libraries)
        inspect = inspected.inspect_image

        def survived(path: str, *limits: Any, **more: Any) -> Any:
            if path.endswith(DEADLY):
                os.kill(os.getpid(), signal.SIGKILL)
            return inspect(path, *limits, **more)

        inspected.inspect_image = survived


class BlindWorker(Worker):
    """Its node has no such files."""

    def do_unit(self, unit: int, items: Any, backwards: bool) -> Any:
        """Look elsewhere."""
        return super().do_unit(unit, items.with_folders([f"/nowhere{folder}" for folder in items.folders]), backwards)


class HalfBlindWorker(BlindWorker):
    """Its node has no such files, if it is the first of two."""

    def do_unit(self, unit: int, items: Any, backwards: bool) -> Any:
        """Look elsewhere on one of two nodes."""
        first = Path(os.environ["COUNTED"])
        if first.exists() and first.read_text() != str(os.getpid()):
            return Worker.do_unit(self, unit, items, backwards)
        first.write_text(str(os.getpid()))
        return super().do_unit(unit, items, backwards)


class DeadlyPredictor(Worker):
    """Is killed by one of the files that it classifies."""

    def __init__(self, cpus: int, libraries: bool = True) -> None:
        super().__init__(cpus, libraries)
        from headstart.pipeline.predict import sources

        inspect = sources.inspect_image

        def survived(path: str, *limits: Any) -> Any:
            if path.endswith(DEADLY):
                os.kill(os.getpid(), signal.SIGKILL)
            return inspect(path, *limits)

        sources.inspect_image = survived
