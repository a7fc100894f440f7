"""The list of rejected images, `rejects.csv`."""

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from headstart.features.errors import DataError
from headstart.features.files import NOT_WRITABLE, write_atomically
from headstart.features.images.scan import Reject
from headstart.features.terminal import console
from headstart.pipeline.data.layouts_v1 import REJECTS
from headstart.pipeline.spreadsheets import csv_line, original_text

_REJECT_FIELDS = ("path", "reason", "detail")


def require_rejects_file(folder: Path) -> None:
    """Raise a DataError if `folder` has a subfolder named `rejects.csv`. The list of rejects needs this name."""
    if (folder / REJECTS).is_dir():
        raise DataError(
            f"{folder / REJECTS}: a folder; the list of rejected images must be a file: remove or rename it"
        )


def write_rejects(folder: Path, rejects: Iterable[Reject], keep_other_than: Collection[str] | None = None) -> None:
    """Write `rejects.csv` (path, reason, detail) into `folder`.

    By default, the new rows replace all rows of an existing file. `keep_other_than` is a collection of paths. If it is
    given, the old rows of all other paths are kept.
    """
    path = folder / REJECTS
    old = path.read_bytes() if path.is_file() else b""
    rows: list[Sequence[str]] = [_REJECT_FIELDS]
    if keep_other_than is not None:
        lines = csv.reader(io.StringIO(old.decode(errors="surrogateescape"), newline=""))
        whole = [list(map(original_text, line)) for line in lines if len(line) == len(_REJECT_FIELDS)]
        rows += [line for line in whole[1:] if line[0] not in keep_other_than]
    rows += [(one.path, one.reason, one.detail) for one in rejects]
    data = "".join(map(csv_line, rows)).encode(errors="surrogateescape")
    if data != old:  # without a change nothing is written, so the disk may be read-only
        write_atomically(path, data)


def list_rejects(store: Path, rejects: Sequence[Reject]) -> None:
    """Write `rejects.csv` into the store's folder. If the file can't be written there, print a message."""
    try:
        write_rejects(store, rejects)
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        console.print(f"{store}/rejects.csv: not up to date, and can't be written ({error.strerror})")
