"""Bits in use, camera raw, large texts, videos behind pictures, pages and HEIC."""

import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headstart.features.images import formats
from headstart.features.images import tiff as tiff_structure
from headstart.features.images.batches import decoded_batches, why_undecodable
from headstart.features.images.columns.inspected import inspect_images
from headstart.features.images.decode import pillow_pixels
from headstart.features.images.faults import Fault
from headstart.features.images.formats import Header, inspect_bytes, inspect_pages
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile, Reject, inspect_image
from headstart.features.images.tiff import at_page, count_pages
from headstart.tests.features.images.pictures import chunk, png, ramp, saved, tiff
from PIL import Image, PngImagePlugin

GREY = ramp()
COLOUR = np.stack([GREY, GREY[:, ::-1], GREY // 2], axis=-1)
TWELVE, TWELVE_RGB = (GREY.astype(np.uint16) << 4), (COLOUR.astype(np.uint16) << 4)
FULL, OPAQUE = np.full_like(TWELVE, 65535), np.full_like(TWELVE, 4095)
INK = np.dstack([255 - COLOUR, np.zeros_like(GREY)]).astype(np.uint16) << 4  # CMYK
EXIF = chunk(b"eXIf", b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 3, 1, 1, 0))  # orientation 1


def header(data: bytes, name: str = "x") -> Header:
    found = inspect_bytes(data, name)
    assert isinstance(found, Header), found
    return found


def fault(data: bytes, name: str = "x") -> Fault:
    found = inspect_bytes(data, name)
    assert isinstance(found, Fault), found
    return found


def as_pgm(samples: np.ndarray, largest: int) -> bytes:
    return b"P5\n%d %d\n%d\n" % (*samples.shape[::-1], largest) + samples.astype(">u2").tobytes()


# What is in the file, the bits in use, and the picture it must give, uint8 [H, W] or [H, W, 3].
BITS = {
    "grey PNG of 12": (png(TWELVE), 12, GREY),
    "grey TIFF of 12": (saved(Image.fromarray(TWELVE), "TIFF"), 12, GREY),
    "LZW TIFF of 12": (saved(Image.fromarray(TWELVE), "TIFF", compression="tiff_lzw"), 12, GREY),
    "big-endian TIFF of 12": (tiff((TWELVE, {}), order=">"), 12, GREY),
    "PGM of 12 that gives 16": (saved(Image.fromarray(TWELVE), "PPM"), 12, GREY),
    "PGM of 12 that gives 12": (as_pgm(TWELVE + 15, 4095), 0, GREY),  # Pillow scales it
    "colour PNG of 12": (png(TWELVE_RGB), 12, COLOUR),
    "colour PNG of 12 with EXIF behind its pixels": (png(TWELVE_RGB)[:-12] + EXIF + png(TWELVE_RGB)[-12:], 12, COLOUR),
    "colour PNG with alpha of 12": (png(np.dstack([TWELVE_RGB, np.full_like(TWELVE, 65535)])), 12, COLOUR),
    "grey PNG with alpha of 12": (png(np.dstack([TWELVE, FULL])), 12, GREY),
    "grey PNG with alpha of 12, too": (png(np.dstack([TWELVE, OPAQUE])), 12, GREY),
    "grey PNG with alpha of 8 in 16": (png(np.dstack([TWELVE >> 4, OPAQUE >> 4])), 8, GREY),
    "grey PNG with alpha, full range": (png(np.dstack([TWELVE << 4, FULL])), 16, GREY),
    "grey PNG with alpha, with sBIT": (png(np.dstack([TWELVE >> 4, FULL]), chunk(b"sBIT", b"\x0a\x10")), 10, GREY >> 2),
    "colour TIFF of 12": (tiff((TWELVE_RGB, {})), 12, COLOUR),
    **{
        f"{kind} of 12, {order}": (tiff((samples, tags), order=order), 12, picture)
        for order in "<>"
        for kind, samples, tags, picture in (
            ("TIFF with alpha", np.dstack([TWELVE_RGB, OPAQUE]), {338: 2}, COLOUR),
            ("TIFF with a sample of no meaning", np.dstack([TWELVE_RGB, OPAQUE // 2]), {338: 0}, COLOUR),
            ("TIFF multiplied by alpha", np.dstack([TWELVE_RGB, OPAQUE]), {338: 1}, COLOUR),
            ("CMYK TIFF", INK, {262: 5}, COLOUR),
        )
    },
    "big-endian colour TIFF of 12": (tiff((TWELVE_RGB, {}), order=">"), 12, COLOUR),
    "JPEG 2000 of 12": (saved(Image.fromarray(TWELVE), "JPEG2000"), 12, GREY),
    "8 in 16": (png(GREY.astype(np.uint16)), 8, GREY),
    "colours of 8 in 16": (png(COLOUR.astype(np.uint16)), 8, COLOUR),
    "10, dark, with sBIT": (png(GREY.astype(np.uint16), chunk(b"sBIT", b"\x0a")), 10, GREY >> 2),
    "12, dark, with MaxSampleValue": (tiff((GREY.astype(np.uint16), {281: 4095})), 12, GREY >> 4),
    "full range with sBIT": (png(GREY.astype(np.uint16) << 8, chunk(b"sBIT", b"\x0c")), 16, GREY),  # as PNG wants it
    "full range": (png(GREY.astype(np.uint16) << 8), 16, GREY),
    "black": (png(np.zeros_like(TWELVE)), 16, np.zeros_like(GREY)),
    "8": (png(GREY), 0, GREY),
}


def test_the_bits_in_use_become_eight(tmp_path: Path) -> None:
    images, wanted = [], []
    for kind, (data, bits, picture) in BITS.items():
        found = header(data)
        assert found.bits == bits, kind
        rgb = picture if picture.ndim == 3 else np.repeat(picture[..., np.newaxis], 3, axis=2)
        assert np.abs(pillow_pixels(data, bits).astype(int) - rgb).max() <= 1, kind
        (tmp_path / kind).write_bytes(data)
        (tmp_path / f"{kind}.png").write_bytes(saved(Image.fromarray(rgb), "PNG"))
        ((image,), (like,)) = inspect_images([tmp_path / kind, tmp_path / f"{kind}.png"])
        assert isinstance(image, ImageFile)
        assert isinstance(like, ImageFile)
        images.append(image)
        wanted.append(like)
    ((_, pixels),) = decoded_batches([*images, *wanted], ImageConfig(48), 2 * len(images))
    off = np.abs(pixels[: len(images)].astype(int) - pixels[len(images) :]).max(axis=(1, 2, 3))
    assert dict(zip(BITS, (off <= 1).tolist(), strict=True)) == dict.fromkeys(BITS, True)
    ((_, high),) = decoded_batches(images[:1], ImageConfig(48, bits="16"), 1)
    assert high.max() == 15  # as before
    ((_, clipped),) = decoded_batches(images[:1], ImageConfig(48, bits="10"), 1)
    assert (clipped == 255).mean() > 0.7


def test_white_of_12_bits_is_white_and_half_of_it_half(tmp_path: Path) -> None:
    """Two columns, (sample, alpha) each, and what they are over white."""
    opaque, half = (4095, 4095), (2048, 2048)
    files = {
        "grey and alpha": (png, (opaque, (2048, 4095)), (255, 128)),
        "grey and half alpha": (png, ((4095, 65535), (2048, 32768)), (255, 191)),
        "multiplied by alpha": (tiff, (opaque, (1024, 2048)), (255, 191)),
        "white, multiplied by alpha": (tiff, (opaque, half), (255, 255)),
        "multiplied by alpha of 16 bits": (tiff, ((4095, 65535), (1024, 32768)), (255, 191)),
    }
    for name, (write, columns, wanted) in files.items():
        grey, alpha = np.repeat([columns], 4, axis=0).astype(np.uint16).transpose(2, 0, 1)
        data = png(np.dstack([grey, alpha])) if write is png else tiff((np.dstack([grey] * 3 + [alpha]), {338: 1}))
        (tmp_path / name).write_bytes(data)
        (image,) = inspect_image(tmp_path / name)
        assert isinstance(image, ImageFile)
        assert image.bits == 12, name
        pixels = pillow_pixels(data, image.bits)[0, :, 0]
        assert np.abs(pixels.astype(int) - wanted).max() <= 1, (name, pixels)


def test_a_sixteen_bit_file_that_ends_early_is_told_by_the_decoder(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    (tmp_path / "x.png").write_bytes(png(noise)[:-2000])
    (image,) = inspect_image(tmp_path / "x.png")
    assert isinstance(image, ImageFile)
    assert why_undecodable(image).reason == "truncated"


# --- camera raw ---

THUMBNAIL, CFA = (COLOUR, {254: 1}), {254: 0, 262: 32803}
RAW = {
    "NEF": tiff((COLOUR, {254: 1, 271: 0})),
    "DNG with a thumbnail": tiff(THUMBNAIL, own=(TWELVE, CFA)),
    "DNG of a phone": tiff((TWELVE, {50706: 0x00000401})),
    "ARW without a mark on its thumbnail": tiff((COLOUR, {}), own=(TWELVE, CFA)),
    "PEF": tiff((TWELVE, CFA), (COLOUR, {})),
    "MEF, big-endian": tiff(THUMBNAIL, own=(TWELVE, CFA), order=">"),
    "CR2": b"II*\0\x10\0\0\0CR\2\0" + bytes(4) + saved(Image.fromarray(COLOUR), "TIFF")[8:],
    "SR2 with the tag of TIFF 5": tiff((COLOUR, {255: 2})),
    "RW2": b"IIU\0\x18\0\0\0" + bytes(400),
    "ORF": b"IIRO\x08\0\0\0" + bytes(400),
    "RAF": b"FUJIFILMCCD-RAW 0201FF389501" + bytes(400),
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(400),
    "CRW": b"II\x1a\0\0\0HEAPCCDR" + bytes(400),
}


@pytest.mark.parametrize("kind", RAW)
def test_camera_raw_is_known_by_its_structure(kind: str) -> None:
    for name in ("x.nef", "x.jpg", "x"):
        found = fault(RAW[kind], name)
        assert found.reason == "unsupported"
        assert "camera raw" in found.detail


@pytest.mark.parametrize(
    "data",
    [
        tiff((COLOUR, {254: 0, 271: 0})),  # a camera's maker alone makes no raw
        tiff((COLOUR, {}), own=(COLOUR[::2, ::2], {254: 1})),  # Photoshop's thumbnail, a pyramid
        tiff((COLOUR, {}), (COLOUR[::2, ::2], {254: 1})),
        saved(Image.fromarray(COLOUR), "TIFF", tiffinfo={271: "NIKON CORPORATION", 272: "NIKON D7200"}),
    ],
)
def test_an_ordinary_tiff_stays_an_image(data: bytes) -> None:
    found = header(data, "x.nef")
    assert (found.width, found.height, found.pages) == (64, 48, 1)
    np.testing.assert_array_equal(pillow_pixels(data), COLOUR)


# --- PNG with large chunks ---


def packed_profile(size: int) -> bytes:
    return chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(size)))


def orientation_text(after: bytes = b"") -> bytes:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>' + after
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)


TEXTS = {
    "text of 40 MB": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 40_000_000)),
    "profile of 8 MB": packed_profile(8_000_000),
    "international text of 2 MB": chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(bytes(2_000_000))),
    "many texts": b"".join(chunk(b"tEXt", b"%d\0" % number + bytes(1_000_000)) for number in range(70)),
    "EXIF that unpacks to much": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(9_000_000))),
    "a text with a wrong checksum": chunk(b"tEXt", b"a\0b")[:-4] + b"oops",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_large_texts_in_a_png_do_no_harm(tmp_path: Path, kind: str) -> None:
    before = png(COLOUR, TEXTS[kind])
    behind = png(COLOUR)[:-12] + TEXTS[kind] + png(COLOUR)[-12:]
    for data in (before, behind):
        assert header(data, "x.png").format == "PNG"
        np.testing.assert_array_equal(pillow_pixels(data), COLOUR)
    assert fault(before[: before.index(b"IDAT") - 4], "x.png").reason == "truncated"
    twelve = png(TWELVE, TEXTS[kind])
    assert header(twelve).bits == 12


def test_large_texts_pass_tensorflow_too(tmp_path: Path) -> None:
    for number, text in enumerate(TEXTS.values()):
        (tmp_path / f"{number}.png").write_bytes(png(COLOUR, text))
    images = [image for found in inspect_images(sorted(tmp_path.iterdir())) for image in found]
    ((positions, pixels),) = decoded_batches(images, ImageConfig(48), len(TEXTS))
    assert len(positions) == len(TEXTS)
    assert (pixels == pixels[0]).all()


def test_orientation_in_a_png_s_text_is_still_read() -> None:
    assert header(png(COLOUR, TEXTS["text of 40 MB"], orientation_text())).orientation == 6
    assert header(png(COLOUR, orientation_text(b" " * 2_000_000))).orientation == 1  # over 1 MiB it is not read
    assert PngImagePlugin.MAX_TEXT_CHUNK == 1 << 20


# --- a video behind a photograph ---

VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0" + np.random.default_rng(0).bytes(3_000_000)
PHOTO = saved(Image.fromarray(COLOUR), "JPEG", quality=95)
MARKED = Image.Exif()
MARKED[0x0112] = 3
TRAILERS: dict[str, tuple[bytes, int]] = {
    "JPEG and MP4": (PHOTO + VIDEO, 1),
    "JPEG and MP4 that is full of scans": (PHOTO + VIDEO + b"\xff\xda" * 100_000, 1),
    "progressive JPEG and MP4": (saved(Image.fromarray(COLOUR), "JPEG", progressive=True) + VIDEO, 10),
    "JPEG with EXIF and MP4": (saved(Image.fromarray(COLOUR), "JPEG", exif=MARKED) + VIDEO, 1),
    "MPO and MP4": (
        saved(Image.fromarray(COLOUR), "MPO", save_all=True, append_images=[Image.fromarray(GREY)]) + VIDEO, 1,
    ),
    "PNG and MP4": (png(COLOUR) + VIDEO, 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRAILERS)
def test_a_video_behind_a_photograph_is_not_looked_at(kind: str) -> None:
    data, scans = TRAILERS[kind]
    found = inspect_bytes(data, "x.jpg", max_pixels=4000)
    assert isinstance(found, Header), found
    assert found.scans == scans
    assert np.abs(pillow_pixels(data).astype(int) - COLOUR).mean() < 4


def test_photographs_with_videos_are_decoded_in_tensorflow(tmp_path: Path) -> None:
    for number, (data, _) in enumerate(TRAILERS.values()):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    images = [image for found in inspect_images(sorted(tmp_path.iterdir())) for image in found]
    ((positions, _),) = decoded_batches(images, ImageConfig(48), len(TRAILERS))
    assert len(positions) == len(TRAILERS)


def test_an_index_of_pictures_that_is_damaged_does_no_harm() -> None:
    several = saved(Image.fromarray(COLOUR), "MPO", save_all=True, append_images=[Image.fromarray(COLOUR)])
    place = several.index(b"MPF\0")
    for damaged in (several[: len(several) // 2 + 1000], several[: place + 20] + b"\xff" * 30 + several[place + 50 :]):
        assert header(damaged).format == "JPEG"
        assert pillow_pixels(damaged).shape == (48, 64, 3)


# --- pages ---

THREE = tiff((COLOUR, {}), (COLOUR[::2, ::2], {254: 1}), (COLOUR[::-1], {254: 2}), (TWELVE, {}))


def test_each_page_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(THREE)
    (first,) = inspect_image(tmp_path / "x.tif")
    pages = inspect_image(tmp_path / "x.tif", pages="all")
    assert all(isinstance(page, ImageFile) for page in pages)
    assert pages[0] == first
    assert [(Path(page.path).name, page.page, page.pages, page.bits) for page in pages] == [
        ("x.tif", 1, 3, 0), ("x.tif#2", 2, 3, 0), ("x.tif#3", 3, 3, 12),
    ]  # fmt: skip
    assert len({page.digest for page in pages}) == 3
    assert all(page.is_unchanged() for page in pages)
    ((positions, pixels),) = decoded_batches(pages, ImageConfig(48), 3)
    assert positions.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(pixels[1], pixels[0][::-1])
    assert pixels[2].max() > 250
    (tmp_path / "x.tif").write_bytes(tiff((COLOUR, {})))
    assert why_undecodable(pages[1]) == Reject(pages[1].path, "vanished", "gone or changed since it was scanned")


def test_a_page_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(tiff((COLOUR, {}), (COLOUR, {259: 99}), (GREY, {})))
    first, second, third = inspect_image(tmp_path / "x.tif", pages="all")
    assert isinstance(first, ImageFile)
    assert isinstance(second, Reject)
    assert isinstance(third, ImageFile)
    assert Path(second.path).name == "x.tif#2"


@pytest.mark.parametrize("order", "<>")
def test_pages_of_both_orders_of_bytes_and_of_pillow_s(order: str) -> None:
    assert header(tiff(*[(GREY, {})] * 5, order=order)).pages == 5
    rest = [Image.fromarray(COLOUR)] * 6
    for options in ({}, {"compression": "tiff_lzw"}, {"big_tiff": True}):
        data = saved(Image.fromarray(GREY), "TIFF", save_all=True, append_images=rest, **options)
        assert [page.pages for page in inspect_pages(data, "x") if isinstance(page, Header)] == [7] * 7, options
        np.testing.assert_array_equal(pillow_pixels(data, page=7), COLOUR)


def many_pages(count: int, **options) -> bytes:
    noise = [Image.fromarray(GREY[:2, n % 50 : n % 50 + 8].astype(np.uint16) << 4) for n in range(count)]
    return saved(noise[0], "TIFF", save_all=True, append_images=noise[1:], **options)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}], ids=str)
def test_pages_have_the_headers_of_files_that_begin_with_them(options: dict[str, object]) -> None:
    for data in (THREE, RAW["ORF"], many_pages(5, **options), tiff((COLOUR, {}), (COLOUR, {259: 99}), (TWELVE, CFA))):
        found = inspect_pages(data, "x.tif")
        alone = [inspect_bytes(at_page(data, page), "x.tif") for page in range(1, len(found) + 1)]
        assert [replace(one, pages=len(found)) if isinstance(one, Header) else one for one in alone] == found


def test_the_time_of_a_scan_grows_with_the_pages_and_not_with_their_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the directories that are read, and the bytes that are copied to read them."""
    read: list[int] = []
    entries = tiff_structure._entries
    monkeypatch.setattr(tiff_structure, "_entries", lambda *args: read.append(1) or entries(*args))
    monkeypatch.setattr(tiff_structure, "at_page", lambda *_: pytest.fail("the file was copied"))
    counts = []
    for pages in (50, 200):
        read.clear()
        assert len(inspect_pages(many_pages(pages), "x.tif")) == pages
        counts.append(len(read))
    assert counts[1] < 4.5 * counts[0]


def test_pages_that_all_point_at_one_large_directory_end() -> None:
    """Each of 2,000 pages points sixteen times at a directory of 40,000 entries."""
    layout = struct.Struct("<H" + 5 * "HHII" + "I")
    start = 8 + 2000 * layout.size
    tags = (5, 256, 4, 1, 1, 257, 4, 1, 1, 258, 4, 1, 8, 273, 4, 1, 8, 330, 4, 16, start)
    chain = b"".join(layout.pack(*tags, 8 + layout.size * n if n < 2000 else 0) for n in range(1, 2001))
    own = struct.pack("<16I", *[start + 64] * 16)
    large = struct.pack("<H", 40_000) + struct.pack("<HHII", 300, 4, 1, 0) * 40_000 + bytes(4)
    began = time.process_time()
    assert len(inspect_pages(b"II*\0\x08\0\0\0" + chain + own + large, "x.tif")) == 2000
    assert time.process_time() - began < 10


def test_hostile_chains_of_pages_end() -> None:
    loop = bytearray(tiff((GREY, {}), (GREY, {})))
    loop[-4:] = loop[4:8]
    assert header(bytes(loop)).pages == 2
    # Directories that overlap, each at the next even byte and with thousands of entries.
    many = bytearray(saved(Image.fromarray(GREY), "TIFF"))
    many += struct.pack("<H", 4000) * 2_000_000
    assert count_pages(bytes(many)) == 1
    endless = b"II*\0\x08\0\0\0" + b"".join(struct.pack("<HHHIIHHIIHHIII", 3, *entry) for entry in _small_pages(20_000))
    found = inspect_pages(endless, "x.tif")
    assert count_pages(endless) == 10_001
    assert len(found) == 1


def _small_pages(count: int) -> list[tuple[int, ...]]:
    size = struct.calcsize("<HHHIIHHIIHHIII")
    return [(256, 4, 1, 1, 257, 4, 1, 1, 258, 4, 1, 8, 8 + size * (number + 1)) for number in range(count)]


def test_animations_have_one_page() -> None:
    frames = {"save_all": True, "append_images": [Image.fromarray(GREY[::-1])] * 3}
    for format in ("GIF", "WEBP", "PNG"):
        assert header(saved(Image.fromarray(GREY), format, **frames)).pages == 1


# --- HEIC ---


@pytest.fixture(scope="module")
def heic() -> bytes:
    pytest.importorskip("pillow_heif")
    return saved(Image.fromarray(COLOUR), "HEIF", quality=95)


def test_heic_is_read(tmp_path: Path, heic: bytes) -> None:
    assert header(heic) == Header(64, 48, 1, "HEIF")
    assert np.abs(pillow_pixels(heic).astype(int) - COLOUR).mean() < 6
    (tmp_path / "IMG_1.HEIC").write_bytes(heic + VIDEO)
    (image,) = inspect_image(tmp_path / "IMG_1.HEIC")
    ((positions, _),) = decoded_batches([image], ImageConfig(48), 1)
    assert positions.tolist() == [0]


def test_heic_is_turned_upright_once(heic: bytes) -> None:
    turned = saved(Image.fromarray(COLOUR), "HEIF", quality=95, exif=MARKED.tobytes())
    assert header(turned).orientation == 1
    assert np.abs(pillow_pixels(turned).astype(int) - COLOUR[::-1, ::-1]).mean() < 6


@pytest.mark.parametrize(
    "brand", [lambda heic: heic, lambda heic: heic.replace(b"ftypheic", b"ftypmif1", 1)], ids=["heic", "mif1"]
)
def test_heic_without_its_extra_names_it(
    heic: bytes, brand: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert header(brand(heic)).format == "HEIF"
    monkeypatch.setattr(formats, "FORMATS", tuple(name for name in formats.FORMATS if name != "HEIF"))
    found = fault(brand(heic), "x.heic")
    assert found.reason == "unsupported"
    assert "pip install 'headstart[heic]'" in found.detail


def test_bounds_hold_for_heic_before_it_is_decoded(heic: bytes) -> None:
    found = inspect_bytes(heic, "x.heic", max_pixels=3000)
    assert isinstance(found, Fault)
    assert found.reason == "too-large"
    assert isinstance(inspect_bytes(heic[: len(heic) // 8], "x.heic"), Fault)


# --- pad ---


def test_pad_keeps_the_proportions(tmp_path: Path) -> None:
    paths = []
    for number, size in enumerate([(96, 32), (32, 96), (1000, 3), (64, 64)]):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", size, (250, 10, 10)).save(paths[-1])
    paths.append(tmp_path / "turned.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (96, 32), (250, 10, 10)).save(paths[-1], exif=exif)
    images = [image for found in inspect_images(paths) for image in found]
    ((_, pixels),) = decoded_batches(images, ImageConfig(48, "pad"), len(images))
    red = pixels[..., 0] > 200
    assert (pixels[~red] == 128).all()
    sides = [(int(one.any(axis=1).sum()), int(one.any(axis=0).sum())) for one in red]
    assert sides == [(16, 48), (48, 16), (1, 48), (48, 48), (48, 16)]
    assert red[0, 16:32].all()
