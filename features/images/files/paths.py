"""The three kinds of paths of image files: of a local file, of an object that has a URL, and of a member of a tar.

The path of a member names the tar, the member, the member's first byte in the tar, and its size:
`shards/train-0.tar/cat/1.jpg#1536+20480`. So a member is read without the headers of the tar.
"""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MEMBER = re.compile(r"(?P<tar>.+?\.tar)/(?P<name>.+)#(?P<start>\d{1,18})\+(?P<size>\d{1,18})", re.DOTALL)


class Member(NamedTuple):
    """A file in a tar: the path of the tar, the name in it, and the place of the content in the tar, in bytes."""

    tar: str
    name: str
    start: int
    size: int

    @property
    def path(self) -> str:
        """The path of the member; see the module."""
        return f"{self.tar}/{self.name}#{self.start}+{self.size}"


def is_url(path: str) -> bool:
    """Return whether `path` is a URL."""
    return "://" in path and _URL.match(path) is not None


def member_at(path: str) -> Member | None:
    """Return the member of a tar whose path is `path`; None for any other path."""
    found = _MEMBER.fullmatch(path) if ".tar/" in path and not is_url(path) else None
    return found and Member(found["tar"], found["name"], int(found["start"]), int(found["size"]))


def is_local(path: str) -> bool:
    """Return whether `path` is that of a local file: it is no URL, and no member of a tar."""
    return not is_url(path) and member_at(path) is None


def name_of(path: str) -> str:
    """Return a name with the suffix of the file: the path, without the query of a URL or a member's place in a tar."""
    if is_url(path):
        return urlsplit(path).path
    member = member_at(path)
    return f"{member.tar}/{member.name}" if member else path
