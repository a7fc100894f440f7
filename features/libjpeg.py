"""Keep the warnings of libjpeg off standard error.

TensorFlow's libjpeg warns of damaged images that it can still decode. It prints lines such as "Corrupt JPEG data: 226
extraneous bytes before marker 0xd9". These lines lack the name of the file.
"""

import atexit
import os
import subprocess
import sys
from contextlib import suppress
from functools import cache

from headstart.features.terminal import console

# The texts of the warnings in the `jerror.h` of libjpeg and of libjpeg-turbo.
_WARNINGS = (
    rb"Corrupt JPEG data: .*",
    rb"Premature end of JPEG file",
    rb"Inconsistent progression sequence for component \d+ coefficient \d+",
    rb"Unknown Adobe color transform code \d+",
    rb"Invalid SOS parameters for sequential JPEG",
    rb"Invalid component ID \d+ in SOS",
    rb"Warning: unknown JFIF revision number \d+\.\d+",
    rb"Obtained XMS handle \d+",
    rb"Improper call to JPEG library in state \d+",
    rb"Application transferred too many scanlines",
)
_END = b"\0the end of standard error\0\n"  # the pipe may stay open: processes that were started meanwhile hold it
# The filter is a process of its own, so that the last output of a process that crashes in native code still arrives.
_FILTER = f"""
import re, sys
warning = re.compile(rb"(?:{"|".join(one.decode() for one in _WARNINGS)})\\r?\\n")
for line in sys.stdin.buffer:
    if line == {_END!r}:
        break
    if not warning.fullmatch(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""
_owned = False


def own_standard_error() -> None:
    """Allow `silence_libjpeg` to filter standard error.

    Only the command line of headstart calls this function. So if another program imports headstart, the standard error
    of this program is not filtered.
    """
    global _owned  # noqa: PLW0603 # a process has one standard error
    _owned = True


def silence_libjpeg() -> None:
    """Keep libjpeg's warnings off standard error until the process ends.

    This function has no effect unless `own_standard_error` was called before.
    """
    if _owned:
        _start_filter()


@cache
def _start_filter() -> None:
    kept = os.dup(2)
    if console.is_terminal:  # a progress bar needs the terminal itself
        console.file = os.fdopen(os.dup(kept), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    command = [sys.executable, "-I", "-S", "-c", _FILTER]
    # The filter gets its own session, so that Ctrl-C does not end it before the process has written its last output.
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=kept, start_new_session=True)
    assert child.stdin
    os.dup2(child.stdin.fileno(), 2)
    child.stdin.close()
    atexit.register(_stop_filter, child, kept)


def _stop_filter(child: "subprocess.Popen[bytes]", kept: int) -> None:
    """Restore standard error from `kept`. Then wait up to 10 s until the filter `child` has written its last line."""
    sys.stderr.flush()
    with suppress(OSError, subprocess.TimeoutExpired):
        os.write(2, _END)
        os.dup2(kept, 2)
        child.wait(timeout=10)
