"""What is known of backbones that were built before, so that a command that finds nothing to do builds none.

Building InceptionV3 and reading its weights takes longer than anything else such a command does.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from features.files import SETTLED_NS, write_json
from features.progress import console


@dataclass(frozen=True)
class BackboneFacts:
    """What a fingerprint tells of a built backbone.

    Args:
        weights_digest: SHA-256 over the shapes, dtypes and values of its weights.
        shapes: height, width and depth of the map at each cut.
    """

    weights_digest: str
    shapes: Mapping[str, tuple[int, ...]]


class BackboneMemory:
    """Facts by the settings that a backbone is built from; a weights file is known by its size and time of change.

    Args:
        folder: holds `backbones.json`. What can't be read there is as if it were not.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "backbones.json"
        self._started = time.time_ns()

    def recall(self, name: str, weights: str, image_size: int, weights_seed: int) -> BackboneFacts | None:
        """What is known of the backbone, if its weights are as they were."""
        with suppress(OSError, KeyError, TypeError, ValueError, AttributeError):
            entry = self._entries()[_key(name, weights, image_size, weights_seed)]
            if entry["state"] == _state(weights):
                shapes = {str(cut): tuple(int(side) for side in shape) for cut, shape in entry["shapes"].items()}
                return BackboneFacts(str(entry["weights_digest"]), shapes)
        return None

    def save(self, facts: BackboneFacts, name: str, weights: str, image_size: int, weights_seed: int) -> None:
        """Remember `facts`, unless the weights file was written to since just before this memory was made."""
        state = _state(weights)
        if state["mtime_ns"] > self._started - SETTLED_NS:
            return
        entry = {"state": state, **asdict(facts)}
        try:
            write_json(self._file, {**self._entries(), _key(name, weights, image_size, weights_seed): entry})
        except OSError as error:  # a store that can only be read, or is full
            console.print(f"the next command will read the weights again: {error}", markup=False)

    def _entries(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            entries = json.loads(self._file.read_bytes())
            return entries if isinstance(entries, dict) else {}
        return {}


def _key(name: str, weights: str, image_size: int, weights_seed: int) -> str:
    file = weights if weights in ("imagenet", "random") else str(Path(weights).resolve())
    return json.dumps([name, file, image_size, weights_seed if weights == "random" else 0])


def _state(weights: str) -> dict[str, Any]:
    """What other weights under the same name would differ in."""
    versions = {"keras": keras.__version__, "numpy": np.__version__}
    if weights in ("imagenet", "random"):
        return {**versions, "bytes": 0, "mtime_ns": 0}
    status = Path(weights).stat()
    return {**versions, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
