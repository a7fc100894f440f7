import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from headstart.features.images.formats import Header, inspect_bytes
from headstart.features.tensorflow import tf
from headstart.pipeline.export.formats.orientation import orientation
from PIL import Image


def segment(content: bytes, marker: int = 0xE1) -> bytes:
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content


def entry(tag: int, kind: int, count: int, value: bytes, order: str) -> bytes:
    return b"".join(number.to_bytes(size, order) for number, size in ((tag, 2), (kind, 2), (count, 4))) + value


def exif(*entries: tuple[int, int, int, int], order: str = "little", thumbnail: tuple[int, ...] = ()) -> bytes:
    """EXIF with a directory for the image and one for its thumbnail. An entry is a tag, a type, a count and a value."""

    def directory(all_of: tuple[tuple[int, ...], ...], then: int) -> bytes:
        parts = [entry(tag, kind, count, shown(kind, value), order) for tag, kind, count, value in all_of]
        return len(all_of).to_bytes(2, order) + b"".join(parts) + then.to_bytes(4, order)

    def shown(kind: int, value: int) -> bytes:
        return value.to_bytes(2, order) + b"\0\0" if kind == 3 else value.to_bytes(4, order)

    start = b"II*\0" if order == "little" else b"MM\0*"
    second = 8 + 2 + 12 * len(entries) + 4
    after = directory((thumbnail,), 0) if thumbnail else b""
    return b"Exif\0\0" + start + (8).to_bytes(4, order) + directory(entries, second if after else 0) + after


ORIENTATION, MAKER = 0x0112, 0x010F
SIX = exif((ORIENTATION, 3, 1, 6))
ICC = segment(b"ICC_PROFILE\0" + bytes(65_000), 0xE2)
XMP = b'http://ns.adobe.com/xap/1.0/\0<rdf tiff:Orientation="8"/>'
PLAIN = {
    "none": b"",
    "little": segment(SIX),
    "big": segment(exif((ORIENTATION, 3, 1, 6), order="big")),
    "long": segment(exif((ORIENTATION, 4, 1, 6))),
    "long big": segment(exif((ORIENTATION, 4, 1, 6), order="big")),
    "out of range": segment(exif((ORIENTATION, 3, 1, 9))),
    "far out of range": segment(exif((ORIENTATION, 4, 1, 1 << 31))),
    "zero": segment(exif((ORIENTATION, 3, 1, 0))),
    "other tags": segment(exif((MAKER, 2, 4, 0x414141), (ORIENTATION, 3, 1, 3), (0x8769, 4, 1, 26))),
    "empty": segment(exif()),
    "thumbnail": segment(exif((MAKER, 2, 4, 0x414141), thumbnail=(ORIENTATION, 3, 1, 6))),
    "late": ICC + ICC + segment(SIX),
    "comment": segment(SIX, 0xFE) + segment(exif((ORIENTATION, 3, 1, 3))),
    "only a comment": segment(SIX, 0xFE),
    "pattern in a profile": segment(b"ICC_PROFILE\0" + SIX, 0xE2),
    "xmp": segment(XMP),
    "xmp and exif": segment(XMP) + segment(SIX),
    "xmp and exif without": segment(exif()) + segment(XMP),
    "two parts": segment(SIX[:20]) + segment(b"Exif\0\0" + SIX[20:]),
}
UNSURE = {
    "two values": segment(exif((ORIENTATION, 3, 2, 6))),
    "bytes": segment(exif((ORIENTATION, 1, 1, 6))),
    "rational": segment(exif((ORIENTATION, 5, 1, 8))),
    "twice": segment(exif((ORIENTATION, 3, 1, 6), (ORIENTATION, 3, 1, 3))),
    "cut": segment(SIX[:-8]),
    "another order": segment(b"Exif\0\0MM*\0" + SIX[10:]),
    "no order": segment(b"Exif\0\0" + bytes(30)),
    "value elsewhere": segment(exif((MAKER, 2, 400, 26), (ORIENTATION, 3, 1, 6))),
    "filler": b"\xff" + segment(SIX),
    "junk": b"ab" + segment(SIX),
    "segment too long": segment(SIX)[:2] + b"\xff\xff" + SIX,
}


def jpeg(segments: bytes) -> bytes:
    Image.new("RGB", (40, 30)).save(data := io.BytesIO(), "JPEG")
    return data.getvalue()[:2] + segments + data.getvalue()[2:]


@cache
def in_graph() -> Callable[[bytes], tf.Tensor]:
    return tf.function(orientation, [tf.TensorSpec((), tf.string)], autograph=False)


@pytest.mark.parametrize("name", PLAIN)
def test_the_graph_reads_the_orientation_of_headstart(name: str) -> None:
    data = jpeg(PLAIN[name])
    header = inspect_bytes(data, "a.jpg")
    assert isinstance(header, Header)
    assert int(in_graph()(data)) == header.orientation


@pytest.mark.parametrize("name", UNSURE)
def test_the_graph_fails_where_it_is_not_sure(name: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="its orientation is not sure; save the image upright"):
        in_graph()(jpeg(UNSURE[name]))


def test_a_pattern_after_the_header_does_not_count() -> None:
    assert int(in_graph()(jpeg(b"") + SIX)) == 1


@pytest.mark.real
def test_awkward_photographs_are_read_as_headstart_reads_them_or_fail(shared: Path) -> None:
    found = {}
    for file in sorted((shared / "data" / "awkward").rglob("*.jp*g")):
        header = inspect_bytes(file.read_bytes(), file.name)
        if not isinstance(header, Header):
            continue
        try:
            found[file.name] = int(in_graph()(file.read_bytes()))
        except tf.errors.InvalidArgumentError:
            continue
        assert found[file.name] == header.orientation, file
    assert len(found) > 40
