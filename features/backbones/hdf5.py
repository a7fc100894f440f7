"""Check HDF5 files of weights, which may come from elsewhere, and refuse a file that is not safe to read."""

from collections import deque
from pathlib import Path
from typing import IO, Any

from headstart.features.errors import WeightsError

RATIO = 100  # data are refused if they unpack to more than this multiple of the file's size
_SMALLEST = 1 << 16  # bytes; smaller files count as this size
_MOST_OBJECTS = 1_000_000


def require_sound_hdf5(file: Path | IO[bytes], size: int, shown: str) -> None:
    """Raise a WeightsError if an HDF5 file is damaged, refers to other places, or would fill the memory.

    References to other places are soft links, external links, and data in other files. `size` is the file's size
    in bytes; for a file in an archive, the compressed size. `shown` is the file's name in the error.
    """
    import h5py  # late, because networks with shipped weights do not need it

    try:
        with h5py.File(file, "r") as opened:
            _require_sound(opened, size, shown)
    except WeightsError:
        raise
    except Exception as error:  # h5py raises half a dozen kinds
        said = " ".join(str(error).split())[:160]
        raise WeightsError(f"{shown}: not an HDF5 file, or corrupt ({said})") from error


def _require_sound(file: Any, size: int, shown: str) -> None:
    import h5py

    bytes_left, waiting, seen = RATIO * max(size, _SMALLEST), deque([file]), set()
    while waiting:
        group = waiting.popleft()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise WeightsError(f"{shown}: {name[:80]!r} is a link to another place; refused")
            found = group[name]
            place = h5py.h5o.get_info(found.id).addr
            if place in seen:  # a group may hold itself
                continue
            seen.add(place)
            if len(seen) > _MOST_OBJECTS:
                raise WeightsError(f"{shown}: holds more than {_MOST_OBJECTS} objects; refused")
            if isinstance(found, h5py.Group):
                waiting.append(found)
            elif isinstance(found, h5py.Dataset):
                if found.is_virtual or found.external:
                    raise WeightsError(f"{shown}: {name[:80]!r} keeps its data in another file; refused")
                bytes_left -= found.nbytes
                if bytes_left < 0:
                    raise WeightsError(
                        f"{shown}: {name[:80]!r} has the shape {str(found.shape)[:80]}; refused as too large"
                    )
