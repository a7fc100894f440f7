"""Download a large zip with progress. An interrupted download is resumed. The CRCs in the zip are checked.

python -m headstart.pipeline.prepare.download URL FILE
"""

import sys
import urllib.error
import urllib.request
import zipfile
from http.client import HTTPException, IncompleteRead
from pathlib import Path

from headstart.features.errors import DataError, HeadstartError
from headstart.features.files import flush_to_disk
from headstart.features.terminal import console, progress
from headstart.pipeline.archives.entries import DAMAGE, UNSUPPORTED, message_of

_BLOCK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte


def download_zip(url: str, file: Path) -> None:
    """Download a zip to `file`, unless `file` exists. An interrupted download resumes from `<file>.partial`.

    Raises DataError if the server can't be reached, if the connection breaks off, or if the zip is damaged.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    try:
        _fetch(url, partial)
    except (OSError, HTTPException) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{url}: {said}; run the same command again to go on, or download it to {file}") from error
    flush_to_disk(partial)
    console.print("checking the archive")
    try:
        with zipfile.ZipFile(partial) as archive:
            damaged = archive.testzip()
    except DAMAGE as error:
        damaged = message_of(error)
    except UNSUPPORTED as error:
        raise DataError(f"{partial}: can't be unpacked here ({message_of(error)}); it is no zip of images") from error
    if damaged:
        partial.unlink()
        raise DataError(f"{url}: the download is damaged ({damaged}) and was deleted; run the same command again")
    partial.rename(file)


def _fetch(url: str, partial: Path) -> None:
    """Append the missing bytes to `partial`, or overwrite `partial` if the server sends the whole file."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing is left to send
            return
        raise
    with response:
        if response.status != 206:  # the server starts from the beginning
            have = 0
        total = have + int(response.headers.get("Content-Length", 0))
        with partial.open("ab" if have else "wb") as file, progress("downloading", total, "bytes") as advance:
            advance(have)
            try:
                while block := response.read(_BLOCK):
                    file.write(block)
                    advance(len(block))
            except IncompleteRead as error:  # raised for chunked responses only
                file.write(error.partial)
                raise ConnectionError(f"broke off after {file.tell()} bytes") from error
    if total and partial.stat().st_size < total:
        raise ConnectionError(f"broke off after {partial.stat().st_size} of {total} bytes")


if __name__ == "__main__":
    try:
        download_zip(sys.argv[1], Path(sys.argv[2]))
    except HeadstartError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
