"""Put files of a source into a data folder, without a second copy of their bytes where the disk allows it."""

import errno
import fcntl
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Literal

from headstart.features.files import write_atomically, written_atomically

Way = Literal["reflink", "hard link", "copy"]
_FICLONE = 0x40049409  # Linux: both files share their bytes until one is written to
_NO_REFLINKS = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.EACCES}


class Placer:
    """Places files, and counts in `ways` how.

    A reflink is preferred, as either file may then be changed. A hard link is the same file under a second name, so it
    is made read-only. Where neither is possible, and with `copy`, the bytes are copied. With `move`, the source's name
    is removed later: the file is linked and stays writable.
    """

    def __init__(self, copy: bool = False, move: bool = False) -> None:
        self.ways: Counter[Way] = Counter()
        self._copy, self._move = copy, move
        self._reflinks = not move  # False once the disk has refused

    def place(self, file: Path, target: Path) -> Way:
        """Put `file` at `target`, where nothing may be yet, and return how. May raise an OSError."""
        target.parent.mkdir(parents=True, exist_ok=True)
        way = self._place(file, target)
        self.ways[way] += 1
        return way

    def _place(self, file: Path, target: Path) -> Way:
        if not self._copy:
            if self._reflinks and self._reflink(file, target):
                return "reflink"
            if self._hard_link(file.resolve(), target):
                return "hard link"
        write_atomically(target, file.read_bytes())
        return "copy"

    def _reflink(self, file: Path, target: Path) -> bool:
        try:
            with file.open("rb") as source, written_atomically(target) as partial, partial.open("wb") as clone:
                fcntl.ioctl(clone.fileno(), _FICLONE, source.fileno())
        except OSError as error:
            if error.errno not in _NO_REFLINKS:
                raise
            self._reflinks = False
        return self._reflinks

    def _hard_link(self, file: Path, target: Path) -> bool:
        try:
            os.link(file, target)
        except OSError:  # another file system, or one without links
            return False
        try:
            if not self._move:
                target.chmod(stat.S_IMODE(target.stat().st_mode) & ~0o222)
        except OSError:  # the file is another person's
            target.unlink()
            return False
        return True

    def lines(self, source: Path, data: Path) -> list[str]:
        """Return a line for a person if files of `data` are those of `source`, under second names."""
        if self._move or not self.ways["hard link"]:
            return []
        return [
            f"{data}: {self.ways['hard link']} files are those of {source} under a second name (hard links), and "
            "read-only now; --copy copies them"
        ]
