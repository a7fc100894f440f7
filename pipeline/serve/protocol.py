"""The server's handler of a connection: uvicorn's handler, with limits on the time and size of a request's headers."""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_CONNECTIONS = 1000
_HEAD_SECONDS, _HEAD_BYTES = 10.0, 1 << 16
_LEAST_SENT = 1 << 14  # bytes of an answer that a client must take within `_HEAD_SECONDS`


class Connection(HttpToolsProtocol):
    """A connection with limits. Without limits, clients that send or read nothing could hold all connections.

    In these cases, the client gets a JSON object with `error` if possible, and then the connection is closed:

    - The headers of a request do not arrive in time, or are too large.
    - `MOST_CONNECTIONS` other connections are open.
    - The bytes can't be read as a request.

    In these cases, the connection is closed without such an object:

    - A request is not answered in time, or the client does not take the answer in time.
    - A request comes before the previous request is answered. Only the previous request is then answered.
    """

    _deadline: asyncio.TimerHandle | None = None
    _in_head = False  # between the first byte of a request and the end of its head
    _unused = 0  # bytes of a head, or of trailers, since the last part of a body or the last end of a head
    _unsent = 0  # bytes of answers that the client had not yet taken when the clock was started
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit for the first request. If too many connections are open, refuse the new connection."""
        super().connection_made(transport)
        self._start_clock()
        if len(self.connections) > MOST_CONNECTIONS:
            self.connections.discard(self)
            self._tell(503, "Service Unavailable", f"{MOST_CONNECTIONS} connections are open; try again")

    def data_received(self, data: bytes) -> None:
        """Take bytes of requests. Refuse a request whose headers are too large."""
        if self._refused:  # reading on until the client has read the answer; closing at once could lose it
            return
        self._unused += len(data)
        super().data_received(data)
        if self._unused > _HEAD_BYTES and not self._refused:
            self._tell(431, "Request Header Fields Too Large", f"the head of a request has at most {_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Record the beginning of a request. Raises a ValueError if the previous request is not answered yet.

        The caller is the parser. The error makes the parser stop.
        """
        if self._in_work:
            raise ValueError("a request came before the last one was answered")
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header of a request. Headers after the body are ignored."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Record the arrival of all headers of a request."""
        self._in_head, self._unused = False, 0
        super().on_headers_complete()
        self._start_clock()

    def on_body(self, body: bytes) -> None:
        """Take a part of a request's body."""
        self._unused = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Start a time limit: before it ends, the client must take the answer and send the next request."""
        super().on_response_complete()
        self._start_clock()

    def pause_writing(self) -> None:
        """Start the time limit anew, because the client takes an answer slowly."""
        super().pause_writing()
        self._start_clock()

    def resume_writing(self) -> None:
        """Start the time limit anew, because the client took most of an answer."""
        super().resume_writing()
        self._start_clock()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Handle the end of the client's data.

        Return True to keep the connection open for an answer, or False to close the connection. A request that has
        arrived whole is still answered. A request that is cut off is refused, unless its answer has begun.
        """
        if self._in_work and (self.cycle.response_started or not self.cycle.more_body):
            self.cycle.keep_alive = False
            return True
        if (self._in_work or self._in_head) and not self._refused:
            self._tell(400, "Bad Request", "the request ended before it was whole; send it again")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after the end of the connection."""
        self._stop_clock()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer with the status 400, because the client sent bytes that are not HTTP. `msg` is not used."""
        self._tell(400, "Bad Request", "the request is no HTTP that this server reads")

    @property
    def _in_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_clock(self) -> None:
        self._stop_clock()
        self._unsent = self.transport.get_write_buffer_size()
        seconds: float | None = _HEAD_SECONDS
        if self._in_work and not self.flow.write_paused:
            seconds = self.config.timeout_graceful_shutdown  # no request takes longer
        if seconds:
            self._deadline = self.loop.call_later(seconds, self._cut)

    def _stop_clock(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _cut(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent and self._unsent - unsent >= _LEAST_SENT:
            self._start_clock()
        elif unsent or self._in_work:
            self.transport.abort()  # `close` would wait until the client takes the answer
        elif self._refused or (self.cycle and not self._in_head):  # it was told, or idles after an answer
            self.transport.close()
        else:
            self._tell(408, "Request Timeout", f"no request came within {_HEAD_SECONDS:g} seconds")

    def _tell(self, status: int, phrase: str, sentence: str) -> None:
        """Stop reading requests. Send an error, too, except if the current request can still be answered."""
        self._refused = True
        if self._in_work and (self.cycle.response_started or not self.cycle.more_body):
            self.cycle.keep_alive = False
            return
        if self._in_work:  # the fault is in the body of the request
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self.cycle.response_complete = True
        body = json.dumps({"error": sentence}).encode()
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._start_clock()


def quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handle an error of the event loop. If the error says that too many files are open, ignore the error.

    While too many files are open, new connections wait.
    """
    if "socket.accept() out of system resource" not in str(context.get("message")):
        loop.default_exception_handler(context)
