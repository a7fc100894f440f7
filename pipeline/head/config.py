"""The settings for building and training a head."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from headstart.features.errors import OptionError, require_options
from headstart.features.options import option
from headstart.pipeline.head.own import OwnHead
from headstart.pipeline.scoring.choosing import CHOICES, ChooseBy, canonical

# Adam reads and writes all weights once per step, so an epoch is faster with large batches. But ten epochs of a few
# hundred examples would have too few steps with batches of 512.
SMALLEST_BATCH, _LARGEST_BATCH, _STEPS_AN_EPOCH = 64, 512, 8
Optimizer = Literal["adam", "adamw", "sgd", "rmsprop", "nadam", "adagrad", "lion"]
MOST_EPOCHS = 100_000
HEAD_VERSION = 3  # increase it if the same settings give another head; see `pipeline/sweep/sound.py`
_MOST_UNITS = 1 << 20  # of a layer
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
ClassWeight = Literal["none", "balanced"]
CLASS_WEIGHTS: tuple[ClassWeight, ...] = get_args(ClassWeight)
OWN_HEAD_HELP = "Build the head by your own Keras code: FUNCTION(features, classes) in FILE.py returns the model."


def parse_units(text: str) -> int:
    """Return the number of units of a hidden layer. `text` is this number, or the word `none`, which stands for 0.

    Raises ValueError for any other text.
    """
    try:
        return 0 if text == "none" else int(text)
    except ValueError:
        raise ValueError(f"must be a number, or none. Received: {text}") from None


@dataclass(frozen=True)
class HeadConfig:
    """The settings of a head's layers and of its training."""

    units: tuple[int, ...] = option(
        (1024,), "Units of a hidden layer; repeatable. none gives a linear head.", parser=parse_units
    )
    dropout: float = option(0.3, "Dropout rate after each hidden layer.")
    weight_decay: float = option(0.0, "Decoupled weight decay, as in AdamW.")
    optimizer: Optimizer = option("adam", "Name of a Keras optimizer.")
    learning_rate: float = option(0.0, "Step size; 0 chooses 3e-4 for batches of 64, and 6e-4 for 256.")
    epochs: int = option(10, "Passes over the training examples.")
    batch_size: int = option(0, "Examples per step; 0 chooses 64 to 512 by their number.", flag="--head-batch-size")
    label_smoothing: float = option(0.0, "Weight of the uniform distribution in the target.")
    class_weight: ClassWeight = option("none", "balanced gives rare classes more weight.")
    choose_by: ChooseBy = option("loss", "Figure on val by which an epoch is best. log_loss is loss.")
    own: OwnHead | None = option(None, OWN_HEAD_HELP, flag="--head", parser=str, metavar="FILE.py:FUNCTION")

    def __post_init__(self) -> None:
        object.__setattr__(self, "choose_by", canonical(self.choose_by))
        object.__setattr__(self, "units", () if tuple(self.units) == (0,) else tuple(self.units))
        if self.own:
            self._take_own(self.own)
        units = ", ".join(map(str, self.units))
        fits = all(1 <= one <= _MOST_UNITS for one in self.units)
        require_options(
            ("--units", units, fits, f"from 1 to {_MOST_UNITS}, or none alone"),
            ("--optimizer", self.optimizer, self.optimizer in OPTIMIZERS, f"among {', '.join(OPTIMIZERS)}"),
            ("--dropout", self.dropout, 0 <= self.dropout < 1, "at least 0 and under 1"),
            ("--weight-decay", self.weight_decay, self.weight_decay >= 0, "at least 0"),
            ("--label-smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "at least 0 and under 1"),
            ("--learning-rate", self.learning_rate, self.learning_rate >= 0, "over 0, or 0 to choose"),
            ("--epochs", self.epochs, 1 <= self.epochs <= MOST_EPOCHS, f"from 1 to {MOST_EPOCHS}"),
            ("--class-weight", self.class_weight, self.class_weight in CLASS_WEIGHTS, "none or balanced"),
            ("--choose-by", self.choose_by, self.choose_by in CHOICES, f"among {', '.join(CHOICES)}"),
            ("--head-batch-size", self.batch_size, self.batch_size >= 0, "at least 1, or 0 to choose"),
        )

    def _take_own(self, own: OwnHead | str) -> None:
        """Set the field `own`. The user's own head replaces `units` and `dropout`.

        Before this call, `units` must be its default or empty, and `dropout` must be its default or 0. Otherwise, an
        OptionError is raised.
        """
        object.__setattr__(self, "own", OwnHead.read(own) if isinstance(own, str) else own)
        for flag, value, unset in (("--units", self.units, ((1024,), ())), ("--dropout", self.dropout, (0.3, 0.0))):
            if value not in unset:
                raise OptionError(f"{flag}: {self.own} says which layers there are; leave {flag} out")
        object.__setattr__(self, "units", ())
        object.__setattr__(self, "dropout", 0.0)

    def settings(self) -> dict[str, Any]:
        """Return the settings as a run's `config.json` holds them. The code of a user's own head is not among them."""
        found = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "own"}
        return {**found, "own": self.own.origin()} if self.own else found

    def for_examples(self, count: int) -> HeadConfig:
        """Return a copy in which a batch size or learning rate of 0 is replaced by a value for `count` examples.

        The chosen learning rate grows with the square root of the batch size, because the standard deviation of the
        gradient falls with this square root (Krizhevsky 2014, arXiv:1404.5997).
        """
        fitting = 1 << max(count // _STEPS_AN_EPOCH, 1).bit_length() - 1  # rounded down to a power of two
        batch_size = self.batch_size or min(max(fitting, SMALLEST_BATCH), _LARGEST_BATCH)
        rate = self.learning_rate or 3e-4 * math.sqrt(batch_size / SMALLEST_BATCH)
        return replace(self, batch_size=batch_size, learning_rate=rate)
