"""Identities of processes.

A process writes its identity into files. From the identity, other processes can tell whether the process has ended.
"""

import os
import re
import socket
from pathlib import Path

PROCESS = r"(?P<host>.+)-(?P<pid>\d{1,18})-(?P<started>\d{1,18})"
_PID_NAMESPACE = Path("/proc/self/ns/pid")


def this_process() -> str:
    """Return the identity of this process: a text with the host, the process ID, and the start time (ms since 1970)."""
    return f"{host()}-{os.getpid()}-{_started(os.getpid())}"


def has_ended(process: str) -> bool | None:
    """Return whether a process has ended, or None if this host can't tell.

    `process` is the identity of the process; see `this_process`. The result is None in three cases:

    - `process` is no identity.
    - The process ran on another host.
    - A process with the same ID runs, but has another start time. A change of the clock may be the reason.
    """
    identity = re.fullmatch(PROCESS, process, re.DOTALL)
    if identity is None or identity["host"] != host():
        return None
    if not runs(int(identity["pid"])):
        return True
    return False if _started(int(identity["pid"])) == int(identity["started"]) else None


def runs(pid: int) -> bool:
    """Return whether a process with this ID runs on this host.

    A zombie does not count as running. A zombie is a process that has ended, but keeps its ID until its parent waits
    for it. In a container, the first process may never wait for its orphans.
    """
    import psutil  # late: `headstart --help` does not need it

    try:
        if not psutil.pid_exists(pid):  # the ID of a thread is the ID of no process
            return False
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except (psutil.NoSuchProcess, OverflowError):
        return False
    except psutil.AccessDenied:
        return True


def host() -> str:
    """Return this host's name. On Linux, add the number of the PID namespace, as containers may share a name."""
    name = socket.gethostname()
    return f"{name}+{_PID_NAMESPACE.stat().st_ino}" if _PID_NAMESPACE.exists() else name


def _started(pid: int) -> int | None:
    """Return the start time of a process on this host, in ms since 1970. Return None if psutil can't find it out."""
    import psutil

    try:
        return int(1000 * psutil.Process(pid).create_time())
    except psutil.Error:
        return None
