"""One file of an archive, and the limits that keep archives from filling disk and memory."""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from headstart.features.errors import DataError, HeadstartError
from headstart.features.images.faults import MAX_FILE_BYTES, Fault
from headstart.features.images.files.reading import why_unreadable
from headstart.features.images.formats import PREFIX_BYTES, is_image
from rich.filesize import decimal

# No archive of photographs exceeds these limits: JPEG and PNG can't be packed to a hundredth of their size.
MAX_ENTRIES = 10_000_000
MAX_TOTAL_BYTES = 1 << 43
MAX_RATIO = 100
SMALL_BYTES = 1 << 26  # up to this size any ratio is accepted, because drawings compress well
BLOCK = 1 << 20
_MOST_SHOWN = 100  # characters of a library's message
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, OverflowError)
UNSUPPORTED = (RuntimeError, NotImplementedError)  # encrypted, or packed by a method that Python lacks


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive.

    `size` is the size of the content in bytes. `packed` is the number of bytes that the content takes in the archive.
    """

    name: str  # with slashes; several entries may have one name
    size: int
    packed: int
    blocks: Callable[[], Iterator[bytes]]  # yields the content; may raise DAMAGE, UNSUPPORTED or OSError
    start: int | None = None  # position of the content in a plain tar; None if the content is packed or in pieces
    fault: Fault | None = None  # why the content is never read; None if it may be read

    def read(self) -> bytes | Fault:
        """Return the content of an image file. For any other file, return only the first bytes.

        A file is an image file if its name or its first bytes say so. If the content can't be read, or if an image
        file is too large, return a `Fault` with the reason.
        """
        fault = self.fault or (self._why_too_large() if is_image(self.name, b"") else None)
        if fault:
            return fault
        try:
            return self._content()
        except OSError as error:
            return why_unreadable(error)
        except DAMAGE as error:
            return Fault("corrupt", message_of(error))
        except UNSUPPORTED as error:
            return Fault("unsupported", message_of(error))

    def _content(self) -> bytes | Fault:
        blocks = self.blocks()
        first = next(blocks, b"")
        if not is_image(self.name, first[:PREFIX_BYTES]):
            return first[:PREFIX_BYTES]
        return self._why_too_large() or b"".join([first, *blocks])

    def _why_too_large(self) -> Fault | None:
        if self.size > MAX_FILE_BYTES:
            return Fault("too-large", f"{self.size} bytes, over {MAX_FILE_BYTES}")
        if is_bomb(self.size, self.packed):
            return Fault("too-large", f"{self.size} bytes, packed into {self.packed}")
        return None


def message_of(error: Exception) -> str:
    """Return the message of an error, for the user.

    The message of a `HeadstartError` is returned unchanged. Any other message is shortened to one line, because a
    library's message may quote bytes of the archive.
    """
    if isinstance(error, HeadstartError):
        return str(error)
    return " ".join(str(error).split())[:_MOST_SHOWN]


def is_bomb(size: int, packed: int) -> bool:
    """Whether a file is packed more densely than photographs can be.

    The file has `size` bytes, and takes `packed` bytes in the archive. If `size` is at most 64 MiB, return False.
    """
    return size > max(SMALL_BYTES, MAX_RATIO * packed)


def require_within_limits(archive: str, count: int, size: int, packed: int) -> None:
    """Raise a DataError if an archive has too many files or unpacked bytes, or is packed too densely.

    Args:
        archive: the archive's name, for the message of the error.
        count: the number of files in the archive.
        size: the number of bytes of these files when they are unpacked.
        packed: the number of bytes of the archive.
    """
    if count > MAX_ENTRIES or size > MAX_TOTAL_BYTES or is_bomb(size, packed):
        raise DataError(
            f"{archive}: {count} files of {decimal(size)} in {decimal(packed)}; no more than {MAX_ENTRIES} files, "
            f"{decimal(MAX_TOTAL_BYTES)}, or {MAX_RATIO} times the size of the archive are unpacked"
        )
