"""The images of a data set as a tree of folders, and the files beside them that may be images, too."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from headstart.pipeline.data.names import as_label, is_mask_folder, says_nothing, splits_named, stem_of_image

Parts = tuple[str, ...]
Place = tuple[str, str | None]  # split ("" for none), label (None for none)
FEW = 0.05  # up to this fraction of the images is ignored when a folder is classified


@dataclass
class ImageTree:
    """The images below one folder. `found` has each image's position in the listing, and its path below the folder."""

    found: list[tuple[int, Parts]]

    @cached_property
    def loose(self) -> list[tuple[int, Parts]]:
        """Return the images directly in the folder."""
        return [one for one in self.found if len(one[1]) == 1]

    @cached_property
    def folders(self) -> "dict[str, ImageTree]":
        """Map the name of each subfolder with images to its tree, sorted by name."""
        inside: dict[str, list[tuple[int, Parts]]] = defaultdict(list)
        for number, parts in self.found:
            if len(parts) > 1:
                inside[parts[0]].append((number, parts[1:]))
        return {name: ImageTree(inside[name]) for name in sorted(inside)}

    @cached_property
    def stems(self) -> set[str]:
        """Return the file names of all images, without suffixes."""
        return {parts[-1].rpartition(".")[0] for _, parts in self.found}

    @cached_property
    def is_numbered(self) -> bool:
        """Whether all file names are numbers. Then equal names in two folders don't show that files belong together."""
        return all(stem.isdigit() for stem in self.stems)

    def without(self, folders: Collection[Parts]) -> "ImageTree":
        """Return the tree without the images below `folders`, whose paths are relative to this folder."""
        if not folders:
            return self
        inside = [any(parts[:depth] in folders for depth in range(1, len(parts))) for _, parts in self.found]
        return ImageTree([one for one, left_out in zip(self.found, inside, strict=True) if not left_out])

    @property
    def is_flat(self) -> bool:
        """Whether all or nearly all images lie directly in the folder."""
        return len(self.loose) >= (1 - FEW) * len(self.found)


def is_chain(images: ImageTree) -> bool:
    """Whether nearly all images lie at the end of one chain of subfolders, such as `images/` in `cats/`."""
    folders = images.folders
    return not images.loose and len(folders) == 1 and (inner := next(iter(folders.values()))).is_flat | is_chain(inner)


def mask_folders(images: ImageTree, above: Parts = ()) -> Iterator[tuple[Parts, ImageTree, bool]]:
    """Yield each folder that may hold masks of the images in the folders beside it.

    A result is (path of the folder, tree of its parent, whether masks are certain). `above` is the path of `images`.
    Masks have the names of their images, perhaps with an end such as `_mask`. Names that are numbers prove little,
    unless the folder of the images has a name such as `images`, which no class has.
    """
    folders = images.folders
    masks = set()
    for name in filter(is_mask_folder, folders):
        stems = {stem_of_image(stem) for stem in folders[name].stems} | folders[name].stems
        most = 0.9 * len(folders[name].stems)
        beside = [one for one in folders if not is_mask_folder(one) and len(stems & folders[one].stems) >= most]
        if beside:
            masks.add(name)
            certain = not (folders[name].is_flat and folders[name].is_numbered)
            yield (*above, name), images, any(map(says_nothing, beside)) or (len(beside) == 1 and certain)
    for name, one in folders.items():
        if name not in masks:
            yield from mask_folders(one, (*above, name))


def splits_outside(images: ImageTree) -> ImageTree:
    """Move splits above classes: `cats/train/1.jpg` becomes `train/cats/1.jpg`.

    This is done only if each folder in `images` holds two or more split folders, and nothing else. Otherwise `images`
    is returned unchanged.
    """
    inside = [one.folders if not one.loose else {} for one in images.folders.values()]
    if images.loose or not inside or not all(one and len(splits_named(one)) == len(one) > 1 for one in inside):
        return images
    return ImageTree([(number, (parts[1], parts[0], *parts[2:])) for number, parts in images.found])


def with_other_files(parts: Sequence[Parts], places: Mapping[int, Place], images: set[int]) -> dict[int, Place]:
    """Return `places` with added entries for files without an image suffix.

    Such a file gets the split and label of the images in its folder. If these have several splits or labels, the file
    gets no place. `images` has the positions of the files with an image suffix.
    """
    others = [number for number in range(len(parts)) if number not in images]
    if not others:
        return dict(places)
    by_folder: dict[Parts, set[Place]] = defaultdict(set)
    for number, place in places.items():
        by_folder[parts[number][:-1]].add(place)
    shared = {folder: next(iter(found)) for folder, found in by_folder.items() if len(found) == 1}
    found = {number: shared[parts[number][:-1]] for number in others if parts[number][:-1] in shared}
    return {**found, **places}


def empty_classes(parts: Sequence[Parts], places: Mapping[int, Place], empty: Sequence[str]) -> list[str]:
    """Return the class names of those folders in `empty` that lie beside class folders."""
    if not empty:
        return []
    beside = {
        parts[number][:at]
        for number, (_, label) in places.items()
        for at, name in enumerate(parts[number][:-1])
        if label is not None and as_label(name) == label
    }
    found = [tuple(path.split("/")) for path in empty]
    return sorted({as_label(one[-1]) for one in found if one[:-1] in beside})


def told_bare(paths: Sequence[str], parts: Sequence[Parts], images: Collection[int]) -> list[str]:
    """Return a line that counts the files of folders in which no file has a suffix; [] if there are none.

    Such files might be the images of a class.
    """
    if len(images) == len(paths):
        return []
    suffixed = {one[:-1] for one in parts if "." in one[-1]}
    bare = [path for path, one in zip(paths, parts, strict=True) if len(one) > 1 and one[:-1] not in suffixed]
    return [f"{len(bare)} files without a suffix are left out, {bare[0]} the first"] if bare else []
