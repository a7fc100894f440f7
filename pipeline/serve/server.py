"""Listen on an address, and serve in a thread. When the server stops, it still answers requests that have begun."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import uvicorn
from headstart.features.errors import HeadstartError, OptionError
from headstart.pipeline.serve.protocol import MOST_CONNECTIONS, Connection, quiet

_BACKLOG = 2048
_FILES = MOST_CONNECTIONS + 1000  # open files that the server may need
_IDLE_SECONDS = 5  # seconds that a connection may be idle between two requests
_LAST_SECONDS = 5.0  # time for the last answers to be sent


class ServeError(HeadstartError):
    """The server can't listen at an address."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host` and `port`.

    Raises OptionError if `host` is not an address of this machine, and ServeError if the port is in use or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is no name of a host"
        raise OptionError(f"--host {host}: {why}; give an address of this machine, such as 127.0.0.1") from error
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise ServeError(f"--port {port}: is in use on {host}; give another, or 0 for any free port") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ServeError(f"--port {port}: this user may not listen there; give a port from 1024 on") from error
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise OptionError(f"--host {host}: is no address of this machine; give one, such as 127.0.0.1") from error
        raise
    return found


def url_of(listening: socket.socket, host: str) -> str:
    """Return the URL of the page, for a browser on this machine."""
    port = listening.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


class Server:
    """Serves the application `app` in a thread, until a signal stops the server.

    Args:
        stopping: is called when a signal comes, before the server refuses new connections.
        seconds: after the signal, requests that have begun get at least this time to end.
    """

    def __init__(self, listening: socket.socket, app: Any, stopping: Callable[[], None], seconds: float) -> None:
        self._listening, self._stopping = listening, stopping
        self._failure: BaseException | None = None
        self._interrupts = 0
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=int(seconds + _LAST_SECONDS) + 1,
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C comes. After Ctrl-C, raise a KeyboardInterrupt.

        Requests that have begun are still answered, unless Ctrl-C comes a second time. If an error ends the server's
        thread, the error is raised.
        """
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it would warn of clients that do not send HTTP
        _allow_files()
        thread = threading.Thread(target=self._serve, name="headstart-server", daemon=True)
        with _handled({signal.SIGTERM: self._stop, signal.SIGINT: self._interrupt}):
            thread.start()
            while thread.is_alive():
                thread.join(0.2)
        if self._failure:
            raise self._failure
        if self._interrupts:
            raise KeyboardInterrupt

    def _interrupt(self) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it would log a traceback of each request in work
            self._server.force_exit = True
        self._stop()

    def _stop(self) -> None:
        self._stopping()
        self._server.should_exit = True

    def _serve(self) -> None:
        async def serve() -> None:
            asyncio.get_running_loop().set_exception_handler(quiet)
            await self._server.serve(sockets=[self._listening])

        try:
            asyncio.run(serve())
        except BaseException as error:
            self._failure = error


@contextlib.contextmanager
def _handled(actions: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """While the context is open, handle each signal in `actions` by calling its function."""

    def handle(number: int, _: FrameType | None) -> None:
        actions[signal.Signals(number)]()

    before = {number: signal.signal(number, handle) for number in actions}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _allow_files() -> None:
    """Increase this process's limit of open files, if the limit is too low for the connections and can be increased."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < _FILES:
            most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
