"""Paths that are kept relative to a folder, so that a project can be moved."""

import os
from pathlib import Path


def relative_path(path: str, folder: Path) -> str:
    """Return an absolute `path` relative to `folder`, beginning with `./` or `../`. Other paths stay.

    A path also stays if it and the folder have only the root of the file system in common.
    """
    if not os.path.isabs(path):
        return path
    there, here = plain_path(path), plain_path(folder)
    if os.path.commonpath([there, here]) == os.sep:
        return path
    relative = os.path.relpath(there, here)
    return relative if relative.split(os.sep)[0] == os.pardir else os.path.join(os.curdir, relative)


def absolute_path(path: str, folder: Path) -> str:
    """Return the absolute path of what `relative_path` returned."""
    if path.split(os.sep, maxsplit=1)[0] not in (os.curdir, os.pardir):
        return path
    # The folder may be a symlink: then the path may be meant from the link, or from the folder that it names.
    found = [os.path.normpath(os.path.join(here, path)) for here in (plain_path(folder), os.path.realpath(folder))]
    return next((one for one in found if os.path.lexists(one)), found[0])


def plain_path(path: str | Path) -> str:
    """Return the absolute path without `..`. Symlinks stay, unless a `..` may go up from the target of one."""
    return os.path.realpath(path) if os.pardir in Path(path).parts else os.path.abspath(path)
