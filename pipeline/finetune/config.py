"""The settings of phase 2, fine-tuning."""

from dataclasses import dataclass
from typing import Literal

from headstart.features.errors import require_options
from headstart.features.options import option
from headstart.pipeline.head.config import OPTIMIZERS, Optimizer


@dataclass(frozen=True)
class FinetuneConfig:
    """The settings of fine-tuning: the layers to train, and how to train them."""

    from_layer: str = option("", "First layer to train: index or name. The default depends on backbone and cut.")
    learning_rate: float = option(1e-4, "Step size.")
    momentum: float = option(0.9, "Momentum of sgd and rmsprop.")
    optimizer: Optimizer = option("sgd", "Name of a Keras optimizer.")
    epochs: int = option(10, "Passes over the training images.")
    batch_size: int = option(16, "Images per step.")
    augment: Literal["none", "flip", "standard"] = option(
        "standard", "flip mirrors at random; standard also varies crop, brightness and contrast."
    )
    thaw_batchnorm: bool = option(False, "Train batch normalisation too.")
    from_cache: bool = option(False, "Cache the input of the first trained layer. Train on the cache, not on images.")
    views: int = option(0, "With --from-cache: augmented views of each image to cache; each epoch uses one.")

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
