"""The settings of `predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headstart.features.errors import OptionError, require_options
from headstart.features.options import option

SUFFIXES = (".csv", ".jsonl", ".parquet")
MOST_VIEWS = 1000
AskedModel = Literal["auto", "head", "finetuned"]  # auto: see `choose_model`


@dataclass(frozen=True)
class PredictConfig:
    """The settings of `predict`: the images, the model and the output. A wrong value raises an OptionError."""

    model: AskedModel = option(
        "auto",
        "The model that answers. auto: the fine-tuned classifier where fine-tuning gained on val, else the head.",
    )
    top: int = option(1, "Number of likeliest classes to show for each image.")
    abstain: float = option(0.0, "Answers with a lower probability are unsure. 0: none are.")
    conformal: float = option(
        0.0, "Give the set of labels that misses the true one in this share of images, such as 0.05. 0: no sets."
    )
    probabilities: Literal["auto", "all", "none"] = option(
        "auto", "Probabilities of all classes in --output. auto: if the run has at most 30 classes."
    )
    threshold: float | None = option(
        None, "Probability above which the positive of two classes is predicted. By default, that of the run, or 0.5."
    )
    views: int = option(1, "Average over each image as it is and this number, less one, of augmented views.")
    recursive: bool = option(True, "Whether to read folders within folders.", flag="--recursive/--no-recursive")
    listed: Path | None = option(
        None, "File of paths, one a line or ended by NUL; - is standard input.", flag="--from", metavar="FILE"
    )
    output: Path | None = option(None, "Write predictions to this .csv, .jsonl or .parquet file as they are made.")
    append: bool = option(False, "Go on with an --output that was begun before.", flag="--append")
    batch_size: int = option(0, "Images per forward pass. 0: chosen as for `headstart features`.")
    max_pixels: int = option(0, "Images with more pixels are rejected. 0: the limit of the run.")
    max_rejects: float = option(0.05, "Fraction of images that may be unusable.")

    def __post_init__(self) -> None:
        require_options(
            ("--top", self.top, self.top >= 1, "at least 1"),
            ("--abstain", self.abstain, 0 <= self.abstain <= 1, "from 0 to 1"),
            ("--conformal", self.conformal, 0 <= self.conformal < 1, "at least 0 and under 1"),
            ("--threshold", self.threshold, self.threshold is None or 0 < self.threshold < 1, "over 0 and under 1"),
            ("--views", self.views, 1 <= self.views <= MOST_VIEWS, f"from 1 to {MOST_VIEWS}"),
            ("--batch-size", self.batch_size, self.batch_size >= 0, "at least 0"),
            ("--max-pixels", self.max_pixels, self.max_pixels >= 0, "at least 1, or 0"),
            ("--max-rejects", self.max_rejects, 0 <= self.max_rejects <= 1, "from 0 to 1"),
            ("--output", self.output, not self.output or self.output.suffix.lower() in SUFFIXES, _NAMES),
        )
        if self.conformal and self.views > 1:
            raise OptionError("--conformal: holds for images as they are; leave --views out")
        if self.append and not self.output:
            raise OptionError("--append: goes on with a file; name it with --output")


_NAMES = f"a file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
