"""The EXIF orientation of a JPEG, read in a TensorFlow graph, without Pillow.

The result is the number that Pillow reads. If the structure of the file or of its EXIF is damaged or unusual, the graph
fails, because Pillow may read another number.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

_APP1, _SCAN = 0xE1, 0xDA
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_TAG, _SHORT, _LONG = 0x0112, 3, 4
_UNITS = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 0)  # bytes of a value, by its type; Pillow skips type 0
_IN_XMP = rb'(?s)\A\C*?tiff:Orientation(?:="|>)([0-9])\C*\z'
_REMEDY = "save the image upright and without EXIF, or use preprocess.py"


def orientation(data: "tf.Tensor") -> "tf.Tensor":
    """Return the orientation of a JPEG, int32, from 1 to 8. Without an orientation, return 1.

    `data` holds the bytes of the JPEG.
    """
    from headstart.features.tensorflow import tf

    exif, xmp = _segments(data)
    number = tf.cond(tf.strings.length(exif) > 0, lambda: _in_exif(exif), lambda: tf.constant(-1))
    number = tf.where(number < 0, _in_xmp(xmp), number)
    return tf.where((number >= 1) & (number <= 8), number, 1)


def _segments(data: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
    """Return two byte strings of the JPEG `data`: its EXIF and its XMP. Both may be empty."""
    from headstart.features.tensorflow import tf

    length = tf.strings.length(data)

    def is_left(place: "tf.Tensor", _: "tf.Tensor", __: "tf.Tensor") -> "tf.Tensor":
        return tf.cond(place + 4 <= length, lambda: _bytes(data, place, 2)[1] != _SCAN, lambda: False)

    def step(place: "tf.Tensor", exif: "tf.Tensor", xmp: "tf.Tensor") -> tuple["tf.Tensor", ...]:
        head = _bytes(data, place, 4)
        marker, size = head[1], head[2] * 256 + head[3]
        has_size = (marker >= 0xC0) & (marker != 0xFF) & ((marker < 0xD0) | (marker > 0xD9))
        plain = (head[0] == 0xFF) & has_size & (size >= 2) & (place + 2 + size <= length)
        with _required(plain, "its segments are damaged or unusual"):
            content = tf.strings.substr(data, place + 4, size - 2)
        is_exif = (marker == _APP1) & (tf.strings.substr(content, 0, len(_EXIF)) == _EXIF)
        is_xmp = (marker == _APP1) & (tf.strings.substr(content, 0, len(_XMP)) == _XMP)
        part = tf.cond(is_exif, lambda: tf.strings.substr(content, len(_EXIF), size), lambda: "")
        return place + 2 + size, exif + part, tf.where(is_xmp, content, xmp)

    _, exif, xmp = tf.while_loop(is_left, step, (tf.constant(2), tf.constant(""), tf.constant("")))
    return exif, xmp


def _in_exif(exif: "tf.Tensor") -> "tf.Tensor":
    """Return the orientation, int32, that the first directory of `exif` holds. Without an orientation, return -1.

    An orientation over 9 is returned as 9.
    """
    from headstart.features.tensorflow import tf

    order, length = tf.strings.substr(exif, 0, 4), tf.strings.length(exif, unit="BYTE")
    little = order == b"II*\0"
    with _required((little | (order == b"MM\0*")) & (length >= 8), "its EXIF is damaged or unusual"):
        first = _number(_bytes(exif, 4, 4), little)
    with _required((first >= 8) & (first + 2 <= tf.cast(length, tf.int64)), "its EXIF is damaged"):
        start = tf.cast(first, tf.int32)
        count = tf.cast(_number(_bytes(exif, start, 2), little), tf.int32)
    with _required(start + 2 + 12 * count <= length, "its EXIF is damaged"):
        entries = tf.reshape(_bytes(exif, start + 2, 12 * count), (count, 12))
    tag, kind = _number(entries[:, :2], little), _number(entries[:, 2:4], little)
    many, value = _number(entries[:, 4:8], little), entries[:, 8:]
    sizes = many * tf.gather(tf.constant(_UNITS, tf.int64), tf.minimum(kind, len(_UNITS) - 1))
    outside = tf.where(sizes > 4, sizes, 0)  # these values lie elsewhere; Pillow stops at one that is cut off
    ends = tf.where(sizes > 4, _number(value, little) + sizes, 0)
    whole = tf.reduce_sum(outside) <= tf.cast(length, tf.int64)
    whole &= tf.reduce_all(ends <= tf.cast(length, tf.int64))
    own = tag == _TAG
    usual = (many == 1) & ((kind == _SHORT) | (kind == _LONG))
    sure = whole & tf.reduce_all(usual | ~own) & (tf.reduce_sum(tf.cast(own, tf.int32)) <= 1)
    with _required(sure, "its EXIF is damaged or unusual"):
        numbers = tf.where(kind == _SHORT, _number(value[:, :2], little), _number(value, little))
    found = tf.reduce_max(tf.where(own, tf.minimum(numbers, 9), -1))
    return tf.cast(tf.maximum(found, -1), tf.int32)  # the largest of no entries is less


def _in_xmp(xmp: "tf.Tensor") -> "tf.Tensor":
    from headstart.features.tensorflow import tf

    found = tf.strings.regex_replace(xmp, _IN_XMP, rb"\1", replace_global=False)
    digit = tf.where(tf.strings.regex_full_match(xmp, _IN_XMP), found, "1")
    return tf.strings.to_number(digit, tf.int32)


def _bytes(text: "tf.Tensor", place: "tf.Tensor | int", count: "tf.Tensor | int") -> "tf.Tensor":
    from headstart.features.tensorflow import tf

    return tf.cast(tf.io.decode_raw(tf.strings.substr(text, place, count), tf.uint8), tf.int32)


def _number(parts: "tf.Tensor", little: "tf.Tensor") -> "tf.Tensor":
    """Join bytes, int32 [..., 2 or 4], into integers, int64 [...]. If `little`, the lowest byte comes first."""
    from headstart.features.tensorflow import tf

    ordered = tf.cast(tf.where(little, tf.reverse(parts, [-1]), parts), tf.int64)
    width = tf.shape(ordered)[-1]
    return tf.reduce_sum(ordered * tf.cast(256 ** tf.range(width - 1, -1, -1), tf.int64), axis=-1)


@contextmanager
def _required(holds: "tf.Tensor", why: str) -> Iterator[None]:
    """Make the graph fail if `holds` is false. The error message contains the text `why`.

    This is a context manager. Operations that are made in its context run after the check.
    """
    from headstart.features.tensorflow import tf

    said = f"{why}, so its orientation is not sure; {_REMEDY}"
    with tf.control_dependencies([tf.debugging.Assert(holds, [said])]):
        yield
