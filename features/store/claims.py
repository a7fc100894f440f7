"""Claims: files by which the processes that fill one store tell each other which portion of images they extract.

Claims only save work. No result depends on them: processes that extract the same images write the same features.

STORE/<backbone>-<cut>-<fingerprint>/claims/
    <portion>.claimed     a process extracts the portion now; the file holds the identity of the process
    <portion>.done        a process has just written the features of the portion
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
_KEPT_SECONDS = 4 * KNOWN_SECONDS  # when a `.done` file is removed, every process has looked for the features since
_RENEW_SECONDS = 60.0
_LONGEST = 1 << 12  # bytes


class Claim(Enum):
    """The answer of `Claims.take` to a process that wants to extract a portion."""

    MINE = "it is for this process to extract"
    BUSY = "another process extracts it now"
    DONE = "another process has just extracted it, except for images that it could not"


class Claims:
    """The claims of this process: files that tell the others which portions of the images it extracts.

    Several threads may call the methods. If a claim can't be written, for example on a full disk, this process extracts
    the images without a claim.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "claims"
        self._held: dict[str, float] = {}  # when each claim was last renewed
        self._done: dict[str, float] = {}  # when each portion was done
        self._ended = False
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)

    def take(self, portion: str, again: bool = False) -> Claim:
        """Try to claim a portion for this process. Return the answer.

        A portion is busy if another process has claimed it. But a claim is void, and can be taken over, if its process
        has ended or has not renewed the claim for `VOID_SECONDS`. A portion is done if another process has just
        extracted it. With `again`, this process claims such a portion nevertheless. After `release_all`, no portion can
        be claimed.
        """
        done = self._file(portion, "done")
        if not again and done.exists():
            return Claim.DONE
        if self._ended or not self._claim(portion):
            return Claim.BUSY
        if again or not done.exists():
            return Claim.MINE
        self._release(portion)  # it was done meanwhile
        return Claim.DONE

    def _claim(self, portion: str) -> bool:
        """Return False if another process has claimed a portion. Otherwise return True.

        In the second case, this process claims the portion, if claims can be written.
        """
        claim = self._file(portion, "claimed")
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
                self._held[portion] = time.monotonic()
                return True
        return False  # another process was faster

    def renew(self) -> None:
        """Renew each claim that was not renewed for a minute."""
        now = time.monotonic()
        for portion, renewed in list(self._held.items()):
            if now - renewed > _RENEW_SECONDS:
                self._held[portion] = now
                with suppress(OSError):  # another process may have found it void
                    os.utime(self._file(portion, "claimed"))

    def done(self, portion: str) -> None:
        """Tell other processes that the features of a claimed portion are in the store. Give up the claim."""
        now = time.monotonic()
        with suppress(OSError):
            self._file(portion, "done").touch()
            self._done[portion] = now
        self._release(portion)
        for old, since in list(self._done.items()):
            if now - since <= _KEPT_SECONDS:
                break
            del self._done[old]
            _removed(self._file(old, "done"))

    def release_all(self) -> None:
        """Remove the claims of this process, and claim no more portions. If no claim is left, remove `claims/`, too."""
        self._ended = True
        for portion in list(self._held):
            self._release(portion)
        remove_void_claims(self._folder.parent)

    def _release(self, portion: str) -> None:
        if self._held.pop(portion, None) is not None:
            claim = self._file(portion, "claimed")
            with suppress(OSError, ValueError):
                if claim.read_text() == this_process():  # else it was found void, and taken over
                    claim.unlink()

    def _file(self, portion: str, state: str) -> Path:
        return self._folder / f"{portion}.{state}"


def remove_void_claims(folder: Path) -> None:
    """Remove void claims from the folder of a store; see `Claims.take`. If no claim is left, remove `claims/`, too."""
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
    """Return the present time, by the clock that sets the modification times of files in `folder`.

    On a network disk, this is the clock of the server. The clock of this host may differ from it by more than
    `VOID_SECONDS`.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
