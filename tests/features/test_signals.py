"""What a process does at SIGINT and SIGTERM, also where Python ignores errors, and a library changes the handlers."""

import signal
import subprocess
import sys
from importlib.metadata import entry_points

import pytest


def test_a_second_sigterm_ends_the_process_though_the_first_came_while_handlers_were_kept() -> None:
    code = """
import faulthandler, os, signal, sys, threading, time
from headstart.features.signals import TerminatedError, sigterm_kept, stop_at_signals

def use_a_library():
    for _ in range(2):  # as `ray.init` and `ray.shutdown`
        with sigterm_kept():
            begun.set()
            over.wait()
            faulthandler.register(signal.SIGTERM)  # a handler in C that prints a stack

begun, over = threading.Event(), threading.Event()
stop_at_signals()
thread = threading.Thread(target=use_a_library)
thread.start()
begun.wait()
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
except TerminatedError:
    over.set()
    thread.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, "")


def test_a_library_that_exits_at_sigterm_terminates_the_command() -> None:
    code = """
import os, signal, sys, time
from headstart.features.signals import TerminatedError, sigterm_kept, stop_at_signals

stop_at_signals()
try:
    with sigterm_kept():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as `ray.init`
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
except TerminatedError:
    print("terminated", flush=True)
try:
    with sigterm_kept():
        sys.exit(3)
except SystemExit as error:
    assert error.code == 3
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(10)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGTERM, "terminated\n", "")


@pytest.mark.parametrize(("number", "error"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "TerminatedError")])
def test_a_signal_in_a_callback_stops_the_process_soon_after(number: str, error: str) -> None:
    code = f"""
import os, signal, time, weakref
from headstart.features.signals import TerminatedError, stop_at_signals

class Model: pass
signal.signal(signal.SIGINT, signal.default_int_handler)
stop_at_signals()
model = Model()
watched = weakref.ref(model, lambda _: os.kill(os.getpid(), signal.{number}))
try:
    del model  # calls the function above, and ignores its errors
    print("ignored")
    time.sleep(20)
except KeyboardInterrupt as error:
    print(type(error).__name__)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=10)
    assert (ended.stdout, ended.stderr) == (f"ignored\n{error}\n", "")


_EARLY = """
import os, signal, sys, time
from contextlib import suppress
from headstart import command_line

signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that a script started with `&` ignores Ctrl-C

number = int(sys.argv.pop(1))

def stop(*_):
    os.kill(os.getpid(), number)
    time.sleep(10)

class Finder:
    def find_spec(self, name, *_):
        if name == "headstart.pipeline.export.config":
            {in_import}

sys.meta_path.insert(0, Finder())
from headstart.pipeline.commandline import _Command
{before}
command_line()
"""


@pytest.mark.parametrize("moment", ["import", "import that ignores it", "options"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_command_begins_is_told_in_one_line(moment: str, number: signal.Signals, code: int) -> None:
    in_import, before = {
        "import": ("stop()", ""),
        "import that ignores it": (
            "import contextlib\n            with contextlib.suppress(BaseException): stop()",
            "",
        ),
        "options": ("pass", "_Command.parse_args = stop"),
    }[moment]
    ended = subprocess.run(
        [sys.executable, "-c", _EARLY.format(in_import=in_import, before=before), str(int(number)), "check", "x"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "interrupted; nothing was changed\n")


def test_the_entry_point_tells_of_signals_from_its_start() -> None:
    (entry,) = entry_points(group="console_scripts", name="headstart")
    assert entry.value == "headstart:command_line"
