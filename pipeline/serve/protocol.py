"""The server's side of a connection: uvicorn's own, with limits on the time and size of a request's head."""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_CONNECTIONS = 1000
_HEAD_SECONDS, _HEAD_BYTES = 10.0, 1 << 16


class Connection(HttpToolsProtocol):
    """A connection that is closed if the head of a request does not arrive in time, or is too large.

    Without these limits, clients that send nothing could hold all connections. If `MOST_CONNECTIONS` connections are
    open, the next one gets an error with status 503, and is closed. A request that can't be read gets a JSON object
    with `error`, too.
    """

    _deadline: asyncio.TimerHandle | None = None
    _head: int | None = None  # bytes of a head so far; None between the end of a head and the next request
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin the connection."""
        super().connection_made(transport)
        self._start_clock()
        if len(self.connections) > MOST_CONNECTIONS:
            self.connections.discard(self)
            self._refused = True
            self._tell(503, "Service Unavailable", f"{MOST_CONNECTIONS} connections are open; try again")

    def data_received(self, data: bytes) -> None:
        """Take bytes of requests."""
        if self._refused:  # reading on until the client has read the answer; closing at once could lose it
            return
        if self._head is not None:
            self._head += len(data)
            if self._head > _HEAD_BYTES:
                self._refused = True
                sentence = f"the head of a request has at most {_HEAD_BYTES} bytes"
                self._tell(431, "Request Header Fields Too Large", sentence)
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        super().on_message_begin()
        self._head = 0

    def on_headers_complete(self) -> None:
        """Note that the head of a request is there."""
        self._head = None
        self._stop_clock()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # and no further request has begun
            self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection."""
        self._stop_clock()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP."""
        self._refused = True
        self._tell(400, "Bad Request", "the request is no HTTP that this server reads")

    def _start_clock(self) -> None:
        self._stop_clock()
        self._deadline = self.loop.call_later(_HEAD_SECONDS, self._cut)

    def _stop_clock(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _cut(self) -> None:
        if self.transport.is_closing():
            return
        if self._refused or (self.cycle and self._head is None):  # it was told, or idles after an answer
            self.transport.close()
        else:
            self._refused = True
            self._tell(408, "Request Timeout", f"no request came within {_HEAD_SECONDS:g} seconds")

    def _tell(self, status: int, phrase: str, sentence: str) -> None:
        """Send the last answer. The connection ends when the client closes it, or when its time is over."""
        body = json.dumps({"error": sentence}).encode()
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._start_clock()


def quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handle errors of the loop. Too many open files are no bug: connections then wait until others end."""
    if "socket.accept() out of system resource" not in str(context.get("message")):
        loop.default_exception_handler(context)
