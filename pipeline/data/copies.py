"""Find copies: image files with the same bytes. Copies may be in several classes or splits."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
from headstart.features.digests import HexDigests, numbered
from headstart.features.terminal import console
from headstart.pipeline.data.examples import Example, Examples


def repeated(examples: Iterable[Example], key: Callable[[Example], Hashable]) -> list[list[Example]]:
    """Group `examples` by `key`. Groups of only one example are left out."""
    groups: dict[Hashable, list[Example]] = {}
    for example in examples:
        groups.setdefault(key(example), []).append(example)
    return [group for group in groups.values() if len(group) > 1]


def same_image(examples: Iterable[Example]) -> list[list[Example]]:
    """Group the examples whose files are equal byte for byte. Examples whose files have no copy are left out."""
    every = Examples.of(examples)
    _, number = numbered(every.digests)
    copied = np.bincount(number)[number] > 1 if len(number) else np.zeros(0, bool)
    return repeated(every[copied], lambda example: example.image.digest)


def unit_names(examples: Iterable[Example]) -> list[str]:
    """Return the name of each example's unit. Examples of one unit belong in the same fold.

    Copies of an image are in one unit, and so are the images of a group. The name of a unit is the name of its group.
    If copies connect several groups, the first of the groups' names in alphabetical order is taken. The name of a unit
    without a group is the digest of its image.
    """
    every = Examples.of(examples)
    names = [group or digest for group, digest in zip(every.groups, HexDigests(every.digests), strict=True)]
    numbers = numbered(every.digests)[1].tolist()
    first = dict(zip(reversed(numbers), reversed(names), strict=True))
    if any(first[number] != name for number, name in zip(numbers, names, strict=True)):  # copies in several groups
        for unit in united(list(zip(numbers, names, strict=True))):
            groups = [group for group in (every.groups[at] for at in unit) if group]
            for at in unit:
                names[at] = min(groups, default=names[at])
    return names


def united(keys: Iterable[Iterable[Hashable]]) -> list[list[int]]:
    """Group the positions of `keys`: positions that share a key are in one group. Return the positions in each group.

    Each element of `keys` holds the keys of one position. If position A shares a key with B, and B shares a key with C,
    all three are in one group. A position that shares no key is a group of its own.
    """
    first: dict[Hashable, int] = {}
    parents: list[int] = []

    def root(at: int) -> int:
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = parents[at]
        return at

    for at, mine in enumerate(keys):
        parents.append(at)
        for key in mine:
            if (other := first.setdefault(key, at)) != at:
                parents[root(at)] = root(other)
    found: dict[int, list[int]] = defaultdict(list)
    for at in range(len(parents)):
        found[root(at)].append(at)
    return list(found.values())


def conflicting(groups: Iterable[list[Example]]) -> list[list[Example]]:
    """Return the groups whose examples are in more than one class."""
    return [group for group in groups if len({example.label for example in group}) > 1]


def tell_conflicts(examples: Sequence[Example], class_names: Sequence[str]) -> None:
    """Print a warning if any image has copies in several classes. The warning names the first three of these images."""
    groups = conflicting(same_image(examples))
    files = (", ".join(f"{one.image.path} as {class_names[one.label]}" for one in group) for group in groups[:3])
    more = "; ... the run's examples.csv has all" if len(groups) > 3 else ""
    if groups:
        console.print(
            f"warning: {len(groups)} images are in several classes, and each of their files is taken with the label of "
            f"its folder: {'; '.join(files)}{more}",
            style="yellow",
        )
