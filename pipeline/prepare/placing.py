"""Place files of a source in a data folder. By default, a file is copied only if it can't be linked; see `Placer`."""

import errno
import fcntl
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Literal

from headstart.features.files import remove_left_over, write_atomically, written_atomically

Way = Literal["reflink", "hard link", "copy"]
_FICLONE = 0x40049409  # Linux: both files share their bytes until one is written to
_NO_REFLINKS = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.EACCES}


class Placer:
    """Places files as reflinks, hard links or copies. `ways` holds the number of reflinks, of hard links and of copies.

    - A reflink shares its bytes on the disk with the source file. A change of one file has no effect on the other.
    - A hard link is a second name of the source file. The file is made read-only, unless `move` is set.
    - A copy shares nothing.

    By default, a file becomes a reflink. If the disk has no reflinks, the file becomes a hard link. If the file can't
    be hard-linked, it becomes a copy.

    If `copy` is set, each file becomes a copy. If `move` is set, no file becomes a reflink, and the caller later
    removes the old names.
    """

    def __init__(self, copy: bool = False, move: bool = False) -> None:
        self.ways: Counter[Way] = Counter()
        self.copies = copy
        self._move = move
        self._reflinks = not move  # whether to try reflinks: False once the disk has refused one
        self._ready: set[Path] = set()  # folders that exist, and are cleared of files that killed processes left

    def place(self, file: Path, target: Path) -> Way:
        """Place `file` at `target`, which must not exist yet. May raise an OSError.

        Return "reflink", "hard link" or "copy", depending on how the file was placed.
        """
        self._make_ready(target.parent)
        if not self.copies and self._reflinks and self._reflink(file, target):
            return self._counted("reflink")
        if not self.copies and self._hard_link(file.resolve(), target):
            return self._counted("hard link")
        return self.write(file.read_bytes(), target)

    def write(self, content: bytes, target: Path) -> Way:
        """Write `content` to `target`, and count the file as a copy. Always returns "copy". May raise an OSError."""
        self._make_ready(target.parent)
        write_atomically(target, content)
        return self._counted("copy")

    def _make_ready(self, folder: Path) -> None:
        if folder not in self._ready:
            folder.mkdir(parents=True, exist_ok=True)
            remove_left_over(folder)
            self._ready.add(folder)

    def _counted(self, way: Way) -> Way:
        self.ways[way] += 1
        return way

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
        except OSError:  # another user owns the file
            target.unlink()
            return False
        return True

    def lines(self, source: Path, data: Path) -> list[str]:
        """Return a list with one line: how many files of `data` are hard links to files of `source`.

        If there are no hard links, or if `move` is set, return an empty list.
        """
        if self._move or not self.ways["hard link"]:
            return []
        return [
            f"{data}: {self.ways['hard link']} files are those of {source} under a second name (hard links), and "
            "read-only now; --copy copies them"
        ]
