"""Choose the examples to score in `evaluate`, and the names under which the result is kept."""

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from headstart.features.digests import HexDigests
from headstart.features.errors import DataError, RunError
from headstart.pipeline.data.examples import Examples
from headstart.pipeline.featured import FeaturedExamples
from headstart.pipeline.runs import Run

_NAME_LENGTH = 60  # characters of a folder's name within a file's name


@dataclass(frozen=True)
class Taken:
    """The examples to score: a split of the run's own data, or of other data."""

    split: str
    examples: Examples  # labels are indices into the run's class names
    elsewhere: Path | None = None  # the data, unless they are the run's own
    whole: bool = False  # whether all examples were taken because the data have no splits
    mark: str = ""  # follows the folder's name in file names, if other data of that name were scored before

    @property
    def scored(self) -> str:
        """Return a phrase that names the examples, such as `test` or `all of holdout (no splits)`."""
        where = f" of {_name(self.elsewhere)}" if self.elsewhere else ""
        return f"{self.split}{where}{' (no splits)' if self.whole else ''}"

    @property
    def key(self) -> str:
        """Return the key that the metrics get in the object `evaluate` of `metrics.json`.

        For the run's own data, the key is the split. For other data, the key is the split and the path of the data.
        """
        return f"{self.split} of {self.elsewhere}" if self.elsewhere else self.split

    @property
    def stem(self) -> str:
        """Return the text that names these examples in file names, such as `test` in `predictions-test.csv`.

        For the run's own data, this text is the split. For other data, this text never equals the name of a split.
        """
        if self.elsewhere is None:
            return self.split
        safe = re.sub(r"[^\w.-]+", "_", _name(self.elsewhere))
        return f"{safe[:_NAME_LENGTH]}{self.mark}-{self.split}"


def take(run: Run, cached: FeaturedExamples, split: str, data: Path | None) -> Taken:
    """Return the examples of `split`, which are to be scored.

    Args:
        cached: all examples of `data`.
        data: the folder or list that the user named, or None for the run's own data. A folder or list counts as the
            run's own data if its train split holds at least half of the run's training images.
        split: the name of a split, `all`, or `auto`. If the data are not the run's own and have no splits, `auto` means
            `all`. In all other cases, `auto` means `test`.

    Raises:
        DataError: there are no examples, or the data have a class that the run does not know.
        RunError: `data` is None, and `cached` holds under half of the run's training images.
    """
    own = is_own(run, cached.of("all" if data is None else "train"))
    if data is None and not own:
        raise RunError(
            f"{run.path}: {run.config()['data']} holds under half of the images that it was trained on, so these are "
            "other data; say with --data which to score"
        )
    elsewhere = None if own else data
    whole = split == "auto" and elsewhere is not None and not cached.has_splits
    if split == "auto":
        split = "all" if whole else "test"
    where = str(data or run.config()["data"])
    return _distinct(Taken(split, _labelled(cached, split, run.class_names(), where), elsewhere, whole), run)


def _distinct(taken: Taken, run: Run) -> Taken:
    """Return `taken` itself, or a copy of `taken` in which the field `mark` is set.

    The field is set if the predictions would otherwise overwrite the predictions for other data.
    """
    file = run.predictions_file(taken.stem).name
    kept = run.metrics().get("evaluate", {}).items()
    if taken.elsewhere is None or not any(key != taken.key and of.get("predictions_file") == file for key, of in kept):
        return taken
    return replace(taken, mark=f"-{hashlib.sha256(os.fsencode(taken.elsewhere.resolve())).hexdigest()[:6]}")


def is_own(run: Run, examples: Examples) -> bool:
    """Return whether `examples` include at least half of the run's training images."""
    trained = run.digests("train")
    return 2 * len(trained.intersection(HexDigests(examples.digests))) >= len(trained)


def _name(data: Path) -> str:
    return data.name or data.resolve().name or "root"


def _labelled(cached: FeaturedExamples, split: str, class_names: list[str], where: str) -> Examples:
    if unknown := sorted(set(cached.class_names) - set(class_names)):
        names = ", ".join(map(repr, unknown))
        raise DataError(f"{where}: the run knows no class {names}; it has {', '.join(class_names)}")
    examples = cached.of(split)
    if not examples:
        raise DataError(f"{where}: the {split} split has no usable images; choose another --split")
    number_of = np.array([class_names.index(name) for name in cached.class_names], np.int32)
    return replace(examples, labels=number_of[examples.labels])
