"""A shard is data that may come from anywhere: what is not as headstart writes it is refused by name."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from headstart.features.digests import hex_digests, raw_digests
from headstart.features.errors import StoreError
from headstart.features.store.shards import (
    ShardFormat,
    read_digests,
    read_rows,
    shard_content,
    shard_fault,
    shard_name,
)

FORM = ShardFormat({"backbone": "b", "cut": "c", "dtype": "float32", "nested": {"scale": [0.5]}}, (5,), np.dtype("f4"))
FLIPS = 800
DIGESTS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(3)]
VECTORS = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def write(folder: Path, content: bytes | None = None) -> Path:
    content = content or shard_content(FORM, raw_digests(DIGESTS), VECTORS)
    path = folder / shard_name(content)
    path.write_bytes(content)
    return path


def test_a_shard_holds_what_was_written(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert hex_digests(read_digests(path, FORM)) == DIGESTS
    np.testing.assert_array_equal(read_rows(path, FORM, 1, 3)[1], VECTORS[1:])
    assert shard_fault(path, FORM) is None


def test_digests_that_end_in_zero_bytes_stay_apart() -> None:
    digests = ["ab" * 31 + "00", "ab" * 30 + "0000", "00" * 32, "00" * 31 + "01"]
    assert hex_digests(raw_digests(digests)) == digests
    assert len(np.unique(raw_digests(digests))) == 4


def soft_link(file: h5py.File) -> None:
    del file["features"]
    file["features"] = h5py.SoftLink("/digest")


def external_link(file: h5py.File) -> None:
    del file["features"]
    file["features"] = h5py.ExternalLink("/etc/passwd", "/features")


def virtual(file: h5py.File) -> None:
    del file["features"]
    layout = h5py.VirtualLayout((3, 5), "f4")
    layout[:] = h5py.VirtualSource("/dev/zero", "features", (3, 5))
    file.create_virtual_dataset("features", layout)


def external_storage(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (3, 5), "f4", external=[("/etc/passwd", 0, 60)])


def foreign_dtype(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", data=VECTORS.astype("f8"), chunks=(3, 5), fletcher32=True)


def variable_length(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (3, 5), h5py.vlen_dtype("f4"), chunks=(3, 5))


def absurd_length(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (1 << 50, 5), "f4", chunks=(3, 5), fletcher32=True)


def absurd_chunk(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (3, 5), "f4", chunks=(1 << 26, 5), maxshape=(None, 5), fletcher32=True)


def other_width(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", data=VECTORS[:, :4], chunks=(3, 4), fletcher32=True)


def other_length(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", data=VECTORS[:2], chunks=(2, 5), fletcher32=True)


def missing_chunks(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (3, 5), "f4", chunks=(3, 5), fletcher32=True)


def compressed(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", data=VECTORS, chunks=(3, 5), compression="gzip")


def a_group(file: h5py.File) -> None:
    del file["features"]
    file.create_group("features")


def one_more(file: h5py.File) -> None:
    file["more"] = 1


def other_weights(file: h5py.File) -> None:
    file.attrs["backbone"] = np.bytes_(b'"x"')


def attribute_of_any_length(file: h5py.File) -> None:
    file.attrs["backbone"] = '"b"'


def attribute_missing(file: h5py.File) -> None:
    del file.attrs["backbone"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (soft_link, "link"),
        (external_link, "link"),
        (virtual, "virtual"),
        (external_storage, "elsewhere"),
        (foreign_dtype, "float64 rather than float32"),
        (variable_length, "object rather than float32"),
        (absurd_length, "claims"),
        (absurd_chunk, "claims"),
        (other_width, "rather than"),
        (other_length, "differ in length"),
        (missing_chunks, "lacks chunks"),
        (compressed, "checksum"),
        (a_group, "no dataset"),
        (one_more, "more"),
        (other_weights, "backbone"),
        (attribute_of_any_length, "backbone"),
        (attribute_missing, "fields"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_no_shard_is_refused_by_name(tmp_path: Path, change: Callable[[h5py.File], None], said: str) -> None:
    path = write(tmp_path)
    with h5py.File(path, "r+", libver="latest") as file:
        change(file)
    for read in (lambda: read_digests(path, FORM), lambda: read_rows(path, FORM, 0, 3)):
        with pytest.raises(StoreError, match=said) as caught:
            read()
        assert str(path) in str(caught.value)
    assert shard_fault(path, FORM) is not None


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "shard-0.h5")
    with pytest.raises(StoreError, match="regular"):
        read_digests(tmp_path / "shard-0.h5", FORM)


def test_no_flipped_byte_gives_a_wrong_vector_or_digest(tmp_path: Path) -> None:
    content = shard_content(FORM, raw_digests(DIGESTS), VECTORS)
    path = tmp_path / shard_name(content)
    rng = np.random.default_rng(0)
    unseen = 0
    for place, mask in zip(rng.integers(0, len(content), FLIPS), rng.integers(1, 256, FLIPS), strict=True):
        flipped = bytearray(content)
        flipped[place] ^= mask
        path.write_bytes(flipped)
        assert shard_fault(path, FORM) is not None
        try:
            digests, vectors = hex_digests(read_digests(path, FORM)), read_rows(path, FORM, 0, 3)[1]
        except StoreError:
            continue
        unseen += 1
        assert digests == DIGESTS
        np.testing.assert_array_equal(vectors, VECTORS)
    assert unseen < FLIPS
