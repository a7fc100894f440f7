"""The three kinds of paths of image files: paths of local files, URLs of objects, and paths of members of a tar.

The path of a member has four parts: the path of the tar, the name of the member, the position of the member's first
byte in the tar, and the member's size in bytes. An example is `shards/train-0.tar/cat/1.jpg#1536+20480`. With this
position and size, a member is read without the headers of the tar.
"""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# A password may hold a `/`; then what follows the colon is no port.
_USER = re.compile(r"(?<=//)(?:[^/?#]*|[^/?#:\[\s]*:(?!\d+[/?#])\S*)@")
CONTAINERS = ("az", "abfs", "abfss")  # schemes with URLs such as abfs://container@account.dfs.core.windows.net/1.jpg
_MOST_READ = 4000
_MEMBER = re.compile(r"(?P<tar>.+?\.tar)/(?P<name>.+)#(?P<start>\d{1,18})\+(?P<size>\d{1,18})", re.DOTALL)


class Member(NamedTuple):
    """A file in a tar: the path of the tar, the file's name in it, and the start and size of its content, in bytes."""

    tar: str
    name: str
    start: int
    size: int

    @property
    def path(self) -> str:
        """The path of this member of a tar, such as `shards/train-0.tar/cat/1.jpg#1536+20480`."""
        return f"{self.tar}/{self.name}#{self.start}+{self.size}"


def is_url(path: str) -> bool:
    """Return whether `path` is a URL."""
    return "://" in path and _URL.match(path) is not None


def member_at(path: str) -> Member | None:
    """Return the member that `path` names. Return None if `path` is not the path of a member of a tar."""
    found = _MEMBER.fullmatch(path) if ".tar/" in path and not is_url(path) else None
    return found and Member(found["tar"], found["name"], int(found["start"]), int(found["size"]))


def is_local(path: str) -> bool:
    """Return whether `path` is a local file's path. Neither a URL nor the path of a tar's member is local."""
    return not is_url(path) and member_at(path) is None


def name_of(path: str) -> str:
    """Return a name that ends with the suffix of the file at `path`.

    For a URL, the name is the path in the URL. For a member of a tar, the name is `path` without the position and size
    at its end. For a local file, the name is `path`.
    """
    if is_url(path):
        return urlsplit(path).path
    member = member_at(path)
    return f"{member.tar}/{member.name}" if member else path


def shown(text: str, most: int = 200) -> str:
    r"""Return `text` in the form for messages. The argument `text` is a URL, or a sentence with URLs.

    User names and passwords in URLs are left out. Characters that can't be printed become escapes such as `\x1b`. A
    long text is cut: the argument `most` is the number of characters that are kept.
    """
    text = text[:_MOST_READ]
    text = _USER.sub(lambda found: found[0] if _is_container(text[: found.start()], found[0]) else "", text)
    text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    return text if len(text) <= most else f"{text[:most]}..."


def _is_container(before: str, user: str) -> bool:
    return ":" not in user and before.endswith(tuple(f"{scheme}://" for scheme in CONTAINERS))
