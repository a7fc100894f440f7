"""The result of `headstart advise`."""

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from headstart.pipeline.advise.probe import Gain
from headstart.pipeline.advise.prospect import Prospect
from headstart.pipeline.advise.similarity import Similarity
from headstart.pipeline.scoring.simple_models import SimpleModels
from rich.table import Table


@dataclass(frozen=True)
class Candidate:
    """How well the features of a network at a cut tell the classes apart, in cross-validation on train and val."""

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
    candidates: list[Candidate]  # in the order of `Best.order`: the recommended one first
    alike: int  # number of candidates, the first included, whose accuracy is not significantly below the best
    by_default: bool  # whether the first one was taken because its cut is the default one
    options: str  # the options that ask for the features of the first candidate
    confidence: float  # see `Best`; 0 if the first candidate is not surely better than always the largest class
    guessing: SimpleModels  # the share of the largest class
    gain_of_doubling: Gain  # accuracy that the probe gained from the second half of the images
    prospect: Prospect
    similarity: Similarity | None  # None without features of EfficientNet-Lite0
    notes: list[str]  # see `Candidates`

    @property
    def best(self) -> Candidate:
        """Return the recommended candidate."""
        return self.candidates[0]

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        best, gain = self.best, self.gain_of_doubling
        return {
            "recommendation": {"backbone": best.backbone, "cut": best.cut, "finetune": self.prospect.answer == "yes"},
            "reason": " ".join(self.reasons()),
            "confidence": self.confidence,
            "candidates": [asdict(one) for one in self.candidates],
            "largest_class": self.guessing.largest_class,
            "largest_class_share": self.guessing.largest_class_share,
            "finetune": self.prospect.fields(),
            "similarity": self.similarity.fields() if self.similarity else None,
            "gain_of_doubling": gain.value,
            "gain_of_doubling_interval": [gain.low, gain.high],
            "images": self.images,
        }

    def reasons(self) -> Iterator[str]:
        """Yield the sentences that give the recommendation and its reasons."""
        best, share, name = self.best, self.guessing.largest_class_share, self.guessing.largest_class
        low, high = best.linear_probe_interval
        right = f"a linear probe is right on {best.linear_probe:.1%} of images held out ({low:.1%} to {high:.1%})"
        if not self.guessing.is_beaten_by(best.linear_probe_interval):
            yield (
                f"No network or cut can be recommended: with {best.backbone} at {best.cut}, {right}, which is not "
                f"surely better than always saying `{name}` ({share:.1%}). Check the labels, add images, or --try "
                "another network."
            )
            yield self.prospect.line()
            return
        yield f"Take {best.backbone} at {best.cut}: {right}; always saying `{name}` is right on {share:.1%}."
        yield self._compared()
        yield self.prospect.line()
        gain = self.gain_of_doubling
        if 1 - best.linear_probe > _LITTLE and gain.value >= _MUCH and gain.low > 0:
            points = f"{100 * gain.value:+.1f} points ({100 * gain.low:.1f} to {100 * gain.high:.1f})"
            yield f"More images help: the second half of them brought {points}."

    def _compared(self) -> str:
        """Return sentences that compare the recommended candidate with the others."""
        best, *others = self.candidates
        if not others:
            return "No other network or cut was judged; --try NAME judges another."
        count = len(self.candidates)
        sure = f"The chance that it is within a point of the best of {count} candidates is {self.confidence:.0%}."
        top = max(others, key=lambda one: one.linear_probe)
        ahead = (
            f"{top.backbone} at {top.cut} is right on {100 * (top.linear_probe - best.linear_probe):.1f} points more"
        )
        if self.by_default:
            return f"No candidate is surely better, so it is the default cut. {sure}"
        if top.linear_probe > best.linear_probe:
            losses = f"its loss is higher ({top.loss:.3f}, not {best.loss:.3f})"
            return f"{ahead}, which is equal within chance, and {losses}. {sure}"
        alike = self.alike - 1
        if not alike:
            return f"It is the most accurate. {sure}"
        equal = "1 other is" if alike == 1 else f"{alike} others are"
        return f"{equal} equal to it within chance, with a higher loss. {sure}"

    def lines(self) -> Iterator[Any]:
        """Yield the summary that is printed without `--json`."""
        yield f"judged on {self.images} images of train and val, each while it was held out"
        yield self._table()
        yield from self.notes
        if self.similarity:
            yield self.similarity.line()
        else:
            yield "how far the images are from ImageNet's is unknown; --try efficientnet_lite0 measures it"
        yield from self.reasons()
        if self.prospect.answer == "unknown":
            return
        yield f"next: headstart head {shlex.quote(self.data)} --run RUN {self.options}"
        if self.prospect.answer != "no":
            yield "next: headstart finetune RUN"

    def _table(self) -> Table:
        heads = "", "backbone", "cut", "probe", "95 %", "loss", "5 nearest", "LogME"
        table = Table(*heads, box=None, pad_edge=False)
        names = Counter((one.backbone, one.cut) for one in self.candidates)
        for one in self.candidates:
            cut = one.cut if names[one.backbone, one.cut] == 1 else f"{one.cut} ({one.fingerprint[:12]})"
            low, high = one.linear_probe_interval
            figures = f"{one.linear_probe:.4f}", f"{low:.3f}-{high:.3f}", f"{one.loss:.3f}", f"{one.knn:.4f}"
            chosen = one is self.best and self.prospect.answer != "unknown"
            table.add_row("*" if chosen else "", one.backbone, cut, *figures, f"{one.logme:.3f}")
        return table


_LITTLE, _MUCH = 0.02, 0.01  # an error is little up to the first; a gain of doubling is much from the second on
