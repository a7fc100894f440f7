"""A probe file in a store: a node that can read it sees the same store as the driver."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headstart.features.errors import HeadstartError
from headstart.features.outputs import unwritable

_WAIT_SECONDS, _TRIES = 0.5, 6  # a network's disk may show a new file late


class NodeError(HeadstartError):
    """A node that can't take part. The message says why, and does not name the node."""


@contextmanager
def probe_file(store: Path) -> Iterator[str]:
    """Write a probe file into a store, and remove it at the end. Yield its nonce, 32 hexadecimal digits."""
    nonce = secrets.token_hex(16)
    file = _file(store, nonce)
    file.write_text(nonce)
    try:
        yield nonce
    finally:
        with suppress(OSError):
            file.unlink()


def require_store_seen(store: Path, nonce: str) -> None:
    """Raise a NodeError unless this node reads the probe file in `store`, and can write there."""
    file = _file(store, nonce)
    for _ in range(_TRIES):
        with suppress(OSError):
            if file.read_text() == nonce:
                break
        time.sleep(_WAIT_SECONDS)
    else:
        what = "it has another folder at this path" if os.path.isdir(store) else "it has no such folder"
        raise NodeError(
            f"--store {store}: this node does not see the store ({what}); name a folder on a disk that all nodes share"
        )
    if reason := unwritable(store):
        raise NodeError(f"--store {store}: this node can't write there ({reason})")


def _file(store: Path, nonce: str) -> Path:
    return store / f".probe-{nonce}"
