"""One shard: an immutable HDF5 file of digests and features.

Shards are not trusted: the layout of a file is checked before memory is allocated for its content.
"""

import errno
import hashlib
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5z
from headstart.features.digests import DIGEST, DIGEST_BYTES
from headstart.features.errors import StoreError

SHARD_NAME = re.compile(r"shard-.+\.h5", re.DOTALL)
# Distributions still ship HDF5 1.10, whose h5dump fails on virtual datasets of a newer format.
_LIBVER = ("v110", "v110")
_DTYPES = (np.dtype(np.float16), np.dtype(np.float32))
_CHUNK_BYTES = 1 << 20
# These errors mean that the file can't be reached. Its content may be good.
_SYSTEM_ERRORS = {
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    errno.ENOTCONN, errno.ETIMEDOUT,
}  # fmt: skip
_LONGEST_ATTRIBUTE = 1 << 16  # bytes
_REMEDY = "`headstart store verify STORE --repair` drops it, and its images are done again"
IS_FOLDER = "a folder where a shard should be; remove it by hand"


@dataclass(frozen=True)
class ShardFormat:
    """The layout of all shards of one fingerprint. Raises ValueError if the shape or the dtype is invalid."""

    fingerprint: Mapping[str, Any]  # attributes of each shard
    shape: tuple[int, ...]  # of one image's features: `(D,)`, or `(H, W, D)` for a map
    dtype: np.dtype[Any]  # float16 or float32

    def __post_init__(self) -> None:
        if len(self.shape) not in (1, 3) or self.dtype not in _DTYPES:
            raise ValueError(f"no features of shape {list(self.shape)} and dtype {self.dtype}")

    @property
    def image_bytes(self) -> int:
        """The number of bytes of one image's features."""
        return self.dtype.itemsize * math.prod(self.shape)


def shard_name(content: bytes) -> str:
    """Return the file name of a shard, made from the hash of its bytes."""
    return _name(hashlib.sha256(content).hexdigest())


def _name(digest: str) -> str:
    return f"shard-{digest[:16]}.h5"


def shard_content(form: ShardFormat, digests: np.ndarray, features: np.ndarray) -> bytes:
    """Return the bytes of a shard.

    `digests` are `DIGEST` [n], with n >= 1, and `features` are [n, *shape] in the stored dtype.
    """
    # Every byte is under a checksum: HDF5 1.10 checksums metadata, fletcher32 checksums data, and attributes of fixed
    # length are part of the metadata.
    with hdf5_in_memory() as (buffer, file):
        raw = np.frombuffer(digests.tobytes(), np.uint8).reshape(-1, DIGEST_BYTES)
        file.create_dataset("digest", data=raw, chunks=raw.shape, fletcher32=True)
        rows = max(1, min(len(features), _CHUNK_BYTES // features[0].nbytes))
        file.create_dataset("features", data=features, chunks=(rows, *form.shape), fletcher32=True)
        describe(file, form.fingerprint)
    return buffer.getvalue()


def describe(file: h5py.File, fields: Mapping[str, Any]) -> None:
    """Write each of `fields` as an attribute of `file`.

    Each attribute is an HDF5 string of fixed length. It holds the value of the field as JSON.
    """
    for name, value in fields.items():
        file.attrs[name] = _attribute(value)


@contextmanager
def hdf5_in_memory() -> Iterator[tuple[io.BytesIO, Any]]:
    """Yield two things: a buffer in memory, and a new HDF5 file in this buffer.

    After the context is closed, the buffer holds the whole file. The caller then writes the buffer to disk: HDF5 itself
    could crash the process on a full disk.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=_LIBVER) as file:
        yield buffer, file


def read_digests(path: Path, form: ShardFormat) -> np.ndarray:
    """Read the digests of a shard, `DIGEST` [n].

    Raises StoreError if the shard is damaged, or does not fit `form`. Raises OSError if the shard can't be reached.
    """
    with _opened(path, form) as file:
        return np.frombuffer(file["digest"][:].tobytes(), DIGEST)


def read_rows(path: Path, form: ShardFormat, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Read rows `start` to `stop` - 1 of a shard. Return two arrays: digests and features.

    Digests are `DIGEST` [n], and features are [n, *shape] in the stored dtype. If the shard has fewer rows, n is less
    than `stop - start`. Errors: see `read_digests`.
    """
    with _opened(path, form) as file:
        digests = np.frombuffer(file["digest"][start:stop].tobytes(), DIGEST)
        features: np.ndarray = file["features"][start:stop]
        return digests, features


def shard_fault(path: Path, form: ShardFormat) -> str | None:
    """Read every byte of a shard. Return the reason why the shard can't be used, or None if the shard is good.

    Raises OSError if the shard can't be reached.
    """
    try:
        digests = read_digests(path, form)
        with path.open("rb") as file:
            if _name(hashlib.file_digest(file, "sha256").hexdigest()) != path.name:
                return "its bytes are not those that it was named after"
        step = max(1, _CHUNK_BYTES * 64 // form.image_bytes)
        slabs = (read_rows(path, form, start, start + step)[1] for start in range(0, len(digests), step))
        finite = all(np.isfinite(slab).all() for slab in slabs)
    except StoreError as error:
        return str(error)
    if len(np.unique(digests)) < len(digests):
        return "it names an image twice"
    return None if finite else "not all of its values are finite"


def _attribute(value: Any) -> np.bytes_:
    return np.bytes_(json.dumps(value).encode())


@contextmanager
def _opened(path: Path, form: ShardFormat) -> Iterator[Any]:
    """Open a shard, check that it has the layout `form`, and yield the HDF5 file. Errors: see `read_digests`."""
    status = path.lstat()  # a link is not followed: it could lead anywhere
    if stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{path}: {IS_FOLDER}")
    try:
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise _NotAShardError("it is no regular file")
        with h5py.File(path, "r", locking=False) as file:  # no process writes to a finished shard
            _require_layout(file, form, status.st_size)
            yield file
    except _NotAShardError as error:
        raise StoreError(f"{path}: refused: {error}; {_REMEDY}") from error
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        number = _system_error(error) if isinstance(error, OSError) else None
        if number:
            raise OSError(number, os.strerror(number), str(path)) from error
        raise StoreError(f"{path}: damaged shard ({error}); {_REMEDY}") from error


def _system_error(error: OSError) -> int | None:
    """Return the errno of `error` if it is in `_SYSTEM_ERRORS`, else None."""
    said = re.search(r"errno = (\d+)", str(error))  # HDF5 often gives the errno only in the message
    number = error.errno or (int(said[1]) if said else None)
    return number if number in _SYSTEM_ERRORS else None


class _NotAShardError(Exception):
    """Raised if a file does not have the layout of a shard."""


def _require_layout(file: h5py.File, form: ShardFormat, file_bytes: int) -> None:
    if sorted(file) != ["digest", "features"]:
        raise _NotAShardError(f"it holds {', '.join(sorted(file)[:5]) or 'nothing'} rather than digest and features")
    rows = _require_dataset(file, "digest", np.dtype(np.uint8), (DIGEST_BYTES,), file_bytes)
    if _require_dataset(file, "features", form.dtype, form.shape, file_bytes) != rows:
        raise _NotAShardError("digest and features differ in length")
    attributes = file.attrs  # each look at `file.attrs` opens the root group
    if sorted(attributes) != sorted(form.fingerprint):
        raise _NotAShardError("its attributes are not the fields of the fingerprint")
    for field, value in form.fingerprint.items():
        attribute = attributes.get_id(field)
        if attribute.dtype.kind != "S" or attribute.shape != () or attribute.dtype.itemsize > _LONGEST_ATTRIBUTE:
            raise _NotAShardError(f"attribute {field} is no text of fixed length")
        if attributes[field] != _attribute(value):
            raise _NotAShardError(f"its {field} differs from the fingerprint's")


def _require_dataset(file: h5py.File, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], file_bytes: int) -> int:
    """Return a dataset's number of rows. Raises _NotAShardError if it is malformed or unsafe to read."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise _NotAShardError(f"{name} is a link to elsewhere")
    if file.get(name, getclass=True) is not h5py.Dataset:
        raise _NotAShardError(f"{name} is no dataset")
    dataset = file[name]
    plan = dataset.id.get_create_plist()
    if dataset.is_virtual or plan.get_external_count():
        raise _NotAShardError(f"{name} is virtual or stored elsewhere")
    if dataset.dtype != dtype:
        raise _NotAShardError(f"{name} is {dataset.dtype} rather than {dtype}")
    filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    if plan.get_layout() != h5d.CHUNKED or filters != [h5z.FILTER_FLETCHER32]:  # others could run code
        raise _NotAShardError(f"{name} is not in chunks with a checksum")
    if dataset.shape[1:] != shape or not dataset.shape[0]:
        raise _NotAShardError(f"{name} is {list(dataset.shape)} rather than [n, {', '.join(map(str, shape))}]")
    chunk_bytes = int(np.prod([float(side) for side in dataset.chunks]) * dtype.itemsize)
    if max(dataset.nbytes, chunk_bytes) > file_bytes:
        raise _NotAShardError(f"{name} claims {max(dataset.nbytes, chunk_bytes)} bytes of a file of {file_bytes}")
    if dataset.chunks[1:] != shape or dataset.id.get_num_chunks() * dataset.chunks[0] < len(dataset):
        raise _NotAShardError(f"{name} lacks chunks")
    return len(dataset)
