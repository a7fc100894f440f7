"""Tell which classes are rare in train, and which options may help."""

from collections import Counter
from collections.abc import Sequence

from headstart.features.terminal import console
from headstart.pipeline.data.examples import Example
from headstart.pipeline.head.config import HeadConfig

_RARE = 5  # a class is rare if the largest class has more than `_RARE` times as many images
_FEW, _HALF = 20, 2  # a class of fewer images than `_FEW` is rare if the largest has more than twice as many


def tell_rare(train: Sequence[Example], class_names: Sequence[str], config: HeadConfig) -> None:
    """Print a line if a class is rare among the `train` examples. The line suggests options that may help.

    An option that `config` uses already is not suggested. If `config` uses all of these options, nothing is printed.
    """
    counts = Counter(example.label for example in train)
    largest = max(counts.values())
    rare = [
        label
        for label, count in sorted(counts.items(), key=lambda pair: pair[1])
        if largest > _RARE * count or (count < _FEW and largest > _HALF * count)
    ]
    asked = {"--class-weight balanced": config.class_weight == "none", "--choose-by balanced_accuracy": _by_all(config)}
    options = " and ".join(name for name, left in asked.items() if left)
    if rare and options:
        which = f"class {class_names[rare[0]]!r} is rare" if len(rare) == 1 else f"{len(rare)} classes are rare"
        rarest = "" if len(rare) == 1 else f", {class_names[rare[0]]!r} the rarest"
        console.print(
            f"{which}{rarest}: {counts[rare[0]]} of {len(train)} training images, the largest class has {largest}; "
            f"try {options}"
        )


def _by_all(config: HeadConfig) -> bool:
    """Return whether all images have the same weight in the figure that decides the best epoch."""
    return config.choose_by in ("loss", "accuracy")
