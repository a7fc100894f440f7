"""Equal images: files with the same bytes, and the labels and splits that they disagree on."""

from collections.abc import Iterable, Sequence

from headstart.features.terminal import console
from headstart.pipeline.data.examples import Example


def same_image(examples: Iterable[Example]) -> list[list[Example]]:
    """Group the examples whose files are equal byte for byte. An image with one file is left out."""
    by_digest: dict[str, list[Example]] = {}
    for example in examples:
        by_digest.setdefault(example.image.digest, []).append(example)
    return [group for group in by_digest.values() if len(group) > 1]


def conflicting(groups: Iterable[list[Example]]) -> list[list[Example]]:
    """The groups of `same_image` whose examples are in several classes."""
    return [group for group in groups if len({example.label for example in group}) > 1]


def tell_conflicts(examples: Sequence[Example], class_names: Sequence[str]) -> None:
    """Print a warning that names the first images that are in several classes."""
    groups = conflicting(same_image(examples))
    files = (", ".join(f"{one.image.path} as {class_names[one.label]}" for one in group) for group in groups[:3])
    more = "; ... the run's examples.csv has all" if len(groups) > 3 else ""
    if groups:
        console.print(
            f"warning: {len(groups)} images are in several classes, and each of their files is taken with the label of "
            f"its folder: {'; '.join(files)}{more}",
            style="yellow",
        )
