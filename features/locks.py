"""Locks on files. The kernel releases the locks of a process when the process ends, even if it is killed."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# A disk without `flock`, such as Lustre without the mount option `flock`, answers with one of these errors.
_NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


def lock(file: IO[Any], wait: bool = True) -> None:
    """Lock `file` until it is closed. The file must be open for writing.

    If the file is already locked, wait for the lock. If `wait` is false, raise a BlockingIOError instead of waiting. On
    a disk without `flock`, the lock keeps out other processes, but not other code of this process. On a disk without
    any locks, an OSError is raised.
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
    """Lock `folder` while the context is open.

    The lock keeps out other processes of this host that call this function. The lock makes no file. If the folder is
    already locked, and `wait` is false, a BlockingIOError is raised. On a disk without locks, nothing is locked.
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
