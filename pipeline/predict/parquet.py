"""Predictions as a Parquet file. A Parquet file can't grow, so rows are written as parts, and joined at the end.

FILE.parquet.parts/          removed after the parts are joined
    part-<number>.parquet    rows that are safe even if the process is killed
    lock                     locked by the process that writes
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from headstart.features.errors import DataError, OptionError
from headstart.features.files import remove_left_over, written_atomically
from headstart.pipeline.predict.done import Done, Output, lock_output
from headstart.pipeline.predict.items import Item, Layout

_PART_ROWS, _PART_SECONDS = 1024, 5.0


def require_pyarrow() -> None:
    """Raise an OptionError if the extra `parquet` is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise OptionError(
            "--output: a .parquet file needs the extra parquet, `pip install 'headstart[parquet]'`"
        ) from error


def parts_folder(output: Path) -> Path:
    """Return the folder for the parts of the Parquet file `output`. The parts are joined at the end."""
    return output.with_name(f"{output.name}.parts")


@contextmanager
def open_parquet(output: Path, layout: Layout) -> Iterator[Output]:
    """Open a Parquet file for the rows of `layout`; see `open_output`.

    When the context ends without an error, the rows are added to the file. After an error or Ctrl-C, the rows stay in
    `parts_folder(output)`, and a later call adds them.
    """
    schema, done = _schema(layout), Done()
    with _locked_parts(output) as folder:
        remove_left_over(output.parent)
        if output.exists():
            _read_paths(output, schema, layout.model, done)
        for part in [part for part in _parts(folder) if _is_joined(part, schema, done)]:
            part.unlink()
        for part in _parts(folder):
            _read_paths(part, schema, layout.model, done)
        parts = _Parts(folder, layout, schema, done)
        try:
            yield parts
        finally:
            parts.flush()
        _join(output, folder, schema)


@contextmanager
def _locked_parts(output: Path) -> Iterator[Path]:
    """Lock and yield the folder for the parts of `output`. Raises DataError if another process has the lock."""
    folder = parts_folder(output)
    try:
        with _locked(output, folder / "lock"):
            try:
                remove_left_over(folder)
                yield folder
            finally:
                (folder / "lock").unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # it has parts, or another process is in it
            folder.rmdir()


def _locked(output: Path, path: Path) -> ExitStack:
    """Make the file `path` and its folder, and lock the file. Closing the result unlocks the file.

    If another process has the lock, a DataError is raised. The error message shows the path `output`; see
    `lock_output`.
    """
    while True:
        path.parent.mkdir(exist_ok=True)
        with ExitStack() as opened, suppress(FileNotFoundError):  # another process removed the folder just now
            file = opened.enter_context(path.open("a"))
            lock_output(file, output)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return opened.pop_all()


class _Parts:
    def __init__(self, folder: Path, layout: Layout, schema: Any, done: Done) -> None:
        self._folder, self._layout, self._schema, self._done = folder, layout, schema, done
        self._rows: list[list[Any]] = []
        self._since = time.monotonic()
        self._next = max((int(part.stem.removeprefix("part-")) + 1 for part in _parts(folder)), default=0)

    def is_done(self, path: str) -> bool:
        return _text(path) in self._done

    def write(self, item: Item) -> None:
        self._rows.append(self._layout.row(item))
        if len(self._rows) >= _PART_ROWS or time.monotonic() - self._since > _PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are in no part yet as a new part."""
        import pyarrow
        import pyarrow.parquet

        if self._rows:
            columns = [[_text(value) for value in column] for column in zip(*self._rows, strict=True)]
            table = pyarrow.table(dict(zip(self._schema.names, columns, strict=True)), self._schema)
            with written_atomically(self._folder / f"part-{self._next:08}.parquet") as partial:
                pyarrow.parquet.write_table(table, partial)
            self._next += 1
        self._rows, self._since = [], time.monotonic()


def _text(value: Any) -> Any:
    """Return `value` in a form that Parquet can hold. In a text, each byte that is not UTF-8 becomes an escape."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _schema(layout: Layout) -> Any:
    import pyarrow

    kinds = {str: pyarrow.string(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    return pyarrow.schema([(_text(name), kinds[kind]) for name, kind in layout.columns().items()])


def _parts(folder: Path) -> list[Path]:
    return sorted(part for part in folder.glob("part-*.parquet") if part.stem.removeprefix("part-").isdecimal())


def _batches(file: Path, schema: Any, **options: Any) -> Iterator[Any]:
    """Yield batches of rows of a Parquet file. Raises DataError if the file is damaged, or does not match `schema`."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            if not opened.schema_arrow.equals(schema):
                raise DataError(
                    f"--output {file}: has other columns; --append goes on only with the classes and options (--top, "
                    "--probabilities, --abstain, --conformal) of before: name another file"
                )
            for batch in opened.iter_batches(**options):
                batch.validate(full=True)
                if batch.column("path").null_count:
                    raise pyarrow.ArrowInvalid("a row without a path")
                yield batch
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # an error of the disk, not of the file's content
            raise
        said = " ".join(str(error).split())[:160]
        raise DataError(f"--output {file}: no Parquet file, or damaged ({said}); name another file") from error


def _is_joined(part: Path, schema: Any, joined: Done) -> bool:
    """Return whether the rows of `part` are already in the Parquet file. `joined` holds the paths in this file."""
    # A join adds all rows of a part or none, so one path is enough.
    first = next(_batches(part, schema, batch_size=1, columns=["path"]), None)
    return first is None or first.column("path")[0].as_py() in joined


def _read_paths(file: Path, schema: Any, model: str, done: Done) -> None:
    """Add the paths in `file` to `done`.

    Raises DataError if the file is damaged, has other columns, or holds the answers of another model.
    """
    for batch in _batches(file, schema, columns=["path", "model"]):
        if any(name != model for name in batch.column("model").to_pylist()):
            raise DataError(
                f"--output {file}: holds the answers of another run, model or options (--views, --abstain, "
                "--conformal, --seed); name another file"
            )
        for path in batch.column("path").to_pylist():
            done.add(path)


def _join(output: Path, folder: Path, schema: Any) -> None:
    """Append the parts in `folder` to the Parquet file `output`, and remove them."""
    import pyarrow.parquet

    files = [*([output] if output.exists() else []), *_parts(folder)]
    if _parts(folder) or not output.exists():
        with written_atomically(output) as partial, pyarrow.parquet.ParquetWriter(partial, schema) as writer:
            for file in files:
                for batch in _batches(file, schema):
                    writer.write_batch(batch)
    for part in _parts(folder):
        part.unlink()
