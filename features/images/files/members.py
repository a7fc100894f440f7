"""Reading members of tars. While several members are read, their tars stay open, so that each is opened once."""

from __future__ import annotations

import os
from functools import lru_cache
from threading import Lock

from headstart.features.images.faults import Fault, UnreadableError, Version
from headstart.features.images.files.paths import Member


class OpenTars:
    """Reads members of tars, and keeps tars open. All open tars are closed when this object is deleted.

    The tars that were used most recently stay open. The argument `most` limits their number.

    Several threads may use one `OpenTars`. Use it only for a short time, such as for one batch, because it does not
    notice if a tar is replaced after its first use.
    """

    def __init__(self, most: int = 32) -> None:
        self._tars = lru_cache(most)(_Tar)

    def version_of(self, member: Member) -> Version:
        """Return the version of a member. Raises OSError if its tar is gone, or ends before the member ends."""
        status = self._tars(member.tar).status()
        if member.start + member.size > status.st_size:
            raise UnreadableError(Fault("vanished", "the tar ends before it"))
        return Version(member.size, status.st_mtime_ns)

    def read(self, member: Member, most: int | None = None) -> bytes:
        """Return the first `most` bytes of a member, or all its bytes if it has fewer.

        If `most` is None, return all bytes. Raises OSError if the tar ends before the last of these bytes.
        """
        left = member.size if most is None else min(member.size, most)
        tar, at, pieces = self._tars(member.tar), member.start, list[bytes]()
        while left and (piece := os.pread(tar.descriptor(), left, at)):
            pieces.append(piece)
            at += len(piece)
            left -= len(piece)
        if left:
            raise UnreadableError(Fault("truncated", "the tar ends within it"))
        return b"".join(pieces)


class _Tar:
    """A tar that is opened when it is first read. It is closed when this object is deleted."""

    def __init__(self, path: str) -> None:
        self._path, self._lock = path, Lock()  # with the lock, of many threads only the first opens the tar
        self._status: os.stat_result | None = None
        self._descriptor: int | None = None

    def status(self) -> os.stat_result:
        with self._lock:
            if self._status is None:
                self._status = os.stat(self._path)
            return self._status

    def descriptor(self) -> int:
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            return self._descriptor

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
