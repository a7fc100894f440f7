"""The result of `predict --output`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headstart.features.errors import DataError
from headstart.pipeline.runs.choice import Choice


@dataclass(frozen=True)
class Written:
    """A summary of the predictions that a command wrote to a file."""

    written: int  # predictions that this command wrote
    skipped: int  # images and rejects that the file already had
    rejected: int  # files or pages that can't be used; their rows have the reason
    seconds: dict[str, float]  # see `Clock`
    output: str
    choice: Choice
    spent: str  # see `Clock.line`
    problem: DataError | None  # the error to raise in the end, if too many files were rejected

    @property
    def images_per_second(self) -> float:
        """Return the number of images classified per second.

        The time to start TensorFlow and to load the network does not count.
        """
        return self.written / self.seconds["images"] if self.written else 0.0

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {
            "written": self.written,
            "skipped": self.skipped,
            "rejected": self.rejected,
            "seconds": sum(self.seconds.values()),
            "images_per_second": self.images_per_second,
            "output": self.output,
            **self.choice.fields(),
            "spent": self.seconds,
        }

    def lines(self) -> Iterator[str]:
        """Yield the summary that is printed without `--json`."""
        skipped = f", {self.skipped} were there already" if self.skipped else ""
        yield (
            f"{self.written} predictions and {self.rejected} rejects written to {self.output}{skipped} "
            f"({self.images_per_second:.1f} images/s)"
        )
        yield self.choice.line()
        yield self.spent

    def failure(self) -> DataError | None:
        """Return an error if too many files were rejected, else None. The caller raises it after the summary."""
        return self.problem
