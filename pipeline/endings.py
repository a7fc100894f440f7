"""How a command ends after an error or an interrupt: its exit code, and the line that it prints."""

import errno
import os
from typing import NamedTuple

from headstart.features.errors import HeadstartError, OptionError
from headstart.features.signals import asked_to_stop, exit_code

_ENVIRONMENT_ERRORS = {
    getattr(errno, name)
    for name in (
        "EACCES",
        "EPERM",
        "EROFS",
        "EIO",
        "ESTALE",
        "ENOTDIR",
        "EISDIR",
        "EEXIST",
        "ENAMETOOLONG",
        "EMFILE",
        "EFBIG",
        "ELOOP",
        "ESPIPE",
        "ENODEV",
        "ENOTCONN",
        "ETIMEDOUT",
        "EHOSTDOWN",
    )
}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Ending(NamedTuple):
    """The end of a command: its exit code, the line that it prints, and the style of the line."""

    code: int
    line: str
    style: str


def ending(error: BaseException, kept: str) -> Ending:
    """Return how a command ends after `error` stopped the command.

    `kept` says which work is not lost after an interrupt. An error that the user can't fix is a bug, and is
    raised again.
    """
    stop = asked_to_stop(error)
    if stop and not _came_after_interrupt(error):
        return Ending(exit_code(stop), f"interrupted; {kept}", "none")
    code, message = _explain(error)
    return Ending(code, f"error: {message}", "red")


def _came_after_interrupt(error: BaseException) -> bool:
    """Return whether `error` is a new error after an interrupt, and not the interrupt in another form."""
    cause, context = error.__cause__, error.__context__
    if isinstance(error, KeyboardInterrupt):
        return False
    # A library may raise `error` in place of the interrupt, by `from interrupt` or `from None`.
    if cause is not None and _leads_to_interrupt(cause):
        return _came_after_interrupt(cause)
    if context is None or not _leads_to_interrupt(context):
        return False
    return cause is not None or not error.__suppress_context__ or _came_after_interrupt(context)


def _leads_to_interrupt(error: BaseException) -> bool:
    before = [one for one in (error.__cause__, error.__context__) if one is not None]
    return isinstance(error, KeyboardInterrupt) or any(map(_leads_to_interrupt, before))


def _explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the message for an error that the user can fix. Raise any other error: it is a bug."""
    line = " ".join(str(error).split())
    if isinstance(error, HeadstartError):
        return (2 if isinstance(error, OptionError) else 1), line
    if _is_full_disk(error):
        return 1, f"the disk is full ({line[:300]}); what was finished is kept: make room and repeat the command"
    if isinstance(error, MemoryError) or (_is_tensorflows(error) and "ResourceExhausted" in type(error).__name__):
        return 1, f"out of memory: lower --batch-size, for a head --head-batch-size ({line[:200]})"
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT_ERRORS:
        return 1, line
    raise error


def _is_full_disk(error: BaseException) -> bool:
    """Whether `error` means a full disk or quota. Some libraries give no number, but the system's message."""
    quotes = isinstance(error, OSError) or type(error) is RuntimeError or _is_tensorflows(error)
    words = [text for code in _DISK_FULL for text in (f"[Errno {code}]", f"errno = {code}", os.strerror(code))]
    return quotes and any(text in str(error) for text in words)


def _is_tensorflows(error: BaseException) -> bool:
    return type(error).__module__.startswith("tensorflow.")
