"""Keep libjpeg's own lines off standard error.

TensorFlow's libjpeg prints such lines as "Corrupt JPEG data: 226 extraneous bytes before marker 0xd9", without the name
of the file, for images that it decodes nevertheless.
"""

import atexit
import os
import subprocess
import sys
from functools import cache

from headstart.features.terminal import console

# The warnings in libjpeg's `jerror.h` and libjpeg-turbo's, with their numbers.
_WARNINGS = (
    rb"Corrupt JPEG data: .*",
    rb"Premature end of JPEG file",
    rb"Inconsistent progression sequence for component \d+ coefficient \d+",
    rb"Unknown Adobe color transform code \d+",
    rb"Invalid SOS parameters for sequential JPEG",
    rb"Invalid component ID \d+ in SOS",
    rb"Warning: unknown JFIF revision number \d+\.\d+",
    rb"Obtained XMS handle \d+",
    rb"Application transferred too many scanlines",
)
# This runs in a process of its own. So the last words of a process that crashes in native code still arrive.
_FILTER = f"""
import re, sys
warning = re.compile(rb"(?:{"|".join(one.decode() for one in _WARNINGS)})\\r?\\n")
for line in sys.stdin.buffer:
    if not warning.fullmatch(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""
_owned = False


def own_standard_error() -> None:
    """Let `silence_libjpeg` filter standard error. A program that only imports headstart keeps it as it is."""
    global _owned  # noqa: PLW0603 # a process has one standard error
    _owned = True


def silence_libjpeg() -> None:
    """Leave libjpeg's lines out of standard error until the process ends, if `own_standard_error` was called."""
    if _owned:
        _start_filter()


@cache
def _start_filter() -> None:
    kept = os.dup(2)
    if console.is_terminal:  # a progress bar needs the terminal itself
        console.file = os.fdopen(os.dup(kept), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    command = [sys.executable, "-I", "-S", "-c", _FILTER]
    # A session of its own: Ctrl-C must not end the filter before the process has said its last words.
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=kept, start_new_session=True)
    assert child.stdin
    os.dup2(child.stdin.fileno(), 2)
    child.stdin.close()
    atexit.register(_stop_filter, child, kept)


def _stop_filter(child: "subprocess.Popen[bytes]", kept: int) -> None:
    """Give standard error back, and wait until the filter has passed everything on."""
    sys.stderr.flush()
    os.dup2(kept, 2)
    child.wait(timeout=10)
