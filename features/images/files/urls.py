"""Objects with a URL: how they are read, how often a failing request is repeated, and when reading is given up."""

import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import BoundedSemaphore
from typing import Protocol, TypeVar
from urllib.parse import SplitResult, urlsplit

from headstart.features.errors import DataError
from headstart.features.images.faults import MAX_FILE_BYTES, Fault, UnreadableError, Version
from headstart.features.images.files import fetched, objects, web
from headstart.features.images.files.paths import CONTAINERS, is_url, shown
from headstart.features.terminal import console

THREADS = 32  # threads that read at the same time; they mostly wait for a network
TRIES = 6
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 10.0  # seconds
_PROBED = 3  # objects of a bucket that must all be refused before the bucket counts as refused
_LARGE_BYTES = 32 << 20
_large = BoundedSemaphore(4)  # at most four threads hold objects of more than `_LARGE_BYTES`
_MOST_SAID = 400  # characters of a detail, of which a server may have sent most
# Versions that the libraries would leave out in silence.
_VERSION = {
    "s3": re.compile(r"\?versionId=$"),
    "gs": re.compile(r"#\d+$"),
    "gcs": re.compile(r"#\d+$"),
    **dict.fromkeys(CONTAINERS, re.compile(r"[?&](versionid|snapshot)=", re.IGNORECASE)),
}
_SEVERAL = "changed while it was read"

Result = TypeVar("Result")


class _Reader(Protocol):
    """The module `objects` or `web`. It reads remote files with a library. Its functions raise the library's errors."""

    def version_of(self, url: str) -> Version: ...
    def read(self, url: str, most: int) -> bytes: ...
    def fault_of(self, error: Exception) -> Fault | None: ...
    def require_package(self, url: str) -> None: ...


def why_unknown(url: str) -> str:
    """Return why headstart does not read URLs such as `url`; "" if it reads them."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "it is no URL"
    if parts.scheme not in (known := (*objects.PACKAGES, *web.SCHEMES)):
        return f"{shown(parts.scheme)}:// is not read; these are: {', '.join(known)}"
    return _why_not_asked(url, parts) if parts.hostname else "it names no bucket or host"


def _why_not_asked(url: str, parts: SplitResult) -> str:
    """Return why headstart sends no request for `url`; "" if it sends one. `parts` is the result of `urlsplit(url)`."""
    user, at, _ = parts.netloc.rpartition("@")
    if at and (parts.scheme not in CONTAINERS or ":" in user):
        return "it holds a name or password, which would be written into the store; leave them out"
    if parts.scheme in web.SCHEMES and not re.fullmatch(r"[^:]*|[^:]*:\d{0,5}|\[[^\]]*\](:\d{0,5})?", parts.netloc):
        return "its port is no number of up to five digits"
    if parts.scheme in _VERSION and (found := _VERSION[parts.scheme].search(url)):
        return f"versions of objects in {parts.scheme}:// are not read; leave out {shown(url[found.start() :])}"
    return ""


def version_of_url(url: str) -> Version:
    """Return the version of an object. Raises UnreadableError if there is no such object, or no answer.

    Raises DataError if this machine lacks the credentials for `url`.
    """
    return _repeated(url, lambda reader: reader.version_of(url))


def read_url(url: str, version: Version, most: int | None = None) -> tuple[bytes, Version]:
    """Read an object. Return its bytes and their version. `version` is the version that was found earlier.

    If `most` is a number, only the first `most` bytes are read, and `version` is returned unchanged.

    If `most` is None, all bytes are read, from the disk if `fetched` kept them. If the server sends more or
    fewer bytes than the size in `version`, the object is read again, and gets a new version. The size in the returned
    version is the number of bytes, even if the server gave no size.

    Raises UnreadableError if the object can't be read, is too large, or changes while it is read. Raises DataError if
    this machine lacks the credentials for `url`.
    """
    if most is not None:
        return _repeated(url, lambda reader: reader.read(url, most)), version
    if (content := fetched.load(url, version)) is not None:
        return content, version
    content = _read_whole(url, version)
    if len(content) != version.bytes >= 0:
        version = version_of_url(url)
        content = _read_whole(url, version)
        if len(content) != version.bytes >= 0:
            raise UnreadableError(Fault("vanished", _SEVERAL))
    version = Version(len(content), version.mtime_ns)
    fetched.keep(url, version, content)
    return content, version


def require_access(paths: Iterable[str]) -> None:
    """Check that the buckets and hosts of the URLs in `paths` can be read. Paths of other kinds are ignored.

    Up to three objects of each bucket or host are tried. A bucket or host is unreadable if it refuses access to three
    objects, or if a request fails with an error other than a refusal or a missing object.

    Raises DataError if a package or the credentials are missing, or if all buckets and hosts are unreadable. If only
    some of them are unreadable, a message is printed.
    """
    places: dict[tuple[str, str], list[str]] = {}
    for url in filter(is_url, paths):
        some = places.setdefault(urlsplit(url)[:2], [])
        if len(some) < _PROBED:
            some.append(url)
    for some in places.values():
        _reader_of(some[0]).require_package(some[0])
    pool = ThreadPoolExecutor(THREADS)
    try:
        refused = [why for why in pool.map(_why_refused, places.values()) if why]
    finally:
        pool.shutdown(cancel_futures=True)
    if refused and len(refused) == len(places):
        raise DataError(refused[0])
    if refused:
        console.print(f"{len(refused)} of {len(places)} buckets and hosts can't be read, {refused[0]}")


def one_of_each_place(paths: Iterable[str]) -> list[str]:
    """Return the first URL of each bucket and the first URL of each host in `paths`.

    Paths of other kinds are ignored.
    """
    places: dict[tuple[str, str], str] = {}
    for url in filter(is_url, paths):
        places.setdefault(urlsplit(url)[:2], url)
    return list(places.values())


def require_credentials(urls: Sequence[str]) -> None:
    """Raise a DataError if this machine lacks a package or the credentials to read `urls`.

    To find this out, ask for the version of each object. An object that can't be read for another reason is ignored.
    """

    def ask(url: str) -> None:
        _reader_of(url).require_package(url)
        with suppress(OSError):
            version_of_url(url)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(ask, urls))


def _why_refused(urls: Sequence[str]) -> str:
    """Return why a bucket or host counts as unreadable, or "" if the bucket or host counts as readable.

    `urls` holds the URLs of some objects of the bucket or host.
    """
    for number, url in enumerate(urls, 1):
        try:
            version_of_url(url)
        except UnreadableError as error:
            if error.fault.reason != "unreadable":
                return ""
            if "denied" not in error.fault.detail or number == _PROBED:
                return f"{shown(url)}: {error.fault.detail}"
        else:
            return ""
    return ""  # fewer objects than `_PROBED`, all of them refused, become rejects


def _read_whole(url: str, version: Version) -> bytes:
    """Return an object's bytes. If `version` tells the object's size, read at most one byte more than this size."""
    if version.bytes > MAX_FILE_BYTES:
        raise UnreadableError(Fault("too-large", f"{version.bytes} bytes, over {MAX_FILE_BYTES}"))
    if not version.bytes:
        return b""  # a server refuses to read a part of nothing
    most = version.bytes + 1 if version.bytes >= 0 else MAX_FILE_BYTES + 1  # one more shows that the object has grown
    if most <= _LARGE_BYTES:
        return _repeated(url, lambda reader: reader.read(url, most))
    with _large:
        content = _repeated(url, lambda reader: reader.read(url, most))
    if len(content) > MAX_FILE_BYTES:
        raise UnreadableError(Fault("too-large", f"over {MAX_FILE_BYTES} bytes"))
    return content


def _reader_of(url: str) -> _Reader:
    return web if urlsplit(url).scheme in web.SCHEMES else objects


def _repeated(url: str, ask: Callable[[_Reader], Result]) -> Result:
    """Call `ask` with the module that reads `url`, and return the result.

    After a temporary error, the call is repeated, but at most `TRIES` calls are made in all.
    """
    reader = _reader_of(url)
    for number in range(TRIES):
        if number:
            time.sleep(min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (number - 1)) * random.uniform(0.5, 1.5))
        try:
            return ask(reader)
        except (DataError, UnreadableError):
            raise
        except Exception as error:  # the libraries raise errors of many types
            fault = reader.fault_of(error)
            if fault:
                raise UnreadableError(Fault(fault.reason, shown(fault.detail, _MOST_SAID))) from error
            last = error
    said = "timed out" if isinstance(last, TimeoutError) else " ".join(str(last).split()) or type(last).__name__
    raise UnreadableError(Fault("unreadable", f"{shown(said, _MOST_SAID)} ({TRIES} tries)")) from last
