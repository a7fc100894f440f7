"""Claims: files by which the processes that fill one store tell each other which block of images they extract.

A claim saves work, and nothing depends on it: processes that extract the same images write the same features.

STORE/<backbone>-<cut>-<fingerprint>/claims/
    <block>.claimed     a process extracts the block now; the file holds the identity of the process
    <block>.done        its process has just written the features of the block
"""

import os
import stat
import tempfile
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path

from headstart.features.processes import has_ended, this_process

VOID_SECONDS = 600.0  # a claim that was not renewed for this time is void
KNOWN_SECONDS = 30.0  # a process looks for the features of others at least this often
_KEPT_SECONDS = 4 * KNOWN_SECONDS  # `.done` is kept for longer, so that nobody misses both it and the features
_RENEW_SECONDS = 60.0
_LONGEST = 1 << 12  # bytes


class Claim(Enum):
    """The answer to a process that wants to extract a block."""

    MINE = "it is for this process to extract"
    BUSY = "another process extracts it now"
    DONE = "another process has just extracted it, except for images that it could not"


class Claims:
    """The claims of this process, in the folder of a store. Several threads may call the methods.

    Where no claims can be written, every block is for this process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "claims"
        self._held: dict[str, float] = {}  # when each claim was last renewed
        self._done: dict[str, float] = {}  # when each block was done
        self._ended = False
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)

    def take(self, block: str, again: bool = False) -> Claim:
        """Claim a block, unless another process has. If `again`, claim it also if another process has done it.

        A claim is void if its process has ended, or did not renew it for `VOID_SECONDS`. After `release_all`, each
        block is busy.
        """
        done = self._file(block, "done")
        if not again and done.exists():
            return Claim.DONE
        if self._ended or not self._claim(block):
            return Claim.BUSY
        if again or not done.exists():
            return Claim.MINE
        self._release(block)  # it was done meanwhile
        return Claim.DONE

    def _claim(self, block: str) -> bool:
        """Return False if another process holds the claim on a block. Otherwise claim the block, if possible."""
        claim = self._file(block, "claimed")
        for _ in range(2):
            try:
                descriptor = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                if not _is_void(claim):
                    return False
                if not _removed(claim):
                    return True
            except OSError:  # no such folder, or a full disk
                return True
            else:
                with os.fdopen(descriptor, "w") as file, suppress(OSError):
                    file.write(this_process())
                self._held[block] = time.monotonic()
                return True
        return False  # another process was faster

    def renew(self) -> None:
        """Renew each claim that was not renewed for a minute."""
        now = time.monotonic()
        for block, renewed in list(self._held.items()):
            if now - renewed > _RENEW_SECONDS:
                self._held[block] = now
                with suppress(OSError):  # another process may have found it void
                    os.utime(self._file(block, "claimed"))

    def done(self, block: str) -> None:
        """Tell that the features of a claimed block are in the store."""
        now = time.monotonic()
        with suppress(OSError):
            self._file(block, "done").touch()
            self._done[block] = now
        self._release(block)
        for old, since in list(self._done.items()):
            if now - since <= _KEPT_SECONDS:
                break
            del self._done[old]
            _removed(self._file(old, "done"))

    def release_all(self) -> None:
        """Remove the claims of this process, and claim no more. The last process also removes the rest."""
        self._ended = True
        for block in list(self._held):
            self._release(block)
        remove_void_claims(self._folder.parent)

    def _release(self, block: str) -> None:
        if self._held.pop(block, None) is not None:
            claim = self._file(block, "claimed")
            with suppress(OSError, ValueError):
                if claim.read_text() == this_process():  # else it was found void, and taken over
                    claim.unlink()

    def _file(self, block: str, state: str) -> Path:
        return self._folder / f"{block}.{state}"


def remove_void_claims(folder: Path) -> None:
    """Remove the claims of killed processes from the folder of a store, and if no claim is left, all of the rest."""
    claims = folder / "claims"
    if not claims.is_dir():
        return
    busy = [claim for claim in claims.glob("*.claimed") if not (_is_void(claim) and _removed(claim))]
    if not busy:
        for file in claims.glob("*.done"):
            _removed(file)
        with suppress(OSError):
            claims.rmdir()


def _removed(file: Path) -> bool:
    try:
        file.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _is_void(claim: Path) -> bool:
    try:
        status = claim.lstat()
        known = stat.S_ISREG(status.st_mode) and status.st_size < _LONGEST  # opening a pipe might never end
        ended = has_ended(claim.read_text()) if known else None
        return bool(ended) or _now(claim.parent) - status.st_mtime > VOID_SECONDS
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False


def _now(folder: Path) -> float:
    """Return the time by the clock that gives files in `folder` their times.

    On a network disk it is the server's. The clock of this host may be off by more than `VOID_SECONDS`.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
