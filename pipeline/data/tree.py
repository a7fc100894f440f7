"""The images of a data set as a tree of folders."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

from headstart.pipeline.data.names import splits_named

Parts = tuple[str, ...]
FEW = 0.05  # up to this fraction of the images is ignored when a folder is classified


@dataclass
class ImageTree:
    """The images below one folder. Each has its position in the listing, and the parts of its path below the folder."""

    found: list[tuple[int, Parts]]

    @cached_property
    def loose(self) -> list[tuple[int, Parts]]:
        """Return the images directly in the folder."""
        return [one for one in self.found if len(one[1]) == 1]

    @cached_property
    def folders(self) -> "dict[str, ImageTree]":
        """Return the subfolders with images, by name, sorted."""
        inside: dict[str, list[tuple[int, Parts]]] = defaultdict(list)
        for number, parts in self.found:
            if len(parts) > 1:
                inside[parts[0]].append((number, parts[1:]))
        return {name: ImageTree(inside[name]) for name in sorted(inside)}

    @cached_property
    def stems(self) -> set[str]:
        """Return the file names of all images, without suffixes."""
        return {parts[-1].rpartition(".")[0] for _, parts in self.found}

    @property
    def is_flat(self) -> bool:
        """Whether (nearly) all images lie directly in the folder."""
        return len(self.loose) >= (1 - FEW) * len(self.found)


def is_chain(images: ImageTree) -> bool:
    """Whether nearly all images lie at the end of one chain of subfolders, such as `images/` in `cats/`."""
    folders = images.folders
    return not images.loose and len(folders) == 1 and (inner := next(iter(folders.values()))).is_flat | is_chain(inner)


def splits_outside(images: ImageTree) -> ImageTree:
    """Move splits above classes: `cats/train/1.jpg` becomes `train/cats/1.jpg`.

    `images` is returned unchanged unless each of its folders holds two or more split folders, and nothing else.
    """
    inside = [one.folders if not one.loose else {} for one in images.folders.values()]
    if images.loose or not inside or not all(one and len(splits_named(one)) == len(one) > 1 for one in inside):
        return images
    return ImageTree([(number, (parts[1], parts[0], *parts[2:])) for number, parts in images.found])
