"""Use a rule to estimate the gain from fine-tuning, and measure the cost of fine-tuning on this machine."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from headstart.features.config import ExtractionConfig
from headstart.features.errors import HeadstartError
from headstart.features.store.fingerprint import Fingerprint
from headstart.features.terminal import console
from headstart.pipeline.advise.candidates import network_of
from headstart.pipeline.advise.similarity import Similarity
from headstart.pipeline.data.examples import Example

Answer = Literal["yes", "perhaps", "no", "unknown"]
WORTHWHILE = 0.01  # the least expected gain in accuracy for which fine-tuning is recommended
_SURE = 1 / 3  # an expected gain is sure if it is at least this share of the gain with many images
EPOCHS = 10  # of `headstart finetune` by default
# Shares of the errors that fine-tuning removes, with many images.
_SHARES = {"near": 0.25, "between": 0.4, "far": 0.55, "unknown": 0.4}
_TOO_DEEP, _LESS_DEEP_SHARE = 0.01, 0.1
_HALF = 2000  # with this many images in train, half of a share is expected
_FORWARD = 3  # a forward pass is three times as fast as training; the frozen layers see val once


@dataclass(frozen=True)
class Prospect:
    """The expected gain and cost of fine-tuning with default settings."""

    answer: Answer  # whether fine-tuning is recommended
    expected_gain: float  # in accuracy
    gain_interval: tuple[float, float]  # a rough interval: from 0 to the gain with many images
    minutes: float | None  # for `EPOCHS` epochs; None if the answer needs no cost, or the network can't be run here
    images_per_second: float | None  # of training; None in the same cases as `minutes`

    def fields(self) -> dict[str, Any]:
        """Return the JSON object of the prospect."""
        return asdict(self)

    def line(self) -> str:
        """Return a sentence that says whether to fine-tune, and what gain and cost to expect."""
        if self.answer == "unknown":
            return "Whether to fine-tune can't be told."
        told = {"yes": "Fine-tune it", "perhaps": "Perhaps fine-tune it", "no": "Keep the head, and don't fine-tune"}
        low, high = (100 * end for end in self.gain_interval)
        cost = "" if self.minutes is None else f", for about {_duration(self.minutes)} on this machine"
        gain = f"{100 * self.expected_gain:+.1f} points ({low:.1f} to {high:.1f}, by a rough rule){cost}"
        return f"{told[self.answer]}: fine-tuning is expected to bring {gain}."


def expected_gain(error: float, images: int, similarity: Similarity | None, too_deep: float) -> tuple[float, float]:
    """Return two gains in accuracy from fine-tuning: the expected gain, and the gain with many images.

    Args:
        error: the error rate of the linear probe, in [0, 1].
        images: the number of training images.
        similarity: how similar the images are to ImageNet's; None if this is unknown.
        too_deep: the accuracy of the network's best cut minus the accuracy of its deepest cut. A positive value is a
            sign that the deepest features are too specialised.

    The gain with many images is `error` times a factor, which comes from a few measurements. The factor is larger if
    the images are less similar to ImageNet's, and if `too_deep` is over 0.01. The expected gain is the gain with many
    images times `images` / (`images` + 2000).
    """
    share = _SHARES[similarity.verdict if similarity else "unknown"] + _LESS_DEEP_SHARE * (too_deep > _TOO_DEEP)
    return error * share * images / (images + _HALF), error * share


def prospect(
    fingerprint: Fingerprint,
    extraction: ExtractionConfig,
    train: Sequence[Example],
    val: int,
    classes: int,
    gains: tuple[float, float],
    better_than_guessing: bool,
) -> Prospect:
    """Return the prospect of fine-tuning the network of `fingerprint`.

    The prospect answers whether fine-tuning is recommended: "yes", "perhaps", "no" or "unknown". The cost of
    fine-tuning is measured only if the answer is "yes" or "perhaps".

    Args:
        train: the examples for training.
        val: the number of images for validation.
        gains: the result of `expected_gain`.
        better_than_guessing: whether the linear probe is surely better than always guessing the largest class. If this
            is false, the answer is "unknown".
    """
    answer = answered(*gains) if better_than_guessing else "unknown"
    speed = _speed(fingerprint, extraction, train, classes) if answer in ("yes", "perhaps") else None
    minutes = (EPOCHS * len(train) + val / _FORWARD) / speed / 60 if speed else None
    return Prospect(answer, gains[0], (0.0, gains[1]), minutes, speed)


def answered(expected: float, most: float) -> Answer:
    """Return whether fine-tuning is recommended: "yes", "perhaps" or "no".

    `expected` and `most` are the two gains that `expected_gain` returns.
    """
    if round(expected, 3) < WORTHWHILE:  # as it is shown
        return "no"
    return "yes" if expected >= _SURE * most else "perhaps"


def _speed(
    fingerprint: Fingerprint, extraction: ExtractionConfig, train: Sequence[Example], classes: int
) -> float | None:
    """Measure the speed of fine-tuning in images per second. If that fails, print the reason and return None."""
    try:
        network = network_of(fingerprint, extraction)
        console.print(f"timing a few steps of fine-tuning {network.backbone.name}")
        from headstart.pipeline.advise.cost import training_speed

        return training_speed(network, train, classes) or None
    except HeadstartError as error:
        console.print(f"the cost of fine-tuning is unknown: {error}")
        return None


def _duration(minutes: float) -> str:
    return f"{60 * minutes:.0f} s" if minutes < 1.5 else f"{minutes:.0f} minutes"
