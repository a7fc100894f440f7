"""The connection to a Ray cluster. The cluster runs already, or is started on this machine."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stdout, suppress
from threading import Event, Thread
from typing import Any, TypeVar

from headstart.features.device import cpu_count
from headstart.features.errors import HeadstartError, OptionError
from headstart.features.signals import sigterm_kept

T = TypeVar("T")
_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 15.0  # Ray itself would try for two minutes
_LEAST_OBJECT_BYTES = 100 << 20
_CLIENT = "ray://"


def load_ray() -> Any:
    """Import Ray and return its module. Raise an OptionError if Ray is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # else Ray reports each cluster to its makers
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise OptionError(f"--ray: needs Ray ({error}): `pip install 'headstart[ray]'`") from error


@contextmanager
def connected(address: str, object_bytes: int = 0) -> Iterator[None]:
    """Connect to the Ray cluster at `address`, and disconnect when the context ends.

    `address` is the value of `--ray`, such as `local`, `auto` or HOST:PORT. If no cluster answers at `address`, a
    HeadstartError is raised within seconds. A local cluster has enough memory to store an object of `object_bytes`
    bytes with `ray.put`. While the connection is open, text that is printed to standard output is lost.

    If this process is already connected to Ray, the existing connection is used, and stays open.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": cpu_count(), "include_dashboard": False}
        options |= {"object_store_memory": _LEAST_OBJECT_BYTES + 2 * object_bytes}
    else:
        _require_cluster(address)
    # Ray would print reports on its nodes to standard output, which is for a command's result. The crew reports deaths.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            with sigterm_kept():
                ray.init(address=address, **({} if address.startswith(_CLIENT) else options))
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise HeadstartError(f"--ray {address}: Ray can't connect ({said[:300]})") from error
        try:
            yield
        finally:
            with sigterm_kept():
                ray.shutdown()


@contextmanager
def connecting(address: str, begin: Callable[[], T], end: Callable[[T], None]) -> Iterator[Callable[[], T]]:
    """Connect to the Ray cluster at `address`, and call `begin`. Yield a function that returns the result of `begin`.

    At the end of the context, `end` is called with the result of `begin`, and the connection is closed.

    If `address` is `local`, a thread starts the cluster and calls `begin`. The yielded function then waits until
    `begin` has returned. If the start or `begin` fails, the yielded function raises the error.
    """
    if address != "local" or importlib.util.find_spec("ray") is None:
        with connected(address):
            begun = begin()
            try:
                yield lambda: begun
            finally:
                end(begun)
        return
    result, over = Future[T](), Event()

    def hold() -> None:
        """Start the cluster in this thread, call `begin`, and call `end` when the context of `connecting` ends."""
        try:
            with connected(address):
                result.set_result(begin())
                over.wait()  # in this thread, because the system ends Ray's processes when it ends
                end(result.result())
        except BaseException as error:
            if result.done():
                raise
            result.set_exception(error)

    thread = Thread(target=hold, name="headstart-ray")
    thread.start()
    try:
        yield result.result
    finally:
        over.set()
        thread.join()


def _require_cluster(address: str) -> None:
    """Raise a HeadstartError unless a Ray cluster answers at `address`."""
    asked = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    place = asked.removeprefix(_CLIENT)
    if place not in ("", "auto"):
        host, _, port = place.rpartition(":")
        if not host or not port.isdecimal():
            raise OptionError(f"--ray {asked}: give local, auto, or HOST:PORT")
        with _named(asked):
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    if asked.startswith(_CLIENT):
        return
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "health-check"]
    command += ["--address", place] if place not in ("", "auto") else []
    answered = False
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(command, check=False, capture_output=True, timeout=_ANSWER_SECONDS)
        answered = done.returncode == 0
        if not answered and b"AuthenticationError" in done.stderr:
            remedy = "set RAY_AUTH_MODE=token, with the cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN"
            raise HeadstartError(f"--ray {address}: the cluster's token is missing or wrong; {remedy}")
    if not answered:
        what = f"no Ray cluster answers at {asked}" if asked else "no Ray cluster runs here"
        raise HeadstartError(
            f"--ray {address}: {what}; start one with `ray start --head`, or use --ray local for this machine alone"
        )


@contextmanager
def _named(address: str) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError, ValueError) as error:  # no host has a name such as a..b, or a port of 5000 digits
        raise HeadstartError(
            f"--ray {address[:200]}: no Ray cluster answers there ({error}); the port of `ray start --head` is 6379"
        ) from error
