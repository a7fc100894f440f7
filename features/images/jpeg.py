"""The structure of JPEG files."""

import re

# Bytes after 0xff that are no markers of a segment: stuffing, restarts within a scan, and 0xff as a filler.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_END, _SCAN = b"\xd9", b"\xda"


def count_scans(data: bytes) -> int:
    """Return the number of scans of a JPEG, which are passes over its image.

    Segments are skipped, such as EXIF with a thumbnail. Nothing after the picture's end is read, because it may be
    another picture or a video.
    """
    scans, place = 0, 2
    while (found := _MARKER.search(data, place)) and found[1] != _END:
        scans += found[1] == _SCAN
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return scans
