"""The settings of phase 2."""

from dataclasses import dataclass, field
from typing import Literal

from headstart.features.errors import require_options
from headstart.pipeline.head.config import OPTIMIZERS, Optimizer


@dataclass(frozen=True)
class FinetuneConfig:
    """Layers and training of phase 2. `help` is the command line's."""

    from_layer: str = field(
        default="", metadata={"help": "First layer trained: index or name. Default: the backbone's boundary."}
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Step size."})
    momentum: float = field(default=0.9, metadata={"help": "Of sgd and rmsprop."})
    optimizer: Optimizer = field(default="sgd", metadata={"help": "How gradients become steps."})
    epochs: int = field(default=10, metadata={"help": "Passes over the training images."})
    batch_size: int = field(default=16, metadata={"help": "Images a step."})
    augment: Literal["none", "flip", "standard"] = field(
        default="standard", metadata={"help": "Random changes: mirror; or mirror, crop, brightness and contrast."}
    )
    thaw_batchnorm: bool = field(default=False, metadata={"help": "Train batch normalisation too."})
    from_cache: bool = field(
        default=False,
        metadata={"help": "Cache the input of the first trained layer, and train on that; no images are read."},
    )
    views: int = field(
        default=0, metadata={"help": "With --from-cache: cache so many views by --augment; each epoch takes one."}
    )

    def __post_init__(self) -> None:
        require_options(
            ("--learning-rate", self.learning_rate, self.learning_rate > 0, "over 0"),
            ("--optimizer", self.optimizer, self.optimizer in OPTIMIZERS, f"among {', '.join(OPTIMIZERS)}"),
            ("--momentum", self.momentum, 0 <= self.momentum < 1, "at least 0 and under 1"),
            ("--epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("--batch-size", self.batch_size, self.batch_size >= 1, "at least 1"),
            ("--views", self.views, self.views >= 0, "at least 0"),
            ("--views", self.views, self.from_cache or not self.views, "0 without --from-cache"),
            ("--augment", self.augment, self.augment != "none" or not self.views, "another than none with --views"),
        )
