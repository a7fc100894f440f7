"""Mutations of small files: each must end as features or as a reject, and none may stop the rest."""

import io
import random
import resource
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.images.opening import FORMATS
from headstart.pipeline.featured import cache_features
from headstart.tests.conftest import SMALL
from headstart.tests.features.images.pictures import png, tiff
from PIL import Image


def encoded(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def seeds(kinds: tuple[str, ...]) -> list[bytes]:
    """Small files of every sort that a format has."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((48, 36))
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = picture.convert("RGBA")
    clear.putalpha(100)
    deep = rng.integers(0, 4096, (20, 30, 3), dtype=np.uint16)
    sixteen = Image.fromarray(rng.integers(0, 65536, (20, 30), dtype=np.uint16))
    several = {"save_all": True, "append_images": [picture.rotate(90), picture.rotate(180)]}
    files = {
        "JPEG": [({}, picture), ({"progressive": True}, picture), ({"exif": exif}, picture), ({}, picture.convert("L")),
                 ({}, picture.convert("CMYK")), ({"restart_marker_rows": 1}, picture)],
        "MPO": [(several, picture)],
        "PNG": [({}, picture), ({}, clear), ({}, picture.quantize(16)), ({}, sixteen), ({}, picture.convert("1")),
                ({"transparency": (1, 2, 3)}, picture), ({"exif": exif}, picture)],
        "GIF": [({}, picture.quantize(32)), (several, picture), ({"transparency": 3}, picture.quantize(32))],
        "BMP": [({}, picture), ({}, picture.quantize(16))],
        "WEBP": [({}, picture), ({"lossless": True}, clear), (several, picture)],
        "TIFF": [({}, picture), ({}, sixteen), ({"compression": "tiff_lzw"}, picture),
                 ({"compression": "jpeg"}, picture), (several, picture)],
        "PPM": [({}, picture)],
        "AVIF": [({}, picture)],
        "HEIF": [({}, picture)],
        "JPEG2000": [({}, picture)],
    }  # fmt: skip
    known = [kind for kind in kinds if kind in (*FORMATS, "MPO")]
    more = {"TIFF": [tiff((deep, {}), (deep[..., 0], {}))], "PNG": [png(deep)]}
    return [encoded(one, kind, **options) for kind in known for options, one in files[kind]] + [
        data for kind in known for data in more.get(kind, ())
    ]


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        place = rng.randrange(len(changed))
        match rng.randrange(7):
            case 0:
                del changed[max(place, 1) :]
            case 1:
                changed[place] ^= 1 << rng.randrange(8)
            case 2:
                changed[place] = rng.choice([0, 1, 127, 128, 255])
            case 3:  # the header lies
                place = rng.randrange(min(64, len(changed)))
                changed[place : place + 2] = rng.randbytes(2)
            case 4:
                changed[place:place] = rng.randbytes(rng.randrange(1, 40))
            case 5:
                del changed[place : place + rng.randrange(1, 40)]
                changed = changed or bytearray(1)
            case 6:
                changed[place : place + 20] = data[:20]
    return bytes(changed)


@pytest.mark.parametrize(
    ("kinds", "count"),
    [
        (("JPEG", "MPO", "PNG", "GIF"), 100),
        (("BMP", "WEBP", "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000"), 100),
        pytest.param(("JPEG", "MPO", "PNG", "GIF"), 4000, marks=pytest.mark.slow),
        pytest.param(("BMP", "WEBP", "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000"), 1000, marks=pytest.mark.slow),
    ],
)
def test_every_mutation_ends_as_features_or_as_a_reject(
    tmp_path: Path, small: FeatureConfig, extraction: ExtractionConfig, kinds: tuple[str, ...], count: int
) -> None:
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of the tests before this one
    rng = random.Random(0)
    originals = seeds(kinds)
    for number in range(count):
        path = tmp_path / "data" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutated(rng.choice(originals), rng))
    cached = cache_features(tmp_path / "data", replace(small, pages="all"), replace(extraction, batch_size=64))
    ended = [example.image.path for example in cached.examples] + [reject.path for reject in cached.rejects]
    files = [path.partition("#")[0] for path in ended]
    assert sorted(set(files)) == sorted(map(str, (tmp_path / "data").rglob("*.jpg")))
    assert len(ended) == len(set(ended))
    reasons = Counter(reject.reason for reject in cached.rejects)
    assert {"truncated", "corrupt"} <= set(reasons)
    assert count / 10 < len(cached.rejects) < count * 9 / 10, reasons
    assert next(iter(cached.stores.values())).missing([example.image.digest for example in cached.examples]) == []
    assert SMALL["image_size"] == cached.network.images.size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss <= max(peak_before + (1 << 20), 3 << 20)  # KiB
