"""Make paths relative to a folder, and absolute again. Files with relative paths stay valid if a project is moved."""

import os
import re
from pathlib import Path

from headstart.features.errors import OptionError

_COLLAPSED_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # `Path` makes one slash of two
_STORE = "a store is a folder on a disk or a shared file system (NFS, Lustre, EFS, Filestore)"


def relative_path(path: str, folder: Path) -> str:
    """Make an absolute `path` relative to `folder`. The result begins with `./` or `../`.

    A path that is not absolute is returned unchanged. A path is also returned unchanged if it has only the root of the
    file system in common with the folder.
    """
    if not os.path.isabs(path):
        return path
    there, here = plain_path(path), plain_path(folder)
    if os.path.commonpath([there, here]) == os.sep:
        return path
    relative = os.path.relpath(there, here)
    return relative if relative.split(os.sep)[0] == os.pardir else os.path.join(os.curdir, relative)


def absolute_path(path: str, folder: Path) -> str:
    """Undo `relative_path`: return the absolute path of a `path` that is relative to `folder`.

    A `path` that does not begin with `./` or `../` is returned unchanged.
    """
    if path.split(os.sep, maxsplit=1)[0] not in (os.curdir, os.pardir):
        return path
    # If the folder is a symlink, the path may be relative to the symlink or to its target.
    found = [os.path.normpath(os.path.join(here, path)) for here in (plain_path(folder), os.path.realpath(folder))]
    return next((one for one in found if os.path.lexists(one)), found[0])


def require_no_url(flag: str, path: Path, instead: str = _STORE) -> None:
    """Raise an OptionError if `path`, the value of the option `flag`, was given as a URL.

    `instead` is the end of the error message. It should say what the user can give in place of a URL.
    """
    if _COLLAPSED_URL.match(str(path)):
        raise OptionError(f"{flag} {path}: is a URL; {instead}")


def plain_path(path: str | Path) -> str:
    """Return `path` as an absolute path without `..`.

    Symlinks are resolved only if `path` has a `..`, because a `..` after a symlink means the parent of its target.
    """
    return os.path.realpath(path) if os.pardir in Path(path).parts else os.path.abspath(path)
