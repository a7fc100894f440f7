"""Pictures as cameras, scanners and phones write them, for the tests."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def saved(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def ramp(width: int = 64, height: int = 48) -> np.ndarray:
    """Grey from 0 to 255, uint8 [height, width]."""
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: np.ndarray, *more: bytes) -> bytes:
    """A PNG of uint8 or uint16 [H, W] or [H, W, 2 to 4], with `more` chunks before its pixels."""
    depth = samples.dtype.itemsize
    kind = 0 if samples.ndim == 2 else {2: 4, 3: 2, 4: 6}[samples.shape[2]]
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 8 * depth, kind, 0, 0, 0)
    rows = samples.astype(f">u{depth}").reshape(len(samples), -1)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = (chunk(b"IHDR", header), *more, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(
    *pages: tuple[np.ndarray, dict[int, int]], order: str = "<", own: tuple[np.ndarray, dict[int, int]] | None = None
):
    """A TIFF of `pages`, uint8 or uint16 [H, W] or [H, W, 3 or 4], each with further tags.

    The first page points at `own`.
    """
    prefix = b"II*\0" if order == "<" else b"MM\0*"
    out = bytearray(prefix + bytes(4))
    link = 4
    inner = 0
    for number, (samples, more) in enumerate(([own] if own else []) + list(pages)):
        directory, at = _directory(
            samples, {**more, **({330: inner} if inner and number == 1 else {})}, len(out), order
        )
        if own and number == 0:
            inner = at
            out += directory
            continue
        out += directory
        struct.pack_into(order + "I", out, link, at)
        link = len(out) - 4
    return bytes(out)


def _directory(samples: np.ndarray, more: dict[int, int], start: int, order: str) -> tuple[bytes, int]:
    """The bytes of an image and its directory, whose last four are the link to the next, and the directory's offset."""
    depth, channels = samples.dtype.itemsize, samples.shape[2] if samples.ndim == 3 else 1
    pixels = samples.astype(f"{order}u{depth}").tobytes()
    pixels += bytes(len(pixels) % 2)
    bits = start + len(pixels)
    extra = struct.pack(order + "4H", *[8 * depth] * 4)
    tags = {
        256: samples.shape[1], 257: samples.shape[0], 258: 8 * depth if channels == 1 else bits, 259: 1,
        262: 1 if channels == 1 else 2, 273: start, 277: channels, 278: samples.shape[0], 279: samples.nbytes, **more,
    }  # fmt: skip
    entries = b"".join(
        struct.pack(order + "HHI", tag, 3, channels) + struct.pack(order + "I", value)
        if tag == 258 and channels >= 3
        else struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
        if tag == 338
        else struct.pack(order + "HHII", tag, 4, 1, value)
        for tag, value in sorted(tags.items())
    )
    at = bits + len(extra)
    return pixels + extra + struct.pack(order + "H", len(tags)) + entries + bytes(4), at
