"""Clear what killed processes left in a run and beside it."""

import re
import shutil
from contextlib import suppress
from pathlib import Path

from headstart.features.files import remove_left_over
from headstart.features.processes import runs


def clear_left_over(path: Path) -> None:
    """Clean up after processes that were killed while they wrote the run at `path`.

    Half-written files and folders of killed processes are removed from the run and from its parent folder. A killed
    process may have moved the old run away without putting a new run in its place. In this case, the old run is put
    back. On a disk that can't be written to, nothing happens.
    """
    with suppress(OSError):
        remove_left_over(path.parent)
        remove_left_over(path)
        _clear_early_versions(path)


def _clear_early_versions(path: Path) -> None:
    """Remove the folders that early versions of headstart left beside the run at `path`.

    An early version left such a folder if the process was killed. Some of the folders hold an older run that was at
    `path`. If `path` is missing, the newest of these older runs is moved back.
    """
    # Early versions wrote a new run as `.partial`, and moved the old run to `.replaced`.
    name = re.compile(rf"\.{re.escape(path.name)}\.(?P<pid>\d+)\.(?:partial|replaced)")
    found = [(folder, match) for folder in path.parent.glob(".*") if (match := name.fullmatch(folder.name))]
    if not found:
        return
    dead = [folder for folder, match in found if not runs(int(match["pid"]))]
    for folder in sorted(dead, key=lambda folder: folder.stat().st_ctime, reverse=True):
        if folder.suffix == ".replaced" and not path.exists():
            folder.rename(path)  # the run that was moved last; runs that were moved before may be half removed
        else:
            shutil.rmtree(folder, ignore_errors=True)
