"""Connections of clients that send too early, too much, or read nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from headstart.pipeline.serve import protocol
from headstart.pipeline.serve.protocol import Connection
from uvicorn import Config
from uvicorn.server import ServerState

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def connected(client: Client, answer: bytes = b"yes", wait: float = 0.0, seconds: int = 20) -> list[dict[str, Any]]:
    """Connect `client` to a server that answers everything so, and return the requests that it saw."""
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
        await asyncio.sleep(wait)
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def run() -> None:
        config = Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=seconds)
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(lambda: Connection(config, state, {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=1 << 12)
        async with asyncio.timeout(15):
            await client(reader, writer)
        writer.close()
        server.close()

    asyncio.run(run())
    return seen


def test_requests_that_come_before_the_answer_are_not_read() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET * 100)
        answer = await reader.read()
        assert (answer.count(b"HTTP/1.1"), answer[-3:], b"connection: close" in answer) == (1, b"yes", True)

    assert len(connected(client, wait=0.2)) == 1


def test_no_http_after_a_request_does_not_spoil_its_answer() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET)
        await asyncio.sleep(0.1)
        writer.write(b"nonsense\r\n\r\n")
        answer = await reader.read()
        assert (answer[:15], answer[-3:]) == (b"HTTP/1.1 200 OK", b"yes")

    connected(client, wait=0.3)


def test_requests_one_after_the_other_share_a_connection() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            writer.write(GET)
            assert (await reader.readuntil(b"yes")).startswith(b"HTTP/1.1 200")

    assert len(connected(client)) == 3


@pytest.mark.parametrize("sent", [b"zz\r\n", b"0\r\n" + b"A: b\r\n" * 100_000], ids=["chunk", "trailers"])
def test_a_body_that_is_no_http_is_refused(sent: bytes) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"3\r\nabc\r\n")
        await asyncio.sleep(0.1)
        writer.write(sent)
        answer = await reader.read()
        assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431")
        assert answer.count(b"HTTP/1.1") == 1

    (seen,) = connected(client)
    assert b"a" not in dict(seen["headers"])


@pytest.mark.parametrize("size", [3, 30_000_000], ids=["small", "large"])
def test_a_client_that_does_not_read_is_cut(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.3)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET)
        await asyncio.sleep(1.5)
        if size == 3:
            assert len(await reader.read()) > 3
            return
        received = 0
        with suppress(ConnectionResetError):
            while part := await reader.read(1 << 20):
                received += len(part)
        assert received < size

    connected(client, bytes(size))


def test_a_request_that_takes_too_long_is_cut() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        for _ in range(30):
            writer.write(b"1\r\na\r\n")
            await asyncio.sleep(0.1)
            if reader.at_eof() or reader.exception():
                return
        raise AssertionError("the connection is still open")

    connected(client, seconds=1)


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (GET, b"200", b"yes"),
        (CHUNKED + b"3\r\nabc\r\n", b"400", b"the request ended before it was whole"),
        (GET[:20], b"400", b"the request ended before it was whole"),
        (b"", b"", b""),
    ],
    ids=["whole", "body", "head", "nothing"],
)
def test_a_client_that_sends_no_more_still_gets_its_answer(sent: bytes, status: bytes, said: bytes) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await asyncio.sleep(0.1)
        writer.write_eof()
        answer = await reader.read()
        assert (answer[9:12], said in answer) == (status, True)

    connected(client, wait=0.3)
