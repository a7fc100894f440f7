"""Facts about backbones that were built before: a command that finds all features cached need not build a network.

Building InceptionV3 and reading its weights takes longer than the rest of such a command.
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

_VERSION = 1  # of the way facts are derived from a backbone


@dataclass(frozen=True)
class BackboneFacts:
    """The part of a fingerprint that only a built backbone can tell; see `Backbone`."""

    weights_digest: str
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class BackboneSource:
    """The settings and the weights file that a backbone is built from, as they are at one time."""

    settings: str  # everything that decides its weights and shapes, except the content of the weights file
    state: Mapping[str, Any] | None  # changes with that content; None if the file does not exist


def backbone_source(name: str, weights: str, image_size: int, weights_seed: int) -> BackboneSource:
    """Look at a backbone's weights file without reading it; see `build_backbone` for the arguments."""
    state: dict[str, Any] = {"version": _VERSION, "keras": keras.__version__, "numpy": np.__version__}
    seed = weights_seed if weights == "random" else 0
    if weights not in ("imagenet", "random"):
        weights = os.path.realpath(weights)
        try:
            status = os.stat(weights)
        except (OSError, ValueError):
            return BackboneSource(json.dumps([name, weights, image_size, seed]), None)
        # All weights files of a network have the same size, and a modification time can be set by hand.
        state |= {"bytes": status.st_size, "inode": status.st_ino}
        state |= {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
    return BackboneSource(json.dumps([name, weights, image_size, seed]), state)


class KnownBackbones:
    """The facts of backbones that were built before, in the file `backbones.json` of a store's `folder`.

    The folder is not made. Unreadable or damaged entries are ignored. With `forget` nothing is recalled.
    """

    def __init__(self, folder: Path, forget: bool = False) -> None:
        self._file = folder / "backbones.json"
        self._forget = forget
        self._started = time.time_ns()

    def recall(self, source: BackboneSource) -> BackboneFacts | None:
        """The facts of a backbone whose source has not changed; None if it has, or is new."""
        if self._forget or source.state is None:
            return None
        with suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
            entry = self._entries()[source.settings]
            if entry["state"] == source.state:
                shapes = {cut: (int(h), int(w), int(d)) for cut, (h, w, d) in entry["shapes"].items()}
                return BackboneFacts(str(entry["weights_digest"]), shapes)
        return None

    def save(self, facts: BackboneFacts, source: BackboneSource) -> None:
        """Remember `facts` of a backbone that was just built, unless its weights file may have changed meanwhile."""
        state = source.state
        if state is None or state.get("ctime_ns", 0) > self._started - SETTLED_NS or not self._file.parent.is_dir():
            return
        try:
            write_json(self._file, {**self._entries(), source.settings: {"state": state, **asdict(facts)}})
        except (OSError, ValueError) as error:  # the store is read-only or full
            console.print(f"the next command will read the weights again: {error}")

    def _entries(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            if self._file.is_file():
                entries = json.loads(self._file.read_bytes())
                return entries if isinstance(entries, dict) else {}
        return {}
