"""Reading objects at http and https addresses. The library urllib3 makes the requests.

fsspec also has a file system for such addresses. headstart does not use it, for three reasons: it follows redirects, it
treats any failed HEAD request as a missing file, and it reads a body of any length.
"""

import http
import time
from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from headstart.features.errors import DataError
from headstart.features.images.faults import Fault, Version
from headstart.features.images.files.objects import number_of, size_of
from headstart.features.images.files.paths import shown

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

SCHEMES = ("https", "http")
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 30.0
_PATIENCE_SECONDS, _SLOWEST = 60.0, 50_000  # a body may take 60 s, and a second more per 50 KB
_BLOCK = 1 << 16
_CONNECTIONS = 32
_NO_HEAD = (403, 405, 501)  # answers of servers that know GET alone, or were asked with an address signed for GET
_TRANSIENT = (408, 425, 429)
_GONE, _DENIED = (404, 410), (401, 403, 407)


class StatusError(Exception):
    """Raised if a server answers with another status than 200."""

    def __init__(self, status: int, location: str) -> None:
        known = status in {one.value for one in http.HTTPStatus}
        super().__init__(f"HTTP {status} {http.HTTPStatus(status).phrase}" if known else f"HTTP {status}")
        self.status, self.location = status, location


def require_package(url: str) -> None:
    """Raise a DataError if urllib3 is missing. The error says what to install."""
    try:
        import urllib3  # noqa: F401
    except ImportError as error:
        raise DataError(f"{shown(url)}: reading it needs urllib3: pip install 'headstart[remote]'") from error


def version_of(url: str) -> Version:
    """Return the version of an object from its server's headers. Raises StatusError, or an error of urllib3.

    The request is HEAD. If the server refuses HEAD or answers it with a length of 0, a GET request follows.
    """
    try:
        version = _version(url, "HEAD")
        if version.bytes:
            return version
    except StatusError as error:
        if error.status not in _NO_HEAD:
            raise
    return _version(url, "GET")


def read(url: str, most: int) -> bytes:
    """Return the first `most` bytes of an object, or all its bytes if it has fewer.

    Raises StatusError, or an error of urllib3, such as IncompleteRead for a body that ends early. Raises TimeoutError
    if the body takes longer than 60 s plus 1 s per 50 KB.
    """
    start = time.monotonic()
    with closing(_asked(url, "GET")) as response:
        length = _length(response)
        pieces, left = list[bytes](), most if length < 0 else min(most, length)
        wanted = left
        while left and (piece := response.read1(min(left, _BLOCK))):
            pieces.append(piece)
            left -= len(piece)
            if time.monotonic() - start > _PATIENCE_SECONDS + (wanted - left) / _SLOWEST:
                raise TimeoutError
    if left and length >= 0:
        from urllib3.exceptions import IncompleteRead

        raise IncompleteRead(wanted - left, left)
    return b"".join(pieces)


def fault_of(error: Exception) -> Fault | None:
    """Return the reason why an object can't be read, if another try is of no use. If another try may help, return None.

    `error` is the error of the last try. If the kind of `error` is unknown, `error` is raised again.
    """
    if not isinstance(error, StatusError):
        import urllib3.exceptions

        if isinstance(error, urllib3.exceptions.LocationValueError):
            return Fault("unreadable", str(error))
        if isinstance(error, (urllib3.exceptions.HTTPError, OSError)):
            return None
        raise error
    if error.status in _GONE:
        return Fault("vanished", f"no such object ({error})")
    if error.status in _DENIED:
        return Fault("unreadable", f"access denied ({error})")
    if 300 <= error.status < 400:
        to = shown(error.location) or "another address"
        return Fault("unreadable", f"redirects to {to}, which is not followed; list that address instead")
    return None if error.status in _TRANSIENT or error.status >= 500 else Fault("unreadable", str(error))


def _version(url: str, method: str) -> Version:
    with closing(_asked(url, method)) as response:
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        return Version(_length(response), number_of(tag))


def _length(response: "BaseHTTPResponse") -> int:
    return size_of(response.headers.get("Content-Length"))


def _asked(url: str, method: str) -> "BaseHTTPResponse":
    response = _pool(_proxy_for(url)).request(
        method, url, redirect=False, retries=False, preload_content=False, decode_content=False
    )
    if method == "HEAD":
        response.drain_conn()  # it has no body; a response that is closed unread would close its connection
    if response.status != 200:
        location = _target(url, response.headers.get("Location", ""))
        response.close()
        raise StatusError(response.status, location)
    return response


def _target(url: str, location: str) -> str:
    """Return the URL to which a redirect of `url` leads. `location` is the redirect's header Location."""
    try:
        return urljoin(url, location) if location else ""
    except ValueError:
        return location


def _proxy_for(url: str) -> str | None:
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


@cache
def _pool(proxy: str | None) -> "PoolManager":
    import urllib3

    limits = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
    headers = {"User-Agent": "headstart", "Accept-Encoding": "identity"}
    if proxy:
        return urllib3.ProxyManager(proxy, maxsize=_CONNECTIONS, timeout=limits, headers=headers)
    return urllib3.PoolManager(maxsize=_CONNECTIONS, timeout=limits, headers=headers)
