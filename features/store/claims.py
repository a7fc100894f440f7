"""Claims: files by which a process tells others that it extracts a portion of the images now.

Several processes may extract features into one store. A claim only saves work: it keeps two processes from extracting
the same portion. No result depends on claims, because processes that extract the same images write the same features.

STORE/<backbone>-<cut>-<fingerprint>/claims/
    <portion>.claimed     a process extracts the portion now; the file holds the identity of the process
    <portion>.done        a process has just written the features of the portion
"""

import os
import re
import stat
import threading
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path

from headstart.features.processes import has_ended, this_process

VOID_SECONDS = 600.0  # a claim that was not renewed for this time is void
_EMPTY_SECONDS = 60.0  # an empty claim is void after this time: its process was killed before it wrote its identity
KNOWN_SECONDS = 30.0  # a process looks for the features of others at least this often
_KEPT_SECONDS = 4 * KNOWN_SECONDS  # when a `.done` file is removed, every process has looked for the features since
_RENEW_SECONDS = 60.0
_LEFT_SECONDS = 24 * 3600  # after this time, claims of other hosts are removed, too
_LONGEST = 1 << 12  # bytes
_NAME = re.compile(r"[0-9a-f]{1,64}\.(claimed|done)")


class Claim(Enum):
    """The answer of `Claims.take` to a process that wants to extract a portion."""

    MINE = "it is for this process to extract"
    TAKEN_OVER = "it is for this process; another one had it, and may have extracted some of it"
    BUSY = "another process extracts it now"
    DONE = "another process has just extracted it, except for images that it could not"


class Claims:
    """The claims of this process: files that tell other processes which portions of the images this process extracts.

    Several threads may call the methods at once. If a claim can't be written, for example because the disk is full,
    this process extracts the portion without a claim.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "claims"
        with suppress(OSError):
            if self._folder.is_symlink():  # in a store from elsewhere, it may lead to any folder
                self._folder.unlink()
        self._me = this_process()
        self._held: dict[str, float] = {}  # when each claim was last renewed
        self._done: dict[str, float] = {}  # when each portion was done
        self._seen: dict[str, tuple[float, float]] = {}  # claims of others: modification time, and when first seen so
        self._ahead: float | None = None  # the time on the disk's clock less `time.monotonic()`
        self._ended = False
        self._lock = threading.RLock()

    def take(self, portion: str, again: bool = False) -> Claim:
        """Try to claim a portion for this process. Return the answer.

        A claim is void if its process has ended, or has not renewed the claim for `VOID_SECONDS`. The answer is the
        first of these that applies:
            DONE: a process has just extracted the portion. If `again` is true, this answer is not given.
            BUSY: another process has a claim that is not void, or this process has called `release_all`.
            TAKEN_OVER: there was a void claim. This process should extract the portion.
            MINE: there was no claim. This process should extract the portion.
        """
        with self._lock:
            if not again and self._is_done(portion):
                return Claim.DONE
            claim = Claim.BUSY if self._ended else self._claim(portion)
            if claim == Claim.BUSY or again or not self._is_done(portion):
                return claim
            self.release(portion)  # it was done meanwhile
            return Claim.DONE

    def others(self) -> bool:
        """Return whether another process has a claim that is not void; see `take`.

        If the claims can't be listed, return True.
        """
        with self._lock:
            try:
                names = [name for name in os.listdir(self._folder) if _NAME.fullmatch(name)]
            except OSError:
                return True
            claimed = [name.removesuffix(".claimed") for name in names if name.endswith(".claimed")]
            return any(portion not in self._held and not self._is_void(portion) for portion in claimed)

    def renew(self) -> None:
        """Renew those claims of this process that were last renewed more than a minute ago."""
        with self._lock:
            now = time.monotonic()
            for portion, renewed in self._held.items():
                if now - renewed > _RENEW_SECONDS:
                    self._held[portion] = now
                    with suppress(OSError):  # another process may have found it void
                        os.utime(self._file(portion, "claimed"))

    def done(self, portion: str) -> None:
        """Mark a portion as done, and release the claim on it. The features of the portion must be in the store."""
        with self._lock:
            now = time.monotonic()
            with suppress(OSError):
                self._file(portion, "done").touch()
                self._done[portion] = now
            self.release(portion)
            for old, since in list(self._done.items()):
                if now - since <= _KEPT_SECONDS:
                    break
                del self._done[old]
                _removed(self._file(old, "done"))

    def release(self, portion: str) -> None:
        """Remove the claim of this process on a portion. If this process has no such claim, do nothing."""
        with self._lock:
            if self._held.pop(portion, None) is not None:
                claim = self._file(portion, "claimed")
                with suppress(OSError, ValueError):
                    if claim.read_text() == self._me:  # else it was found void, and taken over
                        claim.unlink()

    def release_all(self) -> None:
        """Remove all claims of this process, and the claims that `remove_void_claims` removes.

        After this call, `take` makes no more claims.
        """
        with self._lock:
            self._ended = True
            for portion in list(self._held):
                self.release(portion)
        remove_void_claims(self._folder.parent)

    def _claim(self, portion: str) -> Claim:
        """Try to claim a portion. Return BUSY, TAKEN_OVER or MINE; see `take`. A void claim is replaced."""
        file, found = self._file(portion, "claimed"), Claim.MINE
        for _ in range(3):
            try:
                descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
            except FileExistsError:
                if not self._is_void(portion):
                    return Claim.BUSY
                found = Claim.TAKEN_OVER
                if not _removed(file):
                    return found
            except FileNotFoundError:  # the last process of an extraction before removed the folder
                with suppress(OSError):
                    self._folder.mkdir()
            except OSError:  # a full disk, or another user's folder
                return found
            else:
                now = time.monotonic()
                try:
                    with os.fdopen(descriptor, "w") as opened:
                        opened.write(self._me)
                        self._ahead = os.fstat(descriptor).st_mtime - now
                except OSError:  # a full disk: an empty claim would have other processes wait
                    _removed(file)
                else:
                    self._held[portion] = now
                return found
        return Claim.BUSY if self._folder.is_dir() else found  # another process was faster, or there can be no claims

    def _is_void(self, portion: str) -> bool:
        """Return whether another process's claim is void: the process has ended, or has not renewed it for long."""
        # The time of day on this host may differ from the disk's clock by more than `VOID_SECONDS`.
        claim = self._file(portion, "claimed")
        try:
            status, now = claim.lstat(), time.monotonic()
            if _has_ended(claim):
                return True
        except FileNotFoundError:
            return True
        except OSError:
            return False
        renewed = status.st_mtime
        before, since = self._seen.get(portion, (renewed, now))
        self._seen[portion] = (renewed, since if before == renewed else now)
        unchanged = now - self._seen[portion][1]
        age = now + self._ahead - renewed if self._ahead is not None else 0.0
        return max(unchanged, age) > (VOID_SECONDS if status.st_size else _EMPTY_SECONDS)

    def _is_done(self, portion: str) -> bool:
        try:
            return self._file(portion, "done").exists()
        except OSError:
            return False

    def _file(self, portion: str, state: str) -> Path:
        return self._folder / f"{portion}.{state}"


def remove_void_claims(folder: Path) -> None:
    """Remove claims whose process has ended, and claims that were not renewed for a day.

    `folder` is a store's folder. If no claim is left, the marks of finished portions and the folder `claims` are
    removed, too.
    """
    claims = folder / "claims"
    try:
        if not stat.S_ISDIR(claims.lstat().st_mode):  # a link could lead to a folder of other files
            return
        files = [claims / name for name in os.listdir(claims) if _NAME.fullmatch(name)]
        claimed = [file for file in files if file.suffix == ".claimed" and stat.S_ISREG(file.lstat().st_mode)]
        busy = [file for file in claimed if not (_is_left(file) and _removed(file))]
        if not busy:
            for file in files:
                _removed(file)
            claims.rmdir()
    except OSError:  # another process was faster, or something else lies in the folder
        pass


def _is_left(claim: Path) -> bool:
    return _has_ended(claim) or time.time() - claim.lstat().st_mtime > _LEFT_SECONDS


def _has_ended(claim: Path) -> bool:
    """Return whether this host knows that the process of a claim has ended."""
    status = claim.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST:  # opening a pipe might never end
        return False
    try:
        return bool(has_ended(claim.read_text()))
    except ValueError:
        return False


def _removed(file: Path) -> bool:
    try:
        file.unlink(missing_ok=True)
    except OSError:
        return False
    return True
