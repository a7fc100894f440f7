"""List the files of a source of `prepare`. A source is a folder or an archive. Both may hold archives."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from headstart.features.errors import DataError, OptionError
from headstart.features.images.faults import Fault
from headstart.features.images.files.reading import content_elsewhere, why_unreadable
from headstart.features.images.scan import content_of
from headstart.features.terminal import console
from headstart.pipeline.archives.entries import Entry
from headstart.pipeline.archives.names import leads_out
from headstart.pipeline.archives.opening import Archives, archive_suffix, is_archive_name
from headstart.pipeline.data.clutter import clutter_kinds, told
from headstart.pipeline.data.listing import list_files, require_readable
from headstart.pipeline.data.names import has_image_suffix
from headstart.pipeline.data.tars.samples import hold_samples


@dataclass(frozen=True)
class SourceFile:
    """One file of a source: a file of a folder, a file of an archive, or an object with a URL.

    In an archive, several files may have the same name.
    """

    name: str  # relative to the source, with slashes
    path: str  # for messages and `rejects.csv`
    content: Callable[[], bytes | Fault]
    file: Path | None = None  # None for a file in an archive, and for an object with a URL
    entry: Entry | None = None  # None for a file that is not in an archive

    @property
    def escapes(self) -> bool:
        """Whether the name leads out of the archive, as `../a.jpg` does. Such a member is never read."""
        return self.file is None and leads_out(self.name)

    def read(self) -> bytes | Fault:
        """Return the content, or a `Fault` that says why the content can't be read."""
        return Fault("unsupported", "a path out of the archive") if self.escapes else self.content()


@contextmanager
def opened_source(source: Path, data: Path, zip_encoding: str | None = None) -> Iterator[list[SourceFile]]:
    """Yield the files of a folder or archive. Clutter, such as system files, is left out; see `data.clutter`.

    An archive is a zip or a tar. A tar may be compressed.

    If `source` holds archives and no images, as in Kaggle's competitions, each of these archives is read like a
    folder. Archives inside these archives are not unpacked. Unpacked bytes lie in nameless temporary files, on the disk
    of the folder `data`, until the context ends. Prints the number of ignored files, and how the names in archives were
    read.

    Raises:
        DataError: a folder or archive can't be read, or an archive has no files. Also raised if the source has archives
            that are not unpacked, and no images are found.
        OptionError: `zip_encoding` is not an encoding, does not fit the names, or is given for a source without a zip.
    """
    with ExitStack() as stack:
        archives = Archives(stack, data, zip_encoding)
        members = _of_folder(source) if source.is_dir() else _members(archives.open(source), str(source))
        if not any(has_image_suffix(member.name) for member in members):
            members = _unnested(members, archives)
        _tell_archives(source, members)
        if zip_encoding is not None and not archives.zips:
            raise OptionError(
                f"--zip-encoding {zip_encoding}: {source} is no zip, and holds none; leave the option out"
            )
        yield members


@contextmanager
def samples_told(source: Path, members: Sequence[SourceFile]) -> Iterator[None]:
    """While the context is open, replace a DataError by one about samples, if `members` are samples.

    For samples, see `data.tars`. The new error says that `source` holds samples, and how to train on `source` without
    `prepare`.
    """
    try:
        yield
    except DataError as error:
        if not hold_samples(member.name for member in members):
            raise
        raise DataError(
            f"{source}: holds samples, key.jpg beside key.cls or key.json; without `prepare`, name the tars as DATA"
        ) from error


def _of_folder(source: Path) -> list[SourceFile]:
    listing = list_files(source)
    require_readable(source, listing)
    _tell_ignored(source, listing.ignored)
    files = [source / name for name in listing.files]
    return [
        SourceFile(name, str(file), partial(read_file, file), file)
        for name, file in zip(listing.files, files, strict=True)
    ]


def read_file(file: Path) -> bytes | Fault:
    """Return the content of a file, or a `Fault` with the reason why the file can't be read."""
    try:
        return content_of(file, file.stat())
    except OSError as error:
        return why_unreadable(error)


def read_object(url: str) -> bytes | Fault:
    """Return the content of an object, or a `Fault` with the reason why the object can't be read."""
    try:
        return content_elsewhere(url)[0]
    except OSError as error:
        return why_unreadable(error)


def _members(entries: Sequence[Entry], archive: str) -> list[SourceFile]:
    kinds = clutter_kinds(entry.name for entry in entries)
    _tell_ignored(archive, Counter(kind for kind in kinds if kind is not None))
    members = [
        SourceFile(entry.name, f"{archive}/{entry.name}", entry.read, entry=entry)
        for entry, kind in zip(entries, kinds, strict=True)
        if kind is None
    ]
    if not members:
        raise DataError(f"{archive}: an archive without files; nothing can be taken from it")
    return members


def _unnested(members: Sequence[SourceFile], archives: Archives) -> list[SourceFile]:
    """Return `members`, with each archive among them replaced by the files in the archive."""
    found: list[SourceFile] = []
    for member in members:
        if not is_archive_name(member.name) or member.escapes:
            found.append(member)
        elif member.entry:
            found += _below(_members(archives.open_inner(member.entry, member.path), member.path), member.name)
        else:
            found += _below(_members(archives.open(Path(member.path)), member.path), member.name)
    return found


def _below(members: Sequence[SourceFile], archive: str) -> list[SourceFile]:
    """Put the path of an archive before the names of its files: `a/train/` for `a/train.zip`."""
    parent, slash, name = archive.rpartition("/")
    folder = name[: -len(archive_suffix(name))] + "/"
    above = parent + slash
    # If all files are in a folder of the archive's name, this name is not put before them again.
    inside = above if all(member.name.startswith(folder) for member in members) else above + folder
    return [member if member.escapes else replace(member, name=inside + member.name) for member in members]


def _tell_archives(source: Path, members: Sequence[SourceFile]) -> None:
    """Print how many archives among `members` are not unpacked. Raise DataError if there are archives but no images."""
    left = [member.path for member in members if is_archive_name(member.name)]
    if left and not any(has_image_suffix(member.name) for member in members):
        raise DataError(f"{source}: holds no images, but {left[0]}; unpack that, and name the folder")
    if left:
        console.print(f"{source}: {len(left)} archives beside images are not unpacked, {left[0]} the first")


def _tell_ignored(source: Path | str, ignored: Counter[str]) -> None:
    if ignored:
        console.print(f"{source}: {ignored.total()} files ignored: {told(ignored)}")
