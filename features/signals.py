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
        """Send a signal again if Python ignored the error that the signal's handler raised.

        This method is used as `sys.unraisablehook`.
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
        """Send a signal again. Do nothing if a handler has raised an error meanwhile, or if the command has ended."""
        if self.in_command and len(self.raised) == raised:
            signal.pthread_kill(thread, number)


_signals = _Signals()


def stop_at_signals() -> None:
    """From now on, raise a `KeyboardInterrupt` at SIGINT, and a `TerminatedError` at SIGTERM.

    A second SIGTERM ends the process at once. A forked child process ends at the first SIGTERM. If something else has
    set a handler for a signal, this handler stays. Outside the main thread, this function does nothing.
    """
    if threading.current_thread() is threading.main_thread():
        _signals.handle()


def command_begins() -> None:
    """Call `stop_at_signals`. If a signal came while Python was loading the commands, raise the signal's error.

    A signal raises its error at once, but a library may have caught the error and gone on.
    """
    ignored = _signals.raised[:] if _signals.in_command else []
    stop_at_signals()
    if ignored:
        raise ignored[0]


def command_ended() -> None:
    """Record that the command is over. From now on, no signal is sent a second time; see `_Signals._raise_again`.

    Such a signal could interrupt the functions of `atexit`.
    """
    _signals.in_command = False


@contextmanager
def one_line_at_signals() -> Iterator[None]:
    """Open a context in which a command is loaded and run.

    At the start of the context, `stop_at_signals` is called. If an interrupt ends the context, one line is printed, and
    the program exits; see `exit_code`. Once the command has called `command_ended`, the context passes all errors on as
    they are.
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
    finally:
        command_ended()


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a process that ends because of `stop`: 143 after SIGTERM, or 130 after SIGINT."""
    return 143 if isinstance(stop, TerminatedError) else 130


def asked_to_stop(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interrupt that may have caused `error`, or None if there was no interrupt.

    If `error` is a `KeyboardInterrupt`, `error` itself is returned. If not, the interrupt of the first signal since
    `stop_at_signals` is returned. Call this function where errors of libraries are handled. A library in C++ may raise
    an error of its own in place of a `KeyboardInterrupt`.
    """
    if isinstance(error, KeyboardInterrupt):
        return error
    return _signals.raised[0]() if _signals.raised else None


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """When the context ends, restore the handlers of SIGTERM that Ray replaced or removed in the context.

    With Ray's handlers, SIGTERM could end the process before it has removed its unfinished files. If Ray calls
    `sys.exit` because of a SIGTERM in the context, the signal is sent again, to the restored handlers.

    The context may be opened in any thread.
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
