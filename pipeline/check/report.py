"""The findings of `headstart check`, for scripts and for people."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headstart.features.errors import DataError, HeadstartError
from headstart.pipeline.check.config import CheckConfig
from headstart.pipeline.data.examples import Example, Scan
from headstart.pipeline.data.similar import CORRELATION
from headstart.pipeline.data.splits import COPIES, SPLITS
from headstart.pipeline.near_duplicates import Likeness
from rich.table import Table
from rich.text import Text

WITHOUT = "(without a class)"  # stands for the class of images without a label
SHOWN = 5  # at most this many findings of each kind, and files of each finding, are printed


@dataclass(frozen=True, kw_only=True)
class CheckResult(Scan):
    """The examples and rejects of a data folder, and the findings of `check`."""

    data: Path
    config: CheckConfig
    classes: dict[str, dict[str, int]]  # class name to split to number of examples
    problems: list[str]  # reasons why `head` will refuse the folder
    reading: list[str] = field(default_factory=list)  # how the folder was read
    duplicates: list[list[Example]]  # copies in one class and split
    conflicts: list[list[Example]]  # copies in several classes
    leaks: list[list[Example]]  # copies in several splits
    near_duplicates: list[Likeness] | None  # None without features
    store: Path | None  # folder of the features used for near-duplicates
    compared: int  # images that have features
    tiny: list[Example]

    @property
    def splits(self) -> dict[str, int]:
        """Return the number of examples in each split."""
        counts = Counter(example.split for example in self.examples)
        return {split: counts[split] for split in SPLITS}

    @property
    def unlabelled(self) -> dict[str, int]:
        """Return, for each split, the number of its examples without a class."""
        counts = Counter(example.split for example in self.examples if example.label < 0)
        return {split: counts[split] for split in SPLITS}

    def class_of(self, example: Example) -> str | None:
        """Return the name of an example's class. Return None if the example has no class."""
        return self.class_names[example.label] if example.label >= 0 else None

    @property
    def reasons(self) -> dict[str, int]:
        """Return the number of rejects for each reason, the most frequent first."""
        return dict(Counter(reject.reason for reject in self.rejects).most_common())

    @property
    def formats(self) -> dict[str, int]:
        """Return the number of examples in each image format, the most frequent first."""
        return dict(Counter(example.image.format for example in self.examples).most_common())

    @property
    def sizes(self) -> dict[str, list[float]]:
        """Map `width` and `height` to their minimum, median and maximum, in pixels, before any EXIF rotation.

        If there are no examples, the dict is empty.
        """
        sides = {name: [getattr(one.image, name) for one in self.examples] for name in ("width", "height")}
        return {name: [min(side), statistics.median(side), max(side)] for name, side in sides.items() if side}

    @property
    def imbalance(self) -> tuple[int, int, float | None]:
        """Return three things: the size of the largest class, the size of the smallest class, and the ratio of the two.

        The size of a class is its number of training examples. If the smallest class has size 0, the ratio is None.
        """
        counts = [count["train"] for count in self.classes.values()] or [0]
        return max(counts), min(counts), max(counts) / min(counts) if min(counts) else None

    def facts(self) -> list[str]:
        """Return lines of text about formats, sizes, imbalance, rejects and the search for near-duplicates."""
        lines = []
        if self.examples:
            sizes = (f"{name} {low:g} to {high:g}, median {mid:g}" for name, (low, mid, high) in self.sizes.items())
            lines.append(f"{_counted(self.formats)}; {', '.join(sizes)} pixels")
        if low := sum(0 < example.image.bits < 16 for example in self.examples):
            lines.append(f"{low} images hold 8 to 15 bits in samples of 16; --bits auto brings them to full range")
        if several := sum(example.image.pages > 1 for example in self.examples):
            lines.append(f"{several} images are TIFFs of several pages; --pages all takes each page")
        largest, smallest, ratio = self.imbalance
        if ratio is not None and ratio >= self.config.imbalance:
            lines.append(f"imbalanced: {largest} images in train of the largest class, {smallest} of the smallest")
        reasons = f" ({_counted(self.reasons)})" if self.reasons else ""
        lines.append(f"{len(self.rejects)} rejected{reasons}, {self.ignored} other files ignored")
        if self.near_duplicates is None:
            lines.append(f"near-duplicates: not looked for, {self.config.store} has no features of these images")
        else:
            images = len({example.image.digest for example in self.examples})
            lines.append(f"near-duplicates: looked for among {self.compared} of {images} images, by {self.store}")
        return lines

    def findings(self) -> dict[str, list[list[Example]]]:
        """Map the title of each kind of finding, such as leaks, to the findings of this kind.

        A finding is a list of examples. Kinds without findings are left out.
        """
        near = (
            f"near-duplicates across splits (cosine of whitened features at least {self.config.similarity:g}, "
            f"correlation of pixels at least {CORRELATION:g})"
        )
        found = {
            "leaks (the same image in several splits)": self.leaks,
            "conflicting labels (the same image in several classes)": self.conflicts,
            near: [[pair.image, pair.like] for pair in self.near_duplicates or []],
            "duplicates (the same image again in its class and split)": self.duplicates,
            f"tiny (a side under {self.config.tiny} pixels)": [[example] for example in self.tiny],
        }
        return {title: groups for title, groups in found.items() if groups}

    def fields(self) -> dict[str, Any]:
        """Return the JSON object. Its `similarity` and `correlation` are the thresholds for near-duplicates."""
        near = self.near_duplicates
        return {
            "reading": self.reading,
            "problems": self.problems,
            "examples": len(self.examples),
            "classes": self.classes,
            "splits": self.splits,
            "rejected": len(self.rejects),
            "reasons": self.reasons,
            "ignored": self.ignored,
            "duplicates": self._groups(self.duplicates),
            "conflicts": self._groups(self.conflicts),
            "leaks": self._groups(self.leaks),
            "near_duplicates": None if near is None else [self._pair(pair) for pair in near],
            "similarity": self.config.similarity,
            "correlation": CORRELATION,
            "features": None if self.store is None else str(self.store),
            "formats": self.formats,
            "sizes": self.sizes,
            "tiny": [self._file(example) for example in self.tiny],
            "imbalance": dict(zip(("largest", "smallest", "ratio"), self.imbalance, strict=True)),
            "rejects": [asdict(reject) for reject in self.rejects],
        }

    def _file(self, example: Example) -> dict[str, str | None]:
        return {"path": example.image.path, "label": self.class_of(example), "split": example.split}

    def _shown(self, example: Example) -> str:
        place = ", ".join(filter(None, (example.split, self.class_of(example))))
        return f"{example.image.path} ({place})"

    def _groups(self, groups: Sequence[Sequence[Example]]) -> list[dict[str, Any]]:
        return [{"digest": group[0].image.digest, "files": list(map(self._file, group))} for group in groups]

    def _pair(self, pair: Likeness) -> dict[str, Any]:
        files = [self._file(pair.image), self._file(pair.like)]
        return {"cosine": pair.cosine, "correlation": pair.correlation, "files": files}

    def lines(self) -> list[Any]:
        """Return the summary for a person: how the folder was read, what is wrong, and counts."""
        reading = [line for line in self.reading if not (self.leaks and COPIES in line)]  # leaks are listed below
        lines: list[Any] = [*reading, *(f"training refuses: {problem}" for problem in self.problems)]
        for title, groups in self.findings().items():
            lines.append(f"{title}: {len(groups)}")
            lines += [f"  {', '.join(map(self._shown, group[:SHOWN]))}" for group in groups[:SHOWN]]
            lines += _more(len(groups))
        if not (self.problems or self.findings()):
            rejected = f" but for {len(self.rejects)} images that can't be used" if self.rejects else ""
            lines.append(f"nothing wrong was found{rejected}")
        lines += [self._counts(), *self.facts()]
        lines += [f"  {reject.path}: {reject.reason}, {reject.detail}" for reject in self.rejects[:SHOWN]]
        lines += _more(len(self.rejects))
        if self.config.html:
            lines.append(f"thumbnails are in {self.config.html}")
        return lines

    def _counts(self) -> Table:
        table = Table("class", *SPLITS, "all", title=Text(f"{len(self.examples)} images in {self.data}"))
        rows = list(self.classes.items())
        rows += [(WITHOUT, self.unlabelled)] if any(self.unlabelled.values()) else []
        for name, counts in rows:
            table.add_row(Text(name), *map(str, counts.values()), str(sum(counts.values())))
        table.add_row("all", *map(str, self.splits.values()), str(len(self.examples)), style="bold")
        return table

    def failure(self) -> HeadstartError | None:
        """Return an error that names everything that is wrong: problems, leaks, conflicts and near-duplicates.

        Return None if nothing is wrong, or if `--allow` is set.
        """
        near = len(self.near_duplicates or [])
        advice = "`headstart prepare --group near-duplicates` keeps such together, `--drop-duplicates` leaves them out"
        wrong = [
            *self.problems,
            *([f"{len(self.leaks)} images in several splits"] if self.leaks else []),
            *([f"{len(self.conflicts)} images in several classes"] if self.conflicts else []),
            *([f"{near} near-duplicates across splits ({advice})"] if near else []),
        ]
        if self.config.allow or not wrong:
            return None
        return DataError(f"{self.data}: {'; '.join(wrong)}; mend this, or --allow it")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _more(count: int) -> list[str]:
    return [f"  and {count - SHOWN} more"] if count > SHOWN else []
