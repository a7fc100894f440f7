"""Identities of processes, and what a process does at SIGTERM.

A process writes its identity into files. From the identity, other processes can tell whether the process has ended.
"""

import ctypes
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

PROCESS = r"(?P<host>.+)-(?P<pid>\d{1,18})-(?P<started>\d{1,18})"
_PID_NAMESPACE = Path("/proc/self/ns/pid")


def this_process() -> str:
    """Return the identity of this process: a text with the host, the process ID, and the start time (ms since 1970)."""
    return f"{host()}-{os.getpid()}-{_started(os.getpid())}"


def has_ended(process: str) -> bool | None:
    """Return whether a process has ended. `process` is the identity of the process; see `this_process`.

    The result is None if `process` is no identity, or if this host can't tell. This host can't tell in two cases.
    First, the process ran on another host. Second, a process with the same ID runs, but has another start time. It is
    then either another process, or the same process after a change of the clock.
    """
    identity = re.fullmatch(PROCESS, process, re.DOTALL)
    if identity is None or identity["host"] != host():
        return None
    import psutil  # late: `headstart --help` does not need it

    try:
        if not psutil.pid_exists(int(identity["pid"])):
            return True
    except OverflowError:  # no process has this ID
        return True
    return False if _started(int(identity["pid"])) == int(identity["started"]) else None


def host() -> str:
    """Return this host's name. On Linux, add the number of the PID namespace, as containers may share a name."""
    name = socket.gethostname()
    return f"{name}+{_PID_NAMESPACE.stat().st_ino}" if _PID_NAMESPACE.exists() else name


def _started(pid: int) -> int | None:
    """Return the start time of a process on this host, in ms since 1970. Return None if the process has ended."""
    import psutil

    try:
        return int(1000 * psutil.Process(pid).create_time())
    except psutil.Error:
        return None


class TerminatedError(KeyboardInterrupt):
    """Raised when SIGTERM comes. The command then removes its unfinished files and ends, as after Ctrl-C."""


def stop_at_sigterm() -> None:
    """From now on, raise `TerminatedError` at SIGTERM. SIGTERM ends forked child processes without this error.

    Do nothing outside the main thread, or if SIGTERM has another handler than the default.
    """
    here = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the command at once
        if os.getpid() == here:
            raise TerminatedError
        os.kill(os.getpid(), number)

    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Undo, when the context ends, what the context changes about SIGTERM. It may run in any thread.

    `ray.init` replaces the handlers of SIGTERM in Python and in C: the process would print a stack, and abort within 3
    seconds, whether or not it has removed its unfinished files. `ray.shutdown` removes the handler in C.
    """
    handler = signal.getsignal(signal.SIGTERM)
    library = ctypes.CDLL(None) if os.name == "posix" else None
    action = ctypes.create_string_buffer(1024)  # a `struct sigaction`, which is smaller on every system
    if library is not None:
        library.sigaction(signal.SIGTERM, None, action)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            # This was the handler before, or SIGTERM came meanwhile, and the next one ends the process.
            action = ctypes.create_string_buffer(1024)
        elif threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)
        if library is not None:
            library.sigaction(signal.SIGTERM, action, None)
