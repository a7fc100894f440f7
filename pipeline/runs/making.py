"""Make a run so that its folder appears whole or not at all. Find out whether the data of a run have changed."""

import hashlib
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from headstart.features.digests import HexDigests
from headstart.features.errors import RunError
from headstart.features.files import folder_written_atomically, require_creatable
from headstart.pipeline.data.examples import Example, Examples
from headstart.pipeline.runs.left_over import clear_left_over
from headstart.pipeline.runs.run import Run

_PACKAGES = ("headstart", "tensorflow", "keras", "numpy", "h5py", "pillow")


@contextmanager
def new_run(path: Path, overwrite: bool) -> Iterator[Run]:
    """Yield a run in a temporary folder beside `path`. While the context is open, the caller fills the run.

    If the context ends without an error, the folder is renamed to `path`. If the context ends with an error, the folder
    is removed.

    Raises RunError if `path` is not free; see `require_free`. Without `overwrite`, also raises RunError if another
    process makes a run at `path` before the context ends.
    """
    require_free(path, overwrite)
    try:
        with folder_written_atomically(path, replace=overwrite) as folder:
            yield Run(folder, path)
    except FileExistsError as error:
        if error.filename != str(path):
            raise
        raise RunError(f"--run {path}: another process made it meanwhile; give another name, or --overwrite") from error


def require_free(path: Path, overwrite: bool) -> None:
    """Raise RunError if `path` is not free for a new run.

    Without `overwrite`, `path` is free if nothing exists there. With `overwrite`, `path` is also free if a run exists
    there, because the run is replaced. Before the check, the files left behind by killed processes are removed. Raises
    an OSError if no folder can be made at `path`.
    """
    clear_left_over(path)
    if path.exists():
        if not overwrite:
            raise RunError(f"--run {path}: exists; give another name, or --overwrite to replace it")
        Run.existing(path)  # the run may be damaged, because it is replaced
    require_creatable(path)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a run's results."""
    return {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}


def example_digests(examples: Sequence[Example], class_names: Sequence[str]) -> dict[str, str]:
    """Return a dict of hashes. From these hashes, `require_unchanged` later tells whether the data have changed.

    The key `classes` has the SHA-256 of the class names. Any other key is a split, such as `train`, and has the SHA-256
    of the split's (digest, label) pairs. The hashes don't depend on file names or on the order of `examples`.
    """
    found = {"classes": hashlib.sha256("\n".join(class_names).encode(errors="surrogateescape")).hexdigest()}
    every = Examples.of(examples)
    _, number = np.unique(every.digests, return_inverse=True)  # in the order of the digests
    order = np.lexsort((every.labels, number))
    for split in every.splits.used():
        of_split = every[order[every.splits.is_(split)[order]]]
        found[split] = _hash_of_lines(of_split)
    return found


def _hash_of_lines(examples: Examples) -> str:
    found, mark = hashlib.sha256(), ""
    for digest, label in zip(HexDigests(examples.digests), examples.labels.tolist(), strict=True):
        found.update(f"{mark}{digest} {label}".encode())
        mark = "\n"
    return found.hexdigest()


def require_unchanged(run: Run, examples: Sequence[Example], class_names: Sequence[str], splits: Sequence[str]) -> None:
    """Raise RunError if the classes, or the examples of `splits`, differ from the data that the run was trained on."""
    then, now = run.config()["examples"], example_digests(examples, class_names)
    changed = [name for name in ("classes", *splits) if then.get(name) != now.get(name)]
    if changed:
        raise RunError(
            f"{run.path}: the data changed since its head was trained ({', '.join(changed)}); "
            "run `headstart head` again, with --overwrite"
        )
