"""Compare the answers of an export with the answers of its run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from headstart.features.errors import ExportError
from headstart.pipeline.export.config import ModelExportConfig
from headstart.pipeline.export.measure import Measured
from headstart.pipeline.scoring.metrics import interval_text, wilson_interval
from headstart.pipeline.scoring.thresholds import is_second

_MOST = 1e-4  # largest allowed difference of a probability in float32


@dataclass(frozen=True)
class Difference:
    """The differences between the probabilities that two models give to the same images."""

    largest_difference: float
    mean_difference: float
    changed_labels: int

    def __str__(self) -> str:
        return (
            f"probabilities differ by {self.mean_difference:.2g} on average and {self.largest_difference:.2g} at most, "
            f"changed labels: {self.changed_labels}"
        )


@dataclass(frozen=True)
class Comparison:
    """The comparison of an export with its run, on the same val images."""

    images: int
    from_files: Difference  # between the export, on pixels that `preprocess.py` makes, and the run
    same_pixels: Difference  # between the export, on the pixels of the run, and the run: by arithmetic alone
    levels: float  # the largest difference between pixels of `preprocess.py` and of the run, in grey levels
    mean_level: float
    differing: int  # images whose pixels differ
    unreadable: int  # images that `preprocess.py` can't read
    first_unreadable: str  # its path
    why_unreadable: str  # without the path
    accuracy: float  # of the export, from the files
    accuracy_interval: tuple[float, float]
    accuracy_of_run: float
    images_per_second: float  # of the model alone, in batches of 32
    latency: float  # seconds for one image

    def fields(self) -> dict[str, Any]:
        """Return the comparison as fields of the JSON object that `export --json` prints."""
        return {
            "images": self.images,
            **vars(self.from_files),
            "same_pixels": vars(self.same_pixels),
            "preprocessing": {
                "differing": self.differing,
                "largest_level": self.levels,
                "mean_level": self.mean_level,
                "unreadable": self.unreadable,
            },
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "accuracy_of_run": self.accuracy_of_run,
            "images_per_second": self.images_per_second,
            "latency": self.latency,
        }

    def lines(self, named: bool = True) -> Iterator[str]:
        """Yield the lines of a summary. If `named` is false, leave out the path of the first unreadable image."""
        yield f"on {self.images} val images, from their files, against the run: {self.from_files}"
        if self.differing or self.unreadable:
            first = f"{self.first_unreadable}: {self.why_unreadable}" if named else self.why_unreadable
            unread = f", and can't read {self.unreadable} ({first})" if self.unreadable else ""
            yield (
                f"preprocess.py makes other pixels of {self.differing} images, by {self.levels:g} grey levels at most"
                f"{unread}; on the same pixels, {self.same_pixels}"
            )
        else:
            yield "preprocess.py makes the same pixels as the run"
        yield (
            f"accuracy {self.accuracy:.4f} (95 % interval {interval_text(self.accuracy_interval)}), of the run "
            f"{self.accuracy_of_run:.4f}"
        )
        yield f"{self.images_per_second:.1f} images/s in batches of 32; one image takes {1000 * self.latency:.1f} ms"

    def require_close(self, config: ModelExportConfig) -> None:
        """Raise an ExportError if the export differs too much from the run.

        In float32, the export gets the same pixels as the run. No label may change, and no probability may
        change by over 0.0001. In any other precision, the export gets the pixels that `preprocess.py` makes. Its
        accuracy may be lower than the run's by at most `config.tolerance`.

        Also raises an ExportError in these cases:
        - A probability is not finite.
        - `preprocess.py` can read no image.
        """
        asked, found = f"--format {config.format} --precision {config.precision}", self.same_pixels
        if not np.isfinite(found.largest_difference):
            raise ExportError(f"{asked}: yields values that are not finite, so nothing was written")
        if self.unreadable == self.images:
            raise ExportError(
                f"{asked}: preprocess.py can read none of the {self.images} val images ({self.first_unreadable}: "
                f"{self.why_unreadable}), so nothing could be compared, and nothing was written; --images compares "
                "more of them"
            )
        if config.precision == "float32":
            if found.changed_labels or not found.largest_difference <= _MOST:
                raise ExportError(
                    f"{asked}: {found}; float32 may change no label, and no probability by over {_MOST:g}, so nothing "
                    "was written"
                )
            return
        lost = self.accuracy_of_run - self.accuracy
        if not lost <= config.tolerance + 1e-9:
            raise ExportError(
                f"{asked}: accuracy falls from {self.accuracy_of_run:.4f} to {self.accuracy:.4f} on {self.images} val "
                f"images, by more than --tolerance {config.tolerance:g}, so nothing was written"
            )


def compare(run: np.ndarray, measured: Measured, labels: np.ndarray, second_above: float | None) -> Comparison:
    """Compare the answers of an export with those of its run. Both have answered the same N images.

    Args:
        run: the probabilities of the run, float64 [N, C].
        measured: the answers of the export.
        labels: the labels of the images, int64 [N].
        second_above: the probability above which the second of two classes is predicted. With None, the likeliest class
            is predicted.
    """
    read = np.isfinite(measured.levels)
    same = _difference(run, measured.of_decoded, second_above)
    right = _labels(measured.of_files[read], second_above) == labels[read]
    levels = measured.levels[read]
    return Comparison(
        images=len(labels),
        from_files=_difference(run[read], measured.of_files[read], second_above),
        same_pixels=same,
        levels=float(levels.max(initial=0)),
        mean_level=measured.mean_level,
        differing=int((levels > 0).sum()),
        unreadable=int((~read).sum()),
        first_unreadable=measured.unreadable,
        why_unreadable=measured.why_unreadable,
        accuracy=float(right.mean()) if len(right) else 0.0,
        accuracy_interval=wilson_interval(int(right.sum()), max(len(right), 1)),
        accuracy_of_run=float((_labels(run[read], second_above) == labels[read]).mean()) if len(right) else 0.0,
        images_per_second=measured.images_per_second,
        latency=measured.latency,
    )


def _difference(run: np.ndarray, export: np.ndarray, second_above: float | None) -> Difference:
    if not len(run):
        return Difference(0.0, 0.0, 0)
    apart = np.abs(run - export)
    changed = int((_labels(run, second_above) != _labels(export, second_above)).sum())
    return Difference(float(apart.max()), float(apart.mean()), changed)


def _labels(chances: np.ndarray, second_above: float | None) -> np.ndarray:
    return chances.argmax(axis=1) if second_above is None else is_second(chances, second_above).astype(np.int64)
