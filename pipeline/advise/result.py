"""The result of `headstart advise`."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from headstart.pipeline.advise.prospect import Prospect
from headstart.pipeline.advise.similarity import Similarity
from rich.table import Table


@dataclass(frozen=True)
class Candidate:
    """How well a candidate tells the classes apart, on images held out from train and val."""

    backbone: str  # a name of a network, or the path of a `.keras` file
    cut: str
    fingerprint: str
    linear_probe: float  # accuracy of logistic regression
    linear_probe_interval: tuple[float, float]  # 95 %
    knn: float  # accuracy of five nearest neighbours
    knn_interval: tuple[float, float]  # 95 %
    loss: float  # of the linear probe, in nats
    logme: float  # see `probe.logme`


@dataclass(frozen=True)
class Advice:
    """The recommendation, and the figures on which it is based."""

    data: str
    images: int  # of train and val, on which the candidates are judged
    candidates: list[Candidate]  # the best first
    options: str  # the options that ask for the features of the first candidate
    confidence: float  # see `Best`
    others: int  # number of other candidates whose accuracy is at least that of the first minus `NEAR`
    gain_of_doubling: float  # accuracy that the probe gained from the second half of the images
    prospect: Prospect
    similarity: Similarity | None  # None without features of EfficientNet-Lite0
    left_out: list[str]  # a line for each store with features of too few images

    @property
    def best(self) -> Candidate:
        """Return the candidate to take."""
        return self.candidates[0]

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        best = self.best
        return {
            "recommendation": {"backbone": best.backbone, "cut": best.cut, "finetune": self.prospect.worthwhile},
            "reason": " ".join(self.reasons()),
            "confidence": self.confidence,
            "candidates": [asdict(one) for one in self.candidates],
            "finetune": self.prospect.fields(),
            "similarity": self.similarity.fields() if self.similarity else None,
            "gain_of_doubling": self.gain_of_doubling,
            "images": self.images,
        }

    def reasons(self) -> Iterator[str]:
        """Yield the sentences that give the recommendation and its reasons."""
        best, error = self.best, 1 - self.best.linear_probe
        low, high = best.linear_probe_interval
        yield (
            f"Take {best.backbone} at {best.cut}: a linear probe is right on {best.linear_probe:.1%} of images "
            f"held out ({low:.1%} to {high:.1%})."
        )
        if len(self.candidates) == 1:
            yield "No other network or cut was judged; --try NAME judges another."
        else:
            alike = f"; {self.others} of the others are within a point of it" if self.others else ""
            yield (
                f"It is within a point of the best of {len(self.candidates)} candidates in {self.confidence:.0%} of "
                f"resamples of the images{alike}."
            )
        verb = "Fine-tune it" if self.prospect.worthwhile else "Keep the head, and don't fine-tune"
        yield f"{verb}: {self.prospect.line()}."
        if error > _LITTLE and self.gain_of_doubling >= _MUCH:
            yield f"More images help: the second half of them brought {100 * self.gain_of_doubling:+.1f} points."

    def lines(self) -> Iterator[Any]:
        """Yield the summary that is printed without `--json`."""
        yield f"judged on {self.images} images of train and val, each while it was held out"
        yield self._table()
        yield from self.left_out
        if self.similarity:
            yield self.similarity.line()
        else:
            yield "how far the images are from ImageNet's is unknown; --try efficientnet_lite0 measures it"
        yield from self.reasons()
        yield f"next: headstart head {self.data} --run RUN {self.options}"

    def _table(self) -> Table:
        table = Table("backbone", "cut", "linear probe", "95 %", "5 nearest", "LogME", box=None)
        names = Counter((one.backbone, one.cut) for one in self.candidates)
        for one in self.candidates:
            cut = one.cut if names[one.backbone, one.cut] == 1 else f"{one.cut} ({one.fingerprint[:12]})"
            low, high = one.linear_probe_interval
            interval = f"{low:.3f} to {high:.3f}"
            table.add_row(one.backbone, cut, f"{one.linear_probe:.4f}", interval, f"{one.knn:.4f}", f"{one.logme:.3f}")
        return table


_LITTLE, _MUCH = 0.02, 0.01  # an error up to the first is little; a gain of doubling from the second on is much
