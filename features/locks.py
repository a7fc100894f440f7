"""Locks on files. The kernel releases a lock when its process ends, so a killed process leaves none."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# A disk answers with one of these if it has no `flock`, as Lustre without the mount option `flock`.
_NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


def lock(file: IO[Any], wait: bool = True) -> None:
    """Lock `file`, which must be open for writing, until it is closed.

    On a disk without `flock`, the lock is POSIX's, as SQLite's locks are. It then holds against other processes only.
    Without `wait`, a file that another process has locked raises a BlockingIOError. A disk without either kind of lock
    raises another OSError.
    """
    operation = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        fcntl.lockf(file, operation)


@contextmanager
def folder_locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Lock `folder` within the block, against other processes of this host that do the same. The lock leaves no file.

    If the disk has no locks, nothing is locked. Without `wait`, a locked folder raises a BlockingIOError.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a disk without locks
            pass
        yield
    finally:
        os.close(descriptor)
