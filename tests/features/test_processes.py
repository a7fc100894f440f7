"""What a process does at SIGTERM while a library changes its handlers."""

import signal
import subprocess
import sys


def test_a_second_sigterm_ends_the_process_though_the_first_came_while_handlers_were_kept() -> None:
    code = """
import faulthandler, os, signal, sys, threading, time
from headstart.features.processes import TerminatedError, sigterm_kept, stop_at_sigterm

def use_a_library():
    for _ in range(2):  # as `ray.init` and `ray.shutdown`
        with sigterm_kept():
            begun.set()
            over.wait()
            faulthandler.register(signal.SIGTERM)  # a handler in C that prints a stack

begun, over = threading.Event(), threading.Event()
stop_at_sigterm()
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
