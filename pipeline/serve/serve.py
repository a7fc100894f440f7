"""`headstart serve`: load the model of a run or an export, and answer requests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.features.errors import OptionError
from headstart.features.terminal import console
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run
from headstart.pipeline.serve.config import ServeConfig
from headstart.pipeline.serve.of_export import is_export, serve_export
from headstart.pipeline.serve.served import Served, serve_run

if TYPE_CHECKING:
    from headstart.pipeline.serve.nearest import Nearest
    from headstart.pipeline.serve.server import Server
    from headstart.pipeline.serve.service import Service

_NEEDED = ("fastapi", "uvicorn", "httptools", "python_multipart")
_WHO = {"head": "the head", "finetuned": "the fine-tuned classifier"}


@dataclass(frozen=True)
class Serving:
    """A server that listens and has loaded its model. To answer requests, call the method `last`."""

    url: str
    title: str  # names the model that answers
    server: Server
    service: Service

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {"url": self.url}

    def lines(self) -> Iterator[str]:
        """Yield the summary that is printed without `--json`."""
        yield f"{self.title}: {self.url} (Ctrl-C stops)"

    def last(self) -> None:
        """Serve until SIGTERM or Ctrl-C comes; see `Server.run`."""
        try:
            self.server.run()
        finally:
            self.service.close()


def serve(path: Path, config: ServeConfig = ServeConfig(), places: Places = Places(), seed: int = 0) -> Serving:
    """Load the model of the run or export at `path`, and listen for requests.

    To answer the requests, call the method `last()` of the returned object.

    Raises OptionError if a package is missing or the host is unknown, and ServeError if the port can't be used. Raises
    RunError if `path` is no run or export, or if the weights changed. For other errors, see `serve_run` and
    `serve_export`.
    """
    if lacking := [name for name in _NEEDED if find_spec(name) is None]:
        raise OptionError(f"serve: needs {lacking[0]}, which is not installed: `pip install 'headstart[serve]'`")
    from headstart.pipeline.serve.server import listen

    run = None if is_export(path) else Run.open(path)
    listening = listen(config.host, config.port)
    try:
        if not _is_own(listening):
            console.print(f"--host {config.host}: whoever can reach this machine can ask the server, and sees its page")
        served, nearest = _of_run(run, config, places, seed) if run else (serve_export(path, config, places), None)
    except BaseException:
        listening.close()
        raise
    return _serving(path, config, listening, served, nearest)


def _serving(
    path: Path, config: ServeConfig, listening: socket.socket, served: Served, nearest: Nearest | None
) -> Serving:
    from headstart.pipeline.serve.app import make_app
    from headstart.pipeline.serve.server import Server, url_of
    from headstart.pipeline.serve.service import Service

    service = Service(served, config, nearest)
    title = f"{_WHO.get(served.layout.model, f'the {served.layout.model} export')} of {path.resolve().name}"
    app = make_app(service, title, ["localhost", config.host, *config.allow_host])

    def stop() -> None:
        service.stopping = True

    return Serving(url_of(listening, config.host), title, Server(listening, app, stop, 2 * config.timeout), service)


def _of_run(run: Run, config: ServeConfig, places: Places, seed: int) -> tuple[Served, Nearest | None]:
    from headstart.pipeline.serve.nearest import nearest_of

    served = serve_run(run, config, places, seed)
    return served, nearest_of(served, places) if config.neighbours else None


def _is_own(listening: socket.socket) -> bool:
    """Return whether only this machine can connect to `listening`."""
    address = str(listening.getsockname()[0])
    return address.startswith("127.") or address == "::1"
