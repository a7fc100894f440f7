"""Arrange the images of a data set as a tree of folders, and find other files that may be images, too."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from headstart.features.images.columns.paths import Paths
from headstart.pipeline.data.columns.coded import Coded
from headstart.pipeline.data.names import as_label, is_mask_folder, says_nothing, splits_named, stem_of_image

Parts = tuple[str, ...]
Place = tuple[str, str | None]  # split ("" for none), label (None for none)
Placed = Sequence[tuple[Place, np.ndarray]]  # places, each with the positions of images that have it, int64 [n]
Labels = dict[str, np.ndarray]  # the positions of the images of each label, int64 [n]
FEW = 0.05  # up to this fraction of the images is ignored when a folder is classified
_NONE = np.zeros(0, np.int64)


@dataclass
class ImageTree:
    """The images below one folder. An image is a position in `paths`."""

    paths: Paths
    loose: np.ndarray = field(default_factory=lambda: _NONE)  # int64 [n]: the images directly in the folder, ascending
    inside: "dict[str, ImageTree]" = field(default_factory=dict)  # the trees of subfolders with images

    @classmethod
    def of(cls, paths: Paths, images: np.ndarray) -> "ImageTree":
        """Make the tree of some images. `images`, int64 [n], are the positions of the images in `paths`."""
        top = cls(paths)
        for folder, at in paths[images].by_folder().items():
            tree = top
            for name in _parts(folder):
                tree = tree.inside.setdefault(name, cls(paths))
            tree.loose = images[at]
        return top

    @cached_property
    def count(self) -> int:
        """The number of all images in the folder and its subfolders."""
        return len(self.loose) + sum(tree.count for tree in self.inside.values())

    @cached_property
    def folders(self) -> "dict[str, ImageTree]":
        """The subfolders that hold images: a dict from the name of the subfolder to its tree, sorted by name."""
        return {name: self.inside[name] for name in sorted(self.inside) if self.inside[name].count}

    def walk(self, above: Parts = ()) -> "Iterator[tuple[Parts, ImageTree]]":
        """Yield this tree and the trees of all subfolders, each with its path. `above` is the path of this tree."""
        pending = [(above, self)]
        while pending:
            path, tree = pending.pop()
            yield path, tree
            pending += [((*path, name), inner) for name, inner in tree.inside.items()]

    def images(self) -> np.ndarray:
        """Return the positions of all images in the folder and its subfolders, int64 [n], ascending."""
        return np.sort(np.concatenate([tree.loose for _, tree in self.walk()]))

    def names(self) -> list[str]:
        """Return the file names of all images, in the order of `images`."""
        return list(self.paths[self.images()].names())

    @cached_property
    def stems(self) -> set[str]:
        """Return the file names of all images, without suffixes."""
        return {name.rpartition(".")[0] for name in self.names()}

    @cached_property
    def is_numbered(self) -> bool:
        """Whether all file names are numbers, such as `17.jpg`."""
        return all(stem.isdigit() for stem in self.stems)

    def without(self, folders: Collection[Parts]) -> "ImageTree":
        """Return the tree without the images below `folders`, which are paths relative to the folder of this tree."""
        if not folders:
            return self
        left = {name: inner for name, inner in self.inside.items() if (name,) not in folders}
        below = {name: {path[1:] for path in folders if path[0] == name} for name in left}
        return ImageTree(self.paths, self.loose, {name: inner.without(below[name]) for name, inner in left.items()})

    def by_label(self, label_of: Callable[[Parts], str | None]) -> Labels:
        """Map each label to the positions of its images, ascending.

        `label_of` takes the path of a folder, relative to the folder of this tree. It returns the label of the images
        in that folder, or None if they have no label.
        """
        found = defaultdict[str, list[np.ndarray]](list)
        for path, tree in self.walk():
            if len(tree.loose) and (label := label_of(path)) is not None:
                found[label].append(tree.loose)
        return {label: np.sort(np.concatenate(parts)) for label, parts in found.items()}

    @property
    def is_flat(self) -> bool:
        """Whether all or nearly all images lie directly in the folder."""
        return len(self.loose) >= (1 - FEW) * self.count


def is_chain(images: ImageTree) -> bool:
    """Whether a folder is a chain: all of its images are in one subfolder, and this subfolder is flat or a chain, too.

    For example, `cats/` is a chain if all of its images are in `cats/images/`. For flat, see `ImageTree.is_flat`.
    """
    folders = images.folders
    if len(images.loose) or len(folders) != 1:
        return False
    (inner,) = folders.values()
    return inner.is_flat or is_chain(inner)


def mask_folders(images: ImageTree, above: Parts = ()) -> Iterator[tuple[Parts, ImageTree, bool]]:
    """Find mask folders at all depths of the tree `images`. `above` is the path of `images`.

    A mask folder has a name such as `masks`, and at least one match. A match is a folder beside the mask folder. The
    match does not have such a name, and holds at least 90 % of the mask folder's file names. `1_mask.png` and `1.jpg`
    count as the same name.

    Yields three items for each mask folder: its path, the tree of its parent, and whether it certainly holds masks. A
    mask folder certainly holds masks in two cases:

    - A match has a name that says nothing about its images, such as `images`; see `says_nothing`.
    - There is only one match, and one of these conditions holds: over 5 % of the mask folder's images are in
      subfolders, or at least one file name in the mask folder is not a number.
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

    Splits are moved only if `images` holds only class folders, and each class folder holds only split folders, two or
    more. In all other cases, `images` is returned unchanged.
    """
    inside = [one.folders if not len(one.loose) else {} for one in images.folders.values()]
    each = all(one and len(splits_named(one)) == len(one) > 1 for one in inside)
    if len(images.loose) or not inside or not each:
        return images
    moved: dict[str, ImageTree] = {}
    for name, one in images.folders.items():
        for split, inner in one.folders.items():
            moved.setdefault(split, ImageTree(images.paths)).inside[name] = inner
    return ImageTree(images.paths, inside=moved)


def labelled(positions: np.ndarray, labels: Coded[str | None]) -> Labels:
    """Map each label to the positions of its images. Images without a label are left out.

    `positions`, int64 [n], are the positions of some images. `labels` holds the label of each of these images.
    """
    return {label: positions[rows] for label, rows in labels.positions().items() if label}


def coded(placed: Placed, count: int) -> Coded[Place | None]:
    """Return the place (split, label) of each of `count` files. A file without a place has None.

    `placed` holds pairs: a place, and the positions of the files in this place.
    """
    codes = np.zeros(count, np.int32)
    for code, (_, positions) in enumerate(placed, 1):
        codes[positions] = code
    places = [None, *(place for place, _ in placed)]
    return Coded[Place | None](codes, places).with_values(places)


def with_other_files(paths: Paths, places: Coded[Place | None], images: np.ndarray) -> Coded[Place | None]:
    """Give places to files that are no images, and return the places of all files. A place is a pair (split, label).

    The argument `places` has the place of each file in `paths`, or None. `images`, int64 [n], holds the positions of
    the images in `paths`. If all images of a folder have the same place, the other files of the folder get this place.
    Images without a place are ignored.
    """
    others = np.setdiff1d(np.arange(len(paths)), images, assume_unique=True)
    placed = ~places.is_(None)
    lowest, highest = np.full(len(paths.folders), len(places.values)), np.full(len(paths.folders), -1)
    np.minimum.at(lowest, paths.folder_of[placed], places.codes[placed])
    np.maximum.at(highest, paths.folder_of[placed], places.codes[placed])
    sharing = others[(lowest == highest)[paths.folder_of[others]]]
    codes = places.codes.copy()
    codes[sharing] = lowest[paths.folder_of[sharing]]
    return Coded(codes, places.values)


def empty_classes(paths: Paths, places: Coded[Place | None], empty: Sequence[str]) -> list[str]:
    """Return the names of classes without files: the folders in `empty` that lie beside class folders."""
    if not empty:
        return []
    beside: set[Parts] = set()
    for folder, code in np.unique(np.stack([paths.folder_of, places.codes]), axis=1).T.tolist():
        parts, place = _parts(paths.folders[folder]), places.values[code]
        if place and place[1] is not None:
            beside.update(parts[:at] for at, name in enumerate(parts) if as_label(name) == place[1])
    found = [tuple(path.split("/")) for path in empty]
    return sorted({as_label(one[-1]) for one in found if one[:-1] in beside})


def told_bare(paths: Paths, images: np.ndarray) -> list[str]:
    """Return a list with one line that says how many files without a suffix are left out.

    A file is counted only if it lies in a subfolder in which no file has a suffix. If no file is counted, the list is
    empty. For each recognised image, `images` holds its index in `paths`.
    """
    if len(images) == len(paths):
        return []
    bare = [
        at for folder, at in paths.by_folder().items() if folder and not any("." in name for name in paths[at].names())
    ]
    if not bare:
        return []
    positions = np.concatenate(bare)
    return [f"{len(positions)} files without a suffix are left out, {paths[int(positions.min())]} the first"]


def _parts(folder: str) -> Parts:
    """Return the names of the folders in the path `folder`. The path ends with a slash, or it is empty."""
    return tuple(folder[:-1].split("/")) if folder else ()
