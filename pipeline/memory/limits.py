"""How much memory features may take: an option, or a share of the memory that this process may use."""

from collections.abc import Iterator
from pathlib import Path

_SHARE = 4  # copies of features, TensorFlow and other programs need memory, too
_GROUPS = Path("/sys/fs/cgroup")


def memory_limit(asked: float) -> int:
    """Return the number of bytes that features may take: `asked` GiB, or a quarter of all memory if `asked` is 0.

    "All memory" is the memory of the host, or the limit of a container or batch system if that limit is smaller. Free
    memory has no influence, so the same machine always has the same limit.
    """
    return round(asked * 2**30) if asked else total_memory() // _SHARE


def rows_in_memory(width: int, asked: float) -> int:
    """Return how many images fit into `memory_limit(asked)`, if each image has `width` features of float32."""
    return memory_limit(asked) // (4 * width)


def free_memory() -> int:
    """Return the number of bytes that this process can still take."""
    import psutil

    return min([psutil.virtual_memory().available, *(most - used for most, used in _limits())])


def total_memory() -> int:
    """Return how many bytes of memory this process may use: the host's, or a smaller limit of a control group."""
    import psutil

    return min([psutil.virtual_memory().total, *(most for most, _ in _limits())])


def _limits() -> Iterator[tuple[int, int]]:
    """Yield the memory limit and the memory in use, in bytes, for each control group around this process.

    Control groups without a limit are left out.
    """
    for folder, most, used, cached in _groups():
        try:
            limit = (folder / most).read_text().strip()
            if limit != "max" and int(limit) < 1 << 60:  # version 1 writes a huge number for none
                stats = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                # Inactive bytes of cached files do not count, because the system frees them when memory is short.
                yield int(limit), int((folder / used).read_text()) - int(stats.get(cached, 0))
        except (OSError, ValueError):  # no such group, or another form than expected
            continue


def _groups() -> Iterator[tuple[Path, str, str, str]]:
    """Yield four items for each control group around this process: the folder of the group, and three names.

    The first two names belong to files: the file with the memory limit, and the file with the memory in use. The third
    name is a key in the file `memory.stat`: the key of the size of inactive cached files.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = _GROUPS, ("memory.max", "memory.current", "inactive_file")  # limit, use, file cache
        elif "memory" in controllers.split(","):
            root = _GROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inner = root / path.lstrip("/")
        for folder in (inner, *inner.parents):  # in a container, the group may be mounted at the root
            if folder.is_relative_to(root):
                yield folder, *names
