"""Recognise clutter: files that cameras, disks, file managers and headstart itself leave among photographs.

The functions examine names only, so the same rules apply to folders and archives.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from headstart.features.images.columns.paths import Paths
from headstart.pipeline.data.names import has_image_suffix

HEADSTART = "headstart"
_KINDS = {
    name: kind
    for kind, names in {
        "thumbnails": ("@eadir", ".@__thumb", ".thumbnails", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db"),
        "recycle bin": ("#recycle", "@recycle", "$recycle.bin", ".trash", ".trashes"),
        "notebook checkpoints": (".ipynb_checkpoints",),
        "system files": (
            *("system volume information", "lost+found", "desktop.ini", "@tmp", "#snapshot", "@recently-snapshot"),
            *("__macosx", ".ds_store", ".spotlight-v100", ".fseventsd", ".appledouble", ".localized", "icon\r"),
            *(".picasa.ini", "picasa.ini", ".picasaoriginals", ".nomedia", "zbthumbnail.info"),
        ),
    }.items()
    for name in names
}
_RAW = "camera raw beside pictures"
_RAW_SUFFIXES = (".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw", ".x3f")
_STORE_FILES = frozenset({"backbones.json", "precision.json", "rejects.csv", "speeds.json", "used.json"})
_SHARD = re.compile(r"shard-[0-9a-f]{16}\.h5(\.retired)?")
_SCAN_MEMORY_OR_CURVES = re.compile(r"[0-9a-f]{16}\.npz|events\.out\.tfevents\..*")


def clutter_kind(name: str) -> str | None:
    """Return the kind of clutter of a file or folder called `name`. Return None if the name can belong to data."""
    kind = _KINDS.get(name.lower())
    if kind or name[:1] != "." or name in (".", ".."):
        return kind
    if name.startswith("._"):  # macOS writes such a companion of each file on a foreign disk
        return "system files"
    return "recycle bin" if name.lower().startswith(".trash-") else "hidden"


def clutter_kinds(paths: Iterable[str]) -> list[str | None]:
    """Return the kind of clutter of each file, such as `thumbnails`. For a file that may be data, the kind is None.

    A file in a clutter folder is clutter of the folder's kind. A camera's raw file is clutter if an image file beside
    it has the same name with another suffix. Stores and runs of headstart are clutter. They are recognised by the files
    in them, not by their names.

    Args:
        paths: all files of a folder or archive, relative to the folder or archive, with slashes.
    """
    files = Paths.of(paths)
    positions: dict[str, np.ndarray] = {}
    for folder, inside in files.by_folder().items():  # an archive may have both `x` and `/x`
        name = folder.removesuffix("/")
        positions[name] = np.concatenate([positions[name], inside]) if name in positions else inside

    def names_in(folder: str) -> list[str]:
        return list(files[positions[folder]].names()) if folder in positions else []

    kinds = _kinds_of_folders(positions, names_in)
    found: list[str | None] = [None] * len(files)
    for folder, inside in positions.items():
        names, of_folder = names_in(folder), kinds[folder]
        raw = _raw_beside_pictures(names)
        for at, name in zip(inside.tolist(), names, strict=True):
            found[at] = of_folder or clutter_kind(name) or (_RAW if name in raw else None)
    return found


def _raw_beside_pictures(names: Sequence[str]) -> set[str]:
    """Return the names of raw photographs that also exist as an image file, such as IMG_1.CR2 beside IMG_1.JPG."""
    raw = [name for name in names if name.lower().endswith(_RAW_SUFFIXES)]
    pictures = {name.rpartition(".")[0] for name in names if has_image_suffix(name)} if raw else set()
    return {name for name in raw if name.rpartition(".")[0] in pictures}


def told(ignored: Mapping[str, int]) -> str:
    """Return a text that says how many files of each kind were ignored, such as `12 thumbnails, 3 hidden`."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(ignored).most_common())


def _kinds_of_folders(folders: Iterable[str], names_in: Callable[[str], Sequence[str]]) -> dict[str, str | None]:
    """Return the kind of clutter of each folder, or None for a folder that may hold data."""
    inside: dict[str, set[str]] = {folder: set() for folder in folders}  # the folders in each folder
    for child in list(inside):
        while child:
            above = child.rpartition("/")[0]
            if child in inside.setdefault(above, set()):
                break
            inside[above].add(child)
            child = above  # noqa: PLW2901
    inside.setdefault("", set())
    order = sorted(inside.keys() - {""}, key=lambda folder: folder.count("/"))  # parents before children
    ours: set[str] = set()
    for folder in reversed(order):
        if _is_ours(names_in(folder), inside[folder], ours):
            ours.add(folder)
    kinds: dict[str, str | None] = {"": None}
    for folder in order:
        above, _, name = folder.rpartition("/")
        kinds[folder] = kinds[above] or clutter_kind(name) or (HEADSTART if folder in ours else None)
    return kinds


def _is_ours(names: Sequence[str], folders: set[str], ours: set[str]) -> bool:
    """Return whether headstart made a folder. `ours` are the subfolders that it made."""
    here = set(names)
    if {"config.json", "head.keras"} <= here:  # a run
        return True
    if "fingerprint.json" in here and (any(map(_SHARD.fullmatch, names)) or (len(here) == 1 and not folders)):
        return True
    first = next((name for name in names if clutter_kind(name) is None), "")
    if has_image_suffix(first):
        return False
    if _SCAN_MEMORY_OR_CURVES.fullmatch(first):
        return all(_SCAN_MEMORY_OR_CURVES.fullmatch(name) or clutter_kind(name) for name in names)
    below = {folder for folder in folders if clutter_kind(folder.rpartition("/")[2]) is None}
    visible = {name for name in here if clutter_kind(name) is None}
    if not (below or visible) or not below <= ours:
        return False
    return visible <= _STORE_FILES or (bool(below) and not any(map(has_image_suffix, visible)))
