"""Facts about backbones. They are saved when a backbone is built, so that later commands need not build it."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headstart.features.backbones.cuts import KNOWN_WEIGHTS
from headstart.features.errors import WeightsError
from headstart.features.files import SETTLED_NS, read_json, write_json
from headstart.features.terminal import console

_VERSION = 1  # raise it when a backbone yields other facts than before


@dataclass(frozen=True)
class BackboneFacts:
    """The fields of `backbone.Backbone` that are known only after the backbone's model was built."""

    weights_digest: str
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class BackboneSource:
    """The settings of a backbone, and the state of its weights file at one moment."""

    settings: str  # everything that decides weights and shapes, except the content of the weights file
    state: Mapping[str, Any] | None  # changes if the file or a library changes; None if the file is missing


def backbone_source(name: str, weights: str, image_size: int, weights_seed: int) -> BackboneSource:
    """Return the settings of a backbone and the state of its weights file. The file is not read.

    `weights` is `imagenet`, `random`, or the path of the weights file, which can be the `.keras` file of the backbone.
    `image_size` is the side of the input in pixels. `weights_seed` is the seed of random weights.
    """
    state: dict[str, Any] = {"version": _VERSION, "keras": version("keras"), "numpy": version("numpy")}
    file = None if weights in KNOWN_WEIGHTS else os.path.realpath(weights)
    settings = json.dumps([name, file or weights, image_size, weights_seed if weights == "random" else 0])
    if file:
        try:
            status = os.stat(file)
        except (OSError, ValueError):
            return BackboneSource(settings, None)
        # Size and mtime do not suffice: all weights files of a network have equal size, and mtime can be set by hand.
        state |= {"bytes": status.st_size, "inode": status.st_ino}
        state |= {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
    return BackboneSource(settings, state)


def require_weights_file(weights: str) -> None:
    """Raise a WeightsError unless `weights` is `imagenet`, `random` or an existing file."""
    if weights not in KNOWN_WEIGHTS and not Path(weights).is_file():
        raise WeightsError(
            f"--weights {weights}: no such file; give imagenet, random, or a .weights.h5 or _notop.h5 file"
        )


class KnownBackbones:
    """The file `backbones.json` in the store `folder`. It holds the facts of backbones that were built before.

    `folder` is never created. If `forget` is true, `recall` returns None. If `read_only` is true, `save` does nothing.
    """

    def __init__(self, folder: Path, forget: bool = False, read_only: bool = False) -> None:
        self._file = folder / "backbones.json"
        self._forget, self._read_only = forget, read_only
        self._started = time.time_ns()

    def recall(self, source: BackboneSource) -> BackboneFacts | None:
        """Return the facts that were saved for `source`.

        Return None if no facts were saved, or if the weights file or the version of a library has changed since.
        """
        if self._forget or source.state is None:
            return None
        with suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
            entry = self._entries()[source.settings]
            if entry["state"] == source.state:
                shapes = {cut: tuple(int(side) for side in shape) for cut, shape in entry["shapes"].items()}
                return BackboneFacts(str(entry["weights_digest"]), shapes)
        return None

    def recall_shapes(self, name: str, image_size: int) -> Mapping[str, tuple[int, ...]] | None:
        """Return the shape at each cut of the network `name` for images with sides of `image_size` pixels.

        The shapes do not depend on the weights. Return None if the network was never built at this size.
        """
        for settings, entry in self._entries().items():
            with suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
                known, _, size, _ = json.loads(settings)
                if (known, size) == (name, image_size):
                    return {cut: tuple(int(side) for side in shape) for cut, shape in entry["shapes"].items()}
        return None

    def save(self, facts: BackboneFacts, source: BackboneSource) -> None:
        """Save `facts` of a backbone that was just built. A failure to write is only printed.

        Nothing is saved in these cases:

        - `read_only` is true, or the folder of the store does not exist.
        - The weights file is missing.
        - The weights file was changed after this `KnownBackbones` was made, or at most two seconds before.
        """
        state = source.state
        if self._read_only or state is None or not self._file.parent.is_dir():
            return
        if state.get("ctime_ns", 0) > self._started - SETTLED_NS:
            return
        try:
            write_json(self._file, {**self._entries(), source.settings: {"state": state, **asdict(facts)}})
        except (OSError, ValueError) as error:  # the store is read-only or full
            console.print(f"the next command will read the weights again: {error}")

    def _entries(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            entries = read_json(self._file)
            return entries if isinstance(entries, dict) else {}
        return {}
