"""Read a zip. The names in a zip may come from Windows, or may be in old encodings."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial

from headstart.features.errors import DataError
from headstart.features.images.faults import Fault
from headstart.pipeline.archives.entries import BLOCK, DAMAGE, UNSUPPORTED, Entry, message_of, require_within_limits
from headstart.pipeline.archives.names import as_paths, guess_encoding, require_encoding
from headstart.pipeline.archives.parts import Part

_ENCRYPTED, _UTF_8 = 0x1, 0x800  # flags of an entry
_WINDOWS = (0, 10, 11, 14)  # codes of FAT, NTFS (two codes) and VFAT in the field "made by"
_UNICODE_PATH = 0x7075  # Info-ZIP's extra field: the name in UTF-8
_MOST_END = 65_557  # bytes of the record at a zip's end, with the longest comment


def zip_entries(file: Part, archive: str, encoding: str | None) -> tuple[list[Entry], list[str]]:
    """Return two lists: the files of the zip `file`, and notes on how their names were read.

    `archive` is the name of the zip, for messages. Names that are not marked as UTF-8 are decoded with `encoding`. If
    `encoding` is None, an encoding for these names is guessed. Raises DataError if the zip is damaged, if its files
    exceed the limits (see `require_within_limits`), or if all files are encrypted. Raises OptionError if `encoding`
    does not fit the names.
    """
    try:
        opened = zipfile.ZipFile(file)
    except (*DAMAGE, *UNSUPPORTED, OSError) as error:
        raise DataError(f"{archive}: a damaged zip ({message_of(error)}); make or download it anew") from error
    infos = opened.infolist()
    size = file.seek(0, 2)
    _require_all(file, size, len(infos), archive)
    require_within_limits(archive, len(infos), sum(info.file_size for info in infos), size)
    names, notes = _names(infos, archive, encoding)
    paths = as_paths(names, [info.create_system in _WINDOWS for info in infos])
    found = [(name, info) for name, info in zip(paths.names, infos, strict=True) if name and not name.endswith("/")]
    if found and all(info.flag_bits & _ENCRYPTED for _, info in found):
        raise DataError(f"{archive}: encrypted; unpack it with its password, and name the folder")
    return [_entry(opened, name, info) for name, info in found], notes + paths.notes


def _require_all(file: Part, size: int, found: int, archive: str) -> None:
    """Raise a DataError if not all entries of a zip were found. Python stops at a damaged entry without an error."""
    end = file.read_at(min(size, _MOST_END), max(0, size - _MOST_END))
    at = end.rfind(b"PK\5\6")
    counted = int.from_bytes(end[at + 10 : at + 12], "little")
    if at >= 0 and counted not in (0xFFFF, found):  # 0xFFFF may stand for more
        raise DataError(
            f"{archive}: a damaged zip ({found} of {counted} entries can be read); make or download it anew"
        )


def _names(infos: list[zipfile.ZipInfo], archive: str, encoding: str | None) -> tuple[list[str], list[str]]:
    """Return the names of `infos`, and a list of notes: which encoding was guessed, if any."""
    marked = [_marked_name(info) for info in infos]
    raw = {_raw_name(info) for info, name in zip(infos, marked, strict=True) if name is None}
    foreign = {name for name in raw if not name.isascii()}
    notes = []
    if encoding is not None:
        require_encoding(encoding, raw, archive)
    elif foreign:
        encoding = guess_encoding(foreign)
        example = min(foreign).decode(encoding)
        notes.append(
            f"names are read as {encoding}, which fits all of them best ({example!r}); --zip-encoding gives another"
        )
    names = [
        _raw_name(info).decode(encoding or "ascii") if name is None else name
        for info, name in zip(infos, marked, strict=True)
    ]
    return names, notes


def _raw_name(info: zipfile.ZipInfo) -> bytes:
    return info.orig_filename.partition("\0")[0].encode("cp437")


def _marked_name(info: zipfile.ZipInfo) -> str | None:
    """Return the name of an entry if the zip marks this name as UTF-8. Otherwise, return None."""
    if info.flag_bits & _UTF_8:
        return info.filename
    extra = info.extra
    while len(extra) >= 9:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == _UNICODE_PATH and struct.unpack_from("<xI", extra, 4)[0] == zlib.crc32(_raw_name(info)):
            return extra[9 : 4 + length].decode(errors="surrogateescape")
        extra = extra[4 + length :]
    return None


def _entry(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> Entry:
    fault = None
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        fault = Fault("unsupported", "a link or device")
    return Entry(name, info.file_size, info.compress_size, partial(_blocks, archive, info), fault=fault)


def _blocks(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(info) as packed:  # reading ends at the size in the zip's list
        while block := packed.read(BLOCK):
            yield block
