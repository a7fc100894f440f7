"""Standard error without libjpeg's lines, in processes of their own."""

import subprocess
import sys

import pytest

LINES = """
Corrupt JPEG data: 226 extraneous bytes before marker 0xd9
Corrupt JPEG data: premature end of data segment
Premature end of JPEG file
Unknown Adobe color transform code 42
Warning: unknown JFIF revision number 2.01
Invalid SOS parameters for sequential JPEG
Premature end of JPEG files in cats/
the last words
"""


def said(code: str) -> tuple[int, list[str]]:
    """Return the exit code of a process that runs `code`, and the lines of its standard error."""
    before = f"import os, sys\nfrom headstart.features import libjpeg\nLINES = {LINES.encode()!r}\n"
    done = subprocess.run([sys.executable, "-c", before + code], check=False, capture_output=True, text=True)
    return done.returncode, done.stderr.split("\n")


@pytest.mark.parametrize(("end", "code"), [("os.abort()", -6), ("sys.exit(3)", 3), ("os._exit(4)", 4)])
def test_every_other_line_arrives_whatever_ends_the_process(end: str, code: int) -> None:
    begin = "libjpeg.own_standard_error()\nlibjpeg.silence_libjpeg()\nlibjpeg.silence_libjpeg()\nos.write(2, LINES)\n"
    ended, lines = said(begin + end)
    assert (ended, lines) == (code, ["", "Premature end of JPEG files in cats/", "the last words", ""])


def test_a_child_that_lives_on_delays_nothing() -> None:
    begin = "import subprocess\nlibjpeg.own_standard_error()\nlibjpeg.silence_libjpeg()\n"
    child = "subprocess.Popen(['sleep', '9'], stdout=subprocess.DEVNULL)\nos.write(2, LINES)\n"
    time = "import time, atexit\natexit.register(lambda: None)\nbegun = time.monotonic()\n"
    check = "libjpeg.atexit._run_exitfuncs()\nprint(time.monotonic() - begun < 5, file=sys.stderr)"
    ended, lines = said(begin + child + time + check)
    assert (ended, lines) == (0, ["", "Premature end of JPEG files in cats/", "the last words", "True", ""])


def test_a_program_that_imports_headstart_keeps_its_standard_error() -> None:
    assert said("libjpeg.silence_libjpeg()\nos.write(2, LINES)") == (0, LINES.split("\n"))
