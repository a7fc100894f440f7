"""The settings of phase 2, fine-tuning."""

from dataclasses import dataclass
from typing import Literal, get_args

from headstart.features.errors import require_options
from headstart.features.options import option
from headstart.pipeline.head.config import OPTIMIZERS, Optimizer
from headstart.pipeline.scoring.choosing import CHOICES, ChooseBy

Schedule = Literal["constant", "cosine"]
ClassWeight = Literal["auto", "none", "balanced"]


@dataclass(frozen=True)
class FinetuneConfig:
    """The settings of fine-tuning: the layers to train, and how to train them."""

    from_layer: str = option("", "First layer to train: index or name. The default depends on backbone and cut.")
    learning_rate: float = option(1e-4, "Step size.")
    schedule: Schedule = option("constant", "cosine lowers the step size to 0 over all epochs.")
    warmup: int = option(0, "Number of steps over which the step size rises from 0.")
    momentum: float = option(0.9, "Momentum of sgd and rmsprop.")
    optimizer: Optimizer = option("sgd", "Name of a Keras optimizer.")
    clip_norm: float = option(0.0, "Largest norm of all gradients together; 0 sets no limit.")
    epochs: int = option(10, "Passes over the training images. Epochs of earlier calls count.")
    patience: int = option(3, "Stop after this many epochs without a better one; 0 never stops early.")
    choose_by: Literal["auto", ChooseBy] = option(
        "auto", "Figure on val that decides the best epoch; auto: as for the head."
    )
    batch_size: int = option(16, "Images per step.")
    label_smoothing: float = option(0.0, "Weight of the uniform distribution in the target.")
    class_weight: ClassWeight = option("auto", "balanced gives rare classes more weight; auto: as for the head.")
    augment: Literal["none", "flip", "standard"] = option(
        "standard", "flip mirrors at random; standard also varies crop, brightness and contrast."
    )
    thaw_batchnorm: bool = option(False, "Train batch normalisation too.")
    from_cache: bool = option(False, "Cache the input of the first trained layer. Train on the cache, not on images.")
    views: int = option(0, "With --from-cache: augmented views of each image to cache; each epoch uses one.")

    def __post_init__(self) -> None:
        weights, figures = get_args(ClassWeight), ("auto", *CHOICES)
        require_options(
            ("--learning-rate", self.learning_rate, self.learning_rate > 0, "over 0"),
            ("--schedule", self.schedule, self.schedule in get_args(Schedule), "among constant, cosine"),
            ("--warmup", self.warmup, self.warmup >= 0, "at least 0"),
            ("--optimizer", self.optimizer, self.optimizer in OPTIMIZERS, f"among {', '.join(OPTIMIZERS)}"),
            ("--momentum", self.momentum, 0 <= self.momentum < 1, "at least 0 and under 1"),
            ("--clip-norm", self.clip_norm, self.clip_norm >= 0, "at least 0"),
            ("--epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("--patience", self.patience, self.patience >= 0, "at least 0"),
            ("--choose-by", self.choose_by, self.choose_by in figures, f"among {', '.join(figures)}"),
            ("--batch-size", self.batch_size, self.batch_size >= 1, "at least 1"),
            ("--label-smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "at least 0 and under 1"),
            ("--class-weight", self.class_weight, self.class_weight in weights, f"among {', '.join(weights)}"),
            ("--views", self.views, self.views >= 0, "at least 0"),
            ("--views", self.views, self.from_cache or not self.views, "0 without --from-cache"),
            ("--augment", self.augment, self.augment != "none" or not self.views, "another than none with --views"),
        )
