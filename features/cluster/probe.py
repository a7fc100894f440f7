"""Find out whether a node sees the images and the store that the driver sees. The store has a probe file for this."""

import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headstart.features.errors import HeadstartError
from headstart.features.images.files.paths import is_url
from headstart.features.images.files.reading import bytes_of
from headstart.features.images.scan import ImageFile
from headstart.features.outputs import unwritable
from headstart.features.processes import has_ended, this_process

_WAIT_SECONDS, _TRIES = 0.5, 6  # a network's disk may show a new file late
_LEFT_SECONDS = 7 * 24 * 3600  # after which a probe file of another host counts as left over
_NAME = re.compile(r"\.probe-[0-9a-f]{32}")
_LONGEST = 1000


class NodeError(HeadstartError):
    """The error of a node that can't take part. The message does not name the node."""


class NodeMemoryError(NodeError):
    """The error of a worker that does not have enough memory."""


@contextmanager
def memory_errors_told() -> Iterator[None]:
    """While the context is open, turn errors about a lack of memory (of the node or a GPU) into a NodeMemoryError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's
            said = " ".join(str(error).split())[:200]
            raise NodeMemoryError(f"its memory is not enough ({said or type(error).__name__})") from error
        raise


def is_seen(image: ImageFile) -> bool:
    """Return True if this process can read the file of `image` and the file is unchanged since the scan.

    The file is read. If the file is on a web server that reports no versions, only the digest of its bytes is compared.
    """
    stateless = is_url(image.file) and image.mtime_ns == 0
    try:
        return (stateless or image.is_unchanged()) and bool(bytes_of(image))
    except OSError:
        return False


@contextmanager
def probe_file(store: Path) -> Iterator[str]:
    """Write a probe file into a store, and yield the file's nonce. Remove the file when the context ends.

    The nonce is 32 random hexadecimal digits, which are in the file's name and content. Probe files of drivers that
    were killed are removed first.
    """
    for name in filter(_NAME.fullmatch, os.listdir(store)):
        with suppress(OSError):
            if _is_left(store / name):
                (store / name).unlink()
    nonce = secrets.token_hex(16)
    file = _file(store, nonce)
    file.write_text(f"{nonce} {this_process()}")
    try:
        yield nonce
    finally:
        with suppress(OSError):
            file.unlink()


def require_store_seen(store: Path, nonce: str) -> None:
    """Raise a NodeError unless this node can read the probe file with this `nonce` in `store`, and can write there."""
    file = _file(store, nonce)
    for _ in range(_TRIES):
        with suppress(OSError):
            if file.read_text().startswith(nonce):
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


def _is_left(probe: Path) -> bool:
    """Return whether the driver that wrote a probe file has ended.

    A driver on another host counts as ended when its probe file is a week old.
    """
    status = probe.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST:
        return False
    ended = has_ended(probe.read_bytes().decode(errors="replace").partition(" ")[2])
    return time.time() - status.st_mtime > _LEFT_SECONDS if ended is None else ended
