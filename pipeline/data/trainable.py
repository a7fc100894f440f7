"""Find all reasons to refuse training: classes that can't be learnt or validated, and too many rejects."""

from collections.abc import Sequence
from pathlib import Path

from headstart.features.errors import DataError
from headstart.features.images.scan import Reject
from headstart.pipeline.data.examples import Example, Examples
from headstart.pipeline.data.splits import SPLITS

_NAMED = 5  # at most this many classes or rejects are named


def require_trainable(
    examples: Sequence[Example], class_names: Sequence[str], data: Path, needs_val: bool = True
) -> None:
    """If `untrainable` finds reasons to refuse training, raise a DataError with all of them."""
    if problems := untrainable(examples, class_names, needs_val):
        raise DataError(f"{data}: {'; '.join(problems)}")


def untrainable(examples: Sequence[Example], class_names: Sequence[str], needs_val: bool = True) -> list[str]:
    """Return the reasons why no head can be trained on `examples`, one phrase each. Return [] if a head can be trained.

    Two or more classes are needed. Each class needs images in train and, if `needs_val`, in val. A class needs at least
    as many images as there are splits.
    """
    counts = Examples.of(examples).counts()
    trained = ("train", "val") if needs_val else ("train",)
    used = {split for _, split in counts}
    tested = "test" in used
    splits = [*trained, *(["test"] if tested else [])]
    images = {name: sum(counts[label, split] for split in SPLITS) for label, name in enumerate(class_names)}
    problems = []
    if len(class_names) < 2:
        problems.append(f"{too_few(class_names)}; expected at least two class folders")
    if empty := [name for name, count in images.items() if not count]:
        problems.append(f"no usable images of class {_some(empty)}: add some, or remove the folder")
    if few := [name for name, count in images.items() if 0 < count < len(splits)]:
        problems.append(f"fewer images than the {len(splits)} splits of class {_some(few)}: add some")
    for split in trained:
        if split not in used:
            problems.append(f"the {split} split has no usable images; run `headstart prepare`, or add some")
            continue
        if absent := [
            name
            for label, name in enumerate(class_names)
            if not counts[label, split] and images[name] >= len(splits)  # the others are named above
        ]:
            problems.append(
                f"the {split} split has no usable images of class {_some(absent)}; every class needs some in "
                f"{' and '.join(trained)}: add images, or split them anew by `headstart prepare SOURCE DATA --val 0.2`"
            )
    return problems


def too_few(class_names: Sequence[str]) -> str:
    """Return a phrase that names the only class, or says that there is none. `class_names` has at most one name."""
    return f"one class only, {class_names[0]!r}" if class_names else "no classes"


def require_few_rejects(rejects: Sequence[Reject], found: int, max_rejects: float) -> None:
    """Raise a DataError if there are too many rejects; see `too_many_rejects`."""
    if problem := too_many_rejects(rejects, found, max_rejects):
        raise DataError(problem)


def too_many_rejects(rejects: Sequence[Reject], found: int, max_rejects: float) -> str:
    """If there are too many rejects, return a phrase that names the first of them. If not, return "".

    `found` is the number of image files, including the rejects. `max_rejects` is the largest allowed fraction of
    rejects.
    """
    if len(rejects) <= max_rejects * found:
        return ""
    first = "; ".join([f"{one.path} ({one.reason})" for one in rejects[:3]] + ["..."] * (len(rejects) > 3))
    return f"{len(rejects)} of {found} images can't be used, over --max-rejects {max_rejects}: {first}"


def _some(names: Sequence[str]) -> str:
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join([*map(repr, names[:_NAMED]), *more])
