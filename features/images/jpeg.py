"""The structure of JPEG files."""

import re

# The marker of a segment. The excluded bytes begin no segment. Among them are stuffing, restarts in a scan, and filler.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_END, _SCAN = b"\xd9", b"\xda"


def count_scans(data: bytes) -> int:
    """Return the number of scans in the bytes of a JPEG file. A scan is one pass over the image.

    The content of a segment, such as a thumbnail in EXIF, is skipped. Bytes after the end of the image are not read,
    because they may be another image or a video.
    """
    scans, place = 0, 2
    while (found := _MARKER.search(data, place)) and found[1] != _END:
        scans += found[1] == _SCAN
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return scans
