"""Find the splits and classes of a data set from the names of its folders and files.

The functions take lists of names, and open no files. Lines of text tell the user how the names were read. If the names
have several possible readings, a DataError names the options that choose a reading.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from headstart.features.errors import DataError
from headstart.features.images.columns.paths import Paths
from headstart.pipeline.data.columns.coded import Coded
from headstart.pipeline.data.config import Layout
from headstart.pipeline.data.names import (
    are_parts,
    as_label,
    has_image_suffix,
    labels_matched,
    listed,
    numbered_labels,
    says_nothing,
    split_named,
    splits_in_words,
    splits_named,
    told_cases,
    told_missed,
)
from headstart.pipeline.data.tree import (
    FEW,
    ImageTree,
    Labels,
    Parts,
    Placed,
    coded,
    empty_classes,
    is_chain,
    labelled,
    mask_folders,
    splits_outside,
    told_bare,
    with_other_files,
)


@dataclass(frozen=True)
class Reading:
    """The split, label and group of each file of a data set, in the order of the files."""

    splits: Sequence[str]  # "" for no split
    labels: Sequence[str | None]  # None for no label
    lines: list[str]  # text that describes the reading
    groups: Sequence[str | None] = ()  # None for no group; may be empty if no file has a group
    empty_classes: list[str] = field(default_factory=list)  # class folders without a file

    @property
    def class_names(self) -> list[str]:
        """Return the names of all classes, sorted. The label of an `Example` is an index into this list."""
        labels = Coded.of(self.labels).used()
        return sorted({label for label in labels if label is not None} | set(self.empty_classes))


def read_layout(
    paths: Sequence[str],
    where: str,
    layout: Layout = "auto",
    classes: Sequence[str] = (),
    empty: Sequence[str] = (),
    label_from: str = "",
) -> Reading:
    """Find the split and label of each file in `paths`.

    Raises DataError if the names allow several readings, if one of `classes` has no images, or if more than 5 % of the
    images don't match `label_from`. Raises OptionError if `label_from` takes seconds on a path.

    Args:
        paths: the files, relative to the data set, with slashes. Clutter must be left out.
        where: the name of the data set, for messages.
        layout: where the classes are found: as outermost folders (`outer`), as innermost folders (`inner`), in file
            names such as `cat.0.jpg` (`names`), or nowhere (`none`). With `auto`, the names in `paths` decide.
        classes: names of the class folders, at any depth. If empty, `layout` decides.
        empty: folders without files. If one of them lies beside class folders, it is a class without images.
        label_from: a regular expression with a group `label`; see `labels_matched`. If given, folders give splits only.
    """
    paths = Paths.of(paths)
    is_image = np.fromiter(map(has_image_suffix, paths.names()), bool, len(paths))
    images = np.flatnonzero(is_image if is_image.any() else ~is_image)
    named = Coded.of(labels_matched(paths, label_from)) if label_from else None
    reader = _Reader(where, layout, {as_label(name) for name in classes}, named)
    places = coded(reader.read(ImageTree.of(paths, images)), len(paths))
    if named:
        seen = np.sort(np.concatenate(reader.seen or [images]))
        reader.lines.extend(told_missed(where, label_from, list(paths[seen[named.is_(None)[seen]]]), len(seen)))
    every = places if named else with_other_files(paths, places, images)
    reading = Reading(
        splits=every.with_values([place[0] if place else "" for place in every.values]),
        labels=every.with_values([place[1] if place else None for place in every.values]),
        lines=reader.lines,
        empty_classes=empty_classes(paths, places, empty),
    )
    reading.lines.extend([*told_cases(reading.class_names), *told_bare(paths, images)])
    return reading


@dataclass
class _Reader:
    where: str
    layout: Layout
    classes: set[str]
    named: Coded[str | None] | None  # the label of each file by `label_from`; None without `label_from`
    lines: list[str] = field(default_factory=list)
    seen: list[np.ndarray] = field(default_factory=list)  # positions of images in splits where `named` has any label

    def read(self, images: ImageTree) -> Placed:
        """Return a pair (place, positions of the place's images) for each place. A place is a pair (split, label)."""
        if self.layout == "none":
            self.lines.append(f"{self.where}: read without labels")
            return []
        images = self._without_repeated(self._without_masks(images))
        images = splits_outside(self._below_wrappers(images, in_split=False))
        folders = images.folders
        if splits := self._splits(images, folders):
            places = self._read_splits(folders, splits)
        else:
            places = [(("", label), found) for label, found in self._labels(images).items()]
        if absent := self.classes - {label for (_, label), _ in places}:
            raise DataError(f"--classes: {self.where} has no images in a folder {listed(sorted(absent))}")
        return places

    def _read_splits(self, folders: "Mapping[str, ImageTree]", splits: Mapping[str, str]) -> Placed:
        labels = {name: self._labels(folders[name], quiet=True) for name in splits}
        counted = {name: set(labels[name]) for name in splits}
        known = set().union(*(counted[name] for name in splits if splits[name] == "train")) or set().union(
            *counted.values()
        )
        used = [name for name in splits if known & counted[name]]
        if not used:
            return []
        for name in splits.keys() - used:
            self.lines.append(f"{name}/ has {folders[name].count} images without a known class; they are left out")
        for name in folders.keys() - splits.keys():
            self.lines.append(f"{name}/ ({folders[name].count} images) is no split and is left out")
        if [splits[name] for name in used] == ["train"]:
            self.lines.append(f"{self.where}: read as {len(known)} classes in {used[0]}/, not split yet")
            return [(("", label), found) for label, found in labels[used[0]].items()]
        as_named = ", ".join(f"{name}/ is {splits[name]}" if name != splits[name] else f"{name}/" for name in used)
        self.lines.append(f"{self.where}: read as split folders ({as_named}) with {len(known)} classes")
        return [((splits[name], label), found) for name in used for label, found in labels[name].items()]

    def _splits(self, images: ImageTree, folders: "Mapping[str, ImageTree]") -> dict[str, str]:
        """Map the name of each split folder to its split. `folders` are the subfolders of the tree `images`."""
        splits, words = splits_named(folders), splits_in_words(folders)
        others = [name for name in folders if name not in splits]
        if len(images.loose) > FEW * images.count or self.classes & set(map(as_label, folders)):
            return {}
        chosen = self.classes or self.layout != "auto"
        if not chosen and words.keys() - splits and len(set(words.values())) > 1 and 2 * len(words) >= len(folders):
            raise self._asking(
                folders,
                "these look like splits",
                "one of them; --layout outer if they are classes; or name them train, val, test",
            )
        if not splits:
            return {}
        flat = all(folders[name].is_flat for name in folders)
        if len(splits) == 1 and others and flat and not self.named:
            return {}  # a class that is called like a split
        plain = all(folders[name].is_flat or is_chain(folders[name]) for name in others)
        if others and not self.classes and (self.named or not plain):
            raise self._asking(
                folders,
                "some folders are named like splits, others are not",
                "--classes, or one folder" if not self.named else "one folder",
            )
        if len(set(splits.values())) < len(splits) and not self.classes:
            raise self._asking(folders, "several folders are named like one split", "one of them, or a folder above")
        return splits

    def _labels(self, images: ImageTree, quiet: bool = False) -> Labels:
        """Map each label to its images in the tree `images`. If `quiet`, add nothing to `self.lines`."""
        if self.classes:
            return self._named_classes(images)
        images = self._below_wrappers(images)
        if self.named:
            return self._matched(images, self.named, quiet)
        folders = images.folders
        if images.is_flat or self.layout == "names":
            return self._labels_in_names(images, quiet)
        if are_parts(folders) and self.layout == "auto":
            raise self._asking(
                folders, "these look like parts of one set, not like classes", "--layout outer if they are"
            )
        if len(images.loose) > FEW * images.count and self.layout == "auto":
            beside = f"{len(images.loose)} images lie beside these folders, not in them"
            raise self._asking(folders, beside, "--layout outer to leave them out, or move them")
        inner = self._is_inner(folders)
        labels = images.by_label(lambda path: as_label(path[-1] if inner else path[0]) if path else None)
        if not quiet:
            left = f"; {len(images.loose)} images beside them are left out" if len(images.loose) else ""
            self.lines.append(f"{self.where}: read as {len(labels)} class folders{left}")
        return labels

    def _is_inner(self, folders: "Mapping[str, ImageTree]") -> bool:
        """Whether the classes are the innermost folders, not the outermost. Raises DataError if both are possible."""
        if self.layout in ("outer", "inner"):
            return self.layout == "inner"
        deep = [name for name in folders if not folders[name].is_flat and not is_chain(folders[name])]
        total = sum(one.count for one in folders.values())
        if sum(folders[name].count - len(folders[name].loose) for name in deep) <= FEW * total:
            return False
        inside = {sub for name in deep for sub in folders[name].folders}
        raise self._asking(
            folders,
            f"the classes are these {len(folders)}, or the {len(inside)} folders in them ({listed(sorted(inside))})",
            "--layout outer or --layout inner, or give one folder",
        )

    def _named_classes(self, images: ImageTree) -> Labels:
        labels = images.by_label(
            lambda path: next((label for part in path if (label := as_label(part)) in self.classes), None)
        )
        if left := images.count - sum(map(len, labels.values())):
            self.lines.append(f"{left} images lie in none of the --classes and are left out")
        return labels

    def _matched(self, images: ImageTree, named: Coded[str | None], quiet: bool) -> Labels:
        positions = images.images()
        labels = labelled(positions, named[positions])
        self.seen += [positions] if labels else []  # a split without any label is left out
        if not quiet:
            self.lines.append(f"{self.where}: read as {len(labels)} classes by --label-from, not split yet")
        return labels

    def _labels_in_names(self, images: ImageTree, quiet: bool) -> Labels:
        labels = labelled(images.images(), Coded.of(numbered_labels(images.names()) or []))
        if labels and not quiet:
            self.lines.append(f"{self.where}: read as {len(labels)} classes by names such as cat.0.jpg")
        return labels

    def _below_wrappers(self, images: ImageTree, in_split: bool = True) -> ImageTree:
        """Go down while a folder has one subfolder and few images of its own. Return the tree of the last folder."""
        while True:
            folders = images.folders
            if len(folders) != 1 or len(images.loose) > FEW * images.count:
                return images
            ((name, inner),) = folders.items()
            if not in_split and split_named(name) in ("val", "test"):
                return images
            if inner.is_flat:
                is_class = not says_nothing(name) and not numbered_labels(inner.names())
                return images if is_class else inner
            if split_named(name) and not in_split:
                self.lines.append(f"{name}/ is the only split folder, so the images count as not split yet")
            images = self._without_repeated(inner)

    def _without_masks(self, images: ImageTree) -> ImageTree:
        """Return `images` without mask folders. Raise a DataError if it is unclear whether a folder holds masks."""
        masks: dict[Parts, int] = {}
        for path, parent, sure in mask_folders(images):
            if not sure and self.layout == "auto" and not self.classes:
                found = f"{path[-1]}/ has the file names of the folders beside it, so it may hold masks, or be a class"
                raise self._asking(parent.folders, found, "--layout outer if it is a class, or --classes")
            if sure and as_label(path[-1]) not in self.classes:
                masks[path] = parent.folders[path[-1]].count
        by_name = Counter[str]()
        for path, count in masks.items():
            by_name[path[-1]] += count
        for name, count in by_name.items():
            self.lines.append(
                f"{name}/ ({count} images) pairs up with images by name, so it is no class; it is left out"
            )
        return images.without(masks.keys())

    def _without_repeated(self, images: ImageTree) -> ImageTree:
        """Leave out a folder if its subfolders have the same names as the folders beside it.

        A folder with fewer than two subfolders stays.
        """
        folders = images.folders
        repeated = {
            name
            for name, one in folders.items()
            if 1 < len(one.folders) == len(folders) - 1 and one.folders.keys() == folders.keys() - {name}
        }
        for name in repeated:
            self.lines.append(
                f"{name}/ ({folders[name].count} images) holds the folders beside it once more; it is left out"
            )
        return images.without({(name,) for name in repeated})

    def _asking(self, folders: "Mapping[str, ImageTree]", found: str, say: str) -> DataError:
        tree = [
            f"{name}/ ({len(one.folders)} folders, {one.count} images)"
            if one.folders
            else f"{name}/ ({one.count} images)"
            for name, one in folders.items()
        ]
        return DataError(f"{self.where}: {listed(tree)}: {found}; say {say}")
