"""The paths of images in a data folder. No path leads out of the folder, whatever the label or the name."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath

from headstart.features.errors import DataError
from headstart.features.files import sha256_of
from headstart.features.locks import folder_locked
from headstart.pipeline.data.clutter import clutter_kind
from headstart.pipeline.data.layouts import Reading
from headstart.pipeline.prepare.planning import Placement
from headstart.pipeline.prepare.sources import SourceFile

_MAX_NAME_BYTES = 240  # of 255; the rest is for a digest, which keeps equal names apart
_MAX_LABEL_BYTES = 255
_SHOWN = 60  # letters of a label


@contextmanager
def claimed(data: Path) -> Iterator[None]:
    """While the context is open, lock the folder `data`, so that no other `prepare` fills the folder.

    A missing folder is made, with its parents. When the context ends, each new folder that is still empty is removed.
    Raises DataError if another process has locked `data`, or if `data` can't be made.
    """
    made = [path for path in (data, *data.parents) if not path.exists()]
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{data}: can't be made a folder ({error.strerror}); name another") from error
    try:
        with ExitStack() as held:
            try:
                held.enter_context(folder_locked(data, wait=False))
            except BlockingIOError as error:
                raise DataError(f"{data}: another `headstart prepare` fills it; wait until it ends") from error
            yield
    finally:
        for path in made:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def require_folder_names(source: Path, members: Sequence[SourceFile], read: Reading) -> None:
    """Raise a DataError if a label can't be a folder's name.

    The error names the first such label and one of its images.
    """
    for label in read.class_names:
        if why := _why_no_folder(label):
            paths = (member.path for member, mine in zip(members, read.labels, strict=True) if mine == label)
            shown = repr(label[:_SHOWN]) + "..." * (len(label) > _SHOWN)
            raise DataError(
                f"{source}: the label {shown} of {next(paths, 'a class without images')} can't be the name of a "
                f"folder: {why}; give these images another label"
            )


def _why_no_folder(label: str) -> str:
    """Return the reason why `label` can't be the name of a class folder, or "" if it can."""
    try:
        size = len(os.fsencode(label))
    except UnicodeEncodeError:
        return "it can't be written in UTF-8"
    if label in ("", ".", ".."):
        return "it is none, or leads elsewhere"
    if "/" in label:
        return "it has a slash"
    if not label.isprintable():
        return "it has a control character" + " (a zero byte)" * ("\0" in label)
    if kind := clutter_kind(label):
        return f"folders of this name are ignored ({kind})"
    return f"it has {size} bytes, over {_MAX_LABEL_BYTES}" if size > _MAX_LABEL_BYTES else ""


def targets(images: Sequence[Placement], splits: Sequence[str], data: Path) -> Iterator[tuple[Placement, Path]]:
    """Yield each of `images` with its target path in `data`. `splits` has the split of each image."""
    taken: dict[Path, str] = {}
    for one, split in zip(images, splits, strict=True):
        place = data / split / one.label / _short_name(PurePosixPath(one.member.name), one.image.digest)
        yield one, free_name(place, one.image.digest, taken)


def _short_name(path: PurePosixPath, digest: str) -> str:
    """Return the file name of `path`. A name over 240 bytes is cut, and part of the image's `digest` is added."""
    if len(os.fsencode(path.name)) <= _MAX_NAME_BYTES:
        return path.name
    return f"{path.name[: _MAX_NAME_BYTES // 8]}-{digest[:12]}{path.suffix[:8]}"


def free_name(target: Path, digest: str, taken: dict[Path, str]) -> Path:
    """Return `target` if no other image has this path. Else, return the path with part of `digest` added to its name.

    `digest` is the digest of the image that needs a path. `taken` maps each path in use to the digest of the image
    with this path. This function adds the returned path to `taken`, and also the paths of existing files that are in
    the way.
    """
    if target not in taken and target.is_file():
        taken[target] = sha256_of(target)
    if taken.setdefault(target, digest) == digest:
        return target
    return free_name(target.with_stem(f"{target.stem}-{digest[:12]}"), digest, taken)
