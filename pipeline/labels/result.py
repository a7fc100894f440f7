"""The results of `headstart labels`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.pipeline.data.examples import Example

_SHOWN = 10  # the summary has at most this many likely label errors


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong."""

    example: Example
    name: str  # its path, relative to DATA or to the folder of the list
    label: str
    suggested: str | None  # perhaps the right class; None in a conflict where `label` is the most probable
    score: float  # probability of `label`, in [0, 1], by a model that was fitted without this image
    conflict: int | None = None  # number, from 1, of its group of copies with different labels

    def fields(self) -> dict[str, Any]:
        """Return the JSON object of this image: its path, label, suggested label and score."""
        return {"path": self.name, "label": self.label, "suggested": self.suggested, "score": self.score}


@dataclass(frozen=True)
class FoundLabels:
    """The likely label errors of a data set."""

    data: Path
    reading: list[str]  # lines that say how the data were read
    examples: int  # images that were examined
    untouched: int  # images of the test split, which are not examined
    issues: list[Suspect]  # likely label errors, the least probable label first
    conflicts: list[list[Suspect]]  # groups of copies and near-duplicates with different labels
    agreeing: dict[str, list[Example]] = field(default_factory=dict)  # by an issue's name; see `nearest_agreeing`
    csv: Path | None = None  # the files that were written
    html: Path | None = None
    sample: int | None = None  # images that each model was fitted to, if memory does not hold all

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {
            "examples": self.examples,
            "untouched": self.untouched,
            "issues": [issue.fields() for issue in self.issues],
            "conflicts": [[one.fields() for one in group] for group in self.conflicts],
            "applied": 0,
            **({} if self.sample is None else {"sample": self.sample}),
            **{name: str(file) for name, file in (("csv", self.csv), ("html", self.html)) if file},
        }

    def rows(self) -> list[Suspect]:
        """Return the likely label errors, and then all other images that are in a conflict.

        A conflict is a group of copies or near-duplicates with different labels.
        """
        known = {issue.name for issue in self.issues}
        return [*self.issues, *(one for group in self.conflicts for one in group if one.name not in known)]

    def told(self) -> str:
        """Return a sentence with the numbers of likely label errors, of examined images, and of test images."""
        test = f"; the {self.untouched:,} of the test split are left alone" if self.untouched else ""
        return f"{len(self.issues):,} likely label errors among {self.examples:,} images{test}"

    def told_conflicts(self) -> str:
        """Return a line with the number of conflicts, and with the number of images in them.

        A conflict is a group of copies or near-duplicates with different labels.
        """
        images, more = sum(map(len, self.conflicts)), len(self.rows()) - len(self.issues)
        return (
            f"{len(self.conflicts):,} groups of copies or near-duplicates have different labels: {images:,} images, "
            f"{images - more:,} of them among the likely errors"
        )

    def lines(self) -> Iterator[str]:
        """Yield the summary that is printed without `--json`."""
        yield self.told()
        if self.sample:
            yield f"each model was fitted to a sample of at most {self.sample:,} images, for memory does not hold all"
        for issue in self.issues[:_SHOWN]:
            yield f"  {issue.name}: {issue.label}, perhaps {issue.suggested} (score {issue.score:.3f})"
        if len(self.issues) > _SHOWN:
            yield f"  and {len(self.issues) - _SHOWN:,} more"
        if self.conflicts:
            yield self.told_conflicts()
        if self.html:
            yield f"the page is {self.html}"
        if self.csv:
            yield f"{self.csv} has {len(self.rows()):,} images; edit its column `action`, and then --apply {self.csv}"
        if self.rows() and not (self.csv or self.html):
            yield "look at them with --html FILE; edit the column `action` of --csv FILE, and then --apply it"
        elif self.rows() and not self.csv:
            yield "to change labels, edit the column `action` of --csv FILE, and then --apply it"


@dataclass(frozen=True)
class Changed:
    """What `--apply` or `--undo` changed, and the log."""

    examples: int  # images of DATA after the changes, in all splits
    applied: int  # images whose label was changed, or that were put aside
    undone: int  # changes that were undone
    log: Path | None  # the log from which --undo restores the labels, if there is one
    told: str  # the outcome in one sentence

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {
            "examples": self.examples,
            "issues": [],
            "applied": self.applied,
            "undone": self.undone,
            "log": str(self.log) if self.log else None,
        }

    def lines(self) -> Iterator[str]:
        """Yield the summary that is printed without `--json`."""
        yield self.told
        if self.log:
            yield f"--undo {self.log} takes the changes back"
