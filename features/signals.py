"""What a process does at SIGINT (Ctrl-C) and SIGTERM: it raises an error, so that unfinished files are removed."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_AGAIN_SECONDS = 0.05


class TerminatedError(KeyboardInterrupt):
    """Raised when SIGTERM comes. The command then removes its unfinished files and ends, as after Ctrl-C."""


_ERRORS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: TerminatedError}


class _Signals:
    """The handlers of this process, and the errors that they raised."""

    def __init__(self) -> None:
        self.in_command = False
        self.raised: list[type[KeyboardInterrupt]] = []
        self._process = 0  # where the handlers were set; not a forked child
        self._hook = sys.unraisablehook  # the one that `_raise_again` replaces

    def handle(self) -> None:
        """See `stop_at_signals`."""
        self._process, self.in_command = os.getpid(), True
        self.raised.clear()
        for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) == default:
                signal.signal(number, self._stop)
        if sys.unraisablehook != self._raise_again and os.name == "posix":
            self._hook, sys.unraisablehook = sys.unraisablehook, self._raise_again

    def _stop(self, number: int, _: object) -> None:
        error = _ERRORS[signal.Signals(number)]
        if error is TerminatedError:
            signal.signal(number, signal.SIG_DFL)
            if os.getpid() != self._process:
                os.kill(os.getpid(), number)
        self.raised.append(error)
        raise error

    def _raise_again(self, ignored: Any) -> None:
        """Raise an error of `_ERRORS` once more, soon, if Python ignores it.

        Python ignores an error in a callback of a weak reference, and a signal may come while such a callback runs.
        """
        here = self.in_command and threading.current_thread() is threading.main_thread()
        for number, error in _ERRORS.items():
            if here and ignored.exc_type is error:
                signal.signal(number, self._stop)
                timer = threading.Timer(_AGAIN_SECONDS, self._send, (threading.get_ident(), number, len(self.raised)))
                timer.daemon = True
                timer.start()
                return
        self._hook(ignored)

    def _send(self, thread: int, number: int, raised: int) -> None:
        """Send a signal to a thread, unless the command ended or another signal came after the first `raised` ones."""
        if self.in_command and len(self.raised) == raised:
            signal.pthread_kill(thread, number)


_signals = _Signals()


def stop_at_signals() -> None:
    """From now on, raise a `KeyboardInterrupt` at SIGINT, and a `TerminatedError` at SIGTERM.

    A second SIGTERM ends the process at once. SIGTERM ends forked child processes without an error. Do nothing outside
    the main thread. A signal that has another handler than Python's default keeps its handler.
    """
    if threading.current_thread() is threading.main_thread():
        _signals.handle()


def command_ended() -> None:
    """The command is over: raise ignored errors no more, so that nothing cuts off the functions of `atexit`."""
    _signals.in_command = False


@contextmanager
def one_line_at_signals() -> Iterator[None]:
    """Call `stop_at_signals`. Print one line, and exit, if a signal comes while no command runs in the context.

    A command runs until `command_ended` is called. It prints its own line.
    """
    stop_at_signals()
    try:
        yield
    except BaseException as error:
        stop = asked_to_stop(error)
        if stop is None or not _signals.in_command:
            raise
        print("interrupted; nothing was changed", file=sys.stderr)
        raise SystemExit(exit_code(stop)) from None


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a process that ends because of `stop`: 143 after SIGTERM, or 130 after SIGINT."""
    return 143 if isinstance(stop, TerminatedError) else 130


def asked_to_stop(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interrupt that `error` may stand for, or None if no signal came since `stop_at_signals` was called.

    A library in C++ that calls Python may raise an error of its own in place of the `KeyboardInterrupt`. So call this
    where errors of libraries are handled. A `KeyboardInterrupt` is returned as it is. For any other error, the result
    is the interrupt of the first signal that came.
    """
    if isinstance(error, KeyboardInterrupt):
        return error
    return _signals.raised[0]() if _signals.raised else None


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Undo, when the context ends, what the context changes about SIGTERM. It may run in any thread.

    `ray.init` replaces the handlers of SIGTERM in Python and in C: the process would print a stack, and abort within 3
    seconds, whether or not it has removed its unfinished files. `ray.shutdown` removes the handler in C. The handler in
    Python calls `sys.exit`. If it does so within the context, the signal is sent again to the handler before.
    """
    handler = signal.getsignal(signal.SIGTERM)
    library = ctypes.CDLL(None) if os.name == "posix" else None
    action = ctypes.create_string_buffer(1024)  # a `struct sigaction`, which is smaller on every system
    if library is not None:
        library.sigaction(signal.SIGTERM, None, action)
    try:
        try:
            yield
        finally:
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                # This was the handler before, or SIGTERM came within the context: the next one must end the process.
                action = ctypes.create_string_buffer(1024)
            elif threading.current_thread() is threading.main_thread() and handler is not None:
                signal.signal(signal.SIGTERM, handler)
            if library is not None:
                library.sigaction(signal.SIGTERM, action, None)
    except SystemExit as error:
        if error.code == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        raise
