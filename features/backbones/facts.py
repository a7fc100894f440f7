"""What is known of backbones that were built before, so that a command that finds nothing to do builds none.

Building InceptionV3 and reading its weights takes longer than anything else such a command does.
"""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from headstart.features.files import SETTLED_NS, write_json
from headstart.features.terminal import console

_VERSION = 1  # of how facts are found from a backbone


@dataclass(frozen=True)
class BackboneFacts:
    """What a fingerprint tells of a built backbone.

    Args:
        weights_digest: SHA-256 over the shapes, dtypes and values of its weights.
        shapes: height, width and depth of the map at each cut.
    """

    weights_digest: str
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class BackboneSource:
    """What a backbone is built from, as it was at some time.

    Args:
        settings: all that decides its weights and shapes, but for what the weights file holds.
        state: tells other weights under the same settings apart; None where there is no such file.
    """

    settings: str
    state: Mapping[str, Any] | None


def backbone_source(name: str, weights: str, image_size: int, weights_seed: int) -> BackboneSource:
    """Look at the source of a backbone without reading it."""
    state: dict[str, Any] = {"version": _VERSION, "keras": keras.__version__, "numpy": np.__version__}
    seed = weights_seed if weights == "random" else 0
    if weights not in ("imagenet", "random"):
        weights = os.path.realpath(weights)
        try:
            status = os.stat(weights)
        except (OSError, ValueError):
            return BackboneSource(json.dumps([name, weights, image_size, seed]), None)
        # A weights file has the same size whatever its weights, and a time of change can be set.
        seen = (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        state |= dict(zip(("bytes", "inode", "mtime_ns", "ctime_ns"), seen, strict=True))
    return BackboneSource(json.dumps([name, weights, image_size, seed]), state)


class BackboneMemory:
    """Facts of backbones, by what they were built from.

    Args:
        folder: holds `backbones.json`, and is not made. What can't be read there, or is damaged, is as if it were not.
        forget: recall nothing.
    """

    def __init__(self, folder: Path, forget: bool = False) -> None:
        self._file = folder / "backbones.json"
        self._forget = forget
        self._started = time.time_ns()

    def recall(self, source: BackboneSource) -> BackboneFacts | None:
        """What is known of the backbone, if its source is as it was."""
        if self._forget or source.state is None:
            return None
        with suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
            entry = self._entries()[source.settings]
            if entry["state"] == source.state:
                shapes = {cut: (int(h), int(w), int(d)) for cut, (h, w, d) in entry["shapes"].items()}
                return BackboneFacts(str(entry["weights_digest"]), shapes)
        return None

    def save(self, facts: BackboneFacts, source: BackboneSource) -> None:
        """Remember `facts` of what was just built; not if its file may have changed since shortly before."""
        state = source.state
        if state is None or state.get("ctime_ns", 0) > self._started - SETTLED_NS or not self._file.parent.is_dir():
            return
        try:
            write_json(self._file, {**self._entries(), source.settings: {"state": state, **asdict(facts)}})
        except (OSError, ValueError) as error:  # a store that can only be read, or is full
            console.print(f"the next command will read the weights again: {error}", markup=False)

    def _entries(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            if self._file.is_file():
                entries = json.loads(self._file.read_bytes())
                return entries if isinstance(entries, dict) else {}
        return {}
