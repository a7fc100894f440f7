"""The parts (chunks) of PNG files that hold texts, a colour profile, or the number of significant bits."""

import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_ORIENTATION_KEYS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_MOST_TEXT = 1 << 20  # bytes; Pillow refuses a file with a compressed text that unpacks to more


def without_texts(data: bytes) -> bytes:
    """Return the bytes of a PNG file without its colour profiles, and without most of its texts.

    Pillow would refuse an image with very long texts or profiles. A text is kept if two conditions hold: the text
    may hold an EXIF orientation, and its packed size and its unpacked size are each at most 1 MiB. If `data` is no PNG
    file, `data` is returned unchanged.
    """
    if not data.startswith(_SIGNATURE):
        return data
    kept, place = [], 0
    for kind, start, end in _chunks(data):
        if kind in _TEXTS and not _may_hold_orientation(kind, data[start + 8 : end - 4]):
            kept.append(data[place:start])
            place = end
    return b"".join([*kept, data[place:]]) if place else data


def significant_bits(data: bytes) -> int:
    """Return the largest number of significant bits that a PNG's sBIT chunk states for a colour; 0 without sBIT."""
    for kind, start, end in _chunks(data):
        if kind == b"IDAT":
            break
        if kind == b"sBIT":
            values = data[start + 8 : end - 4]
            return max(values[:-1] if len(values) in (2, 4) else values, default=0)  # the last of 2 or 4 is alpha's
    return 0


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, start and end (offsets in `data`) of each complete chunk of a PNG, up to IEND."""
    start, kind = len(_SIGNATURE), b""
    while kind != b"IEND" and (end := start + 12 + int.from_bytes(data[start : start + 4], "big")) <= len(data):
        kind = data[start + 4 : start + 8]
        yield kind, start, end
        start = end


def _may_hold_orientation(kind: bytes, content: bytes) -> bool:
    if len(content) > _MOST_TEXT or not content.startswith(_ORIENTATION_KEYS):
        return False
    text = content.partition(b"\0")[2]
    if kind == b"zTXt":
        packed = text[1:]
    elif kind == b"iTXt" and text[:1] == b"\1":
        packed = text[2:].split(b"\0", 2)[-1]
    else:
        return True
    stream = zlib.decompressobj()
    try:
        stream.decompress(packed, _MOST_TEXT)
    except zlib.error:
        return False
    return not stream.unconsumed_tail
