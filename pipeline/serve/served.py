"""`Served`, the interface of all models that `serve` can answer with, and `ServedRun`, which serves a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from headstart.features.errors import RunError
from headstart.features.images.faults import NO_IMAGE, Fault
from headstart.features.images.formats import Header, completed, inspect_bytes
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.predict.clock import Clock
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.items import Layout
from headstart.pipeline.predict.model import load_answers
from headstart.pipeline.predict.networks import Loaded
from headstart.pipeline.predict.trust import Trust, make_trust
from headstart.pipeline.runs import Run
from headstart.pipeline.runs.choice import choose_model
from headstart.pipeline.serve.config import ServeConfig

Pixels = Sequence[np.ndarray]  # the pixels of one image: an array uint8 [size, size, 3] for each network

_LARGE = 13_000_000  # pixels; decoding such an image takes up to 27 bytes a pixel
_MOST_OFTEN = 10  # most scans of a progressive JPEG with `--max-pixels` pixels; each scan draws all pixels again
SHOWN = 5  # likeliest classes, by default


@dataclass(frozen=True)
class Found:
    """The answer for one image."""

    chances: np.ndarray  # float64 [C], the probabilities
    distance: float | None = None  # the distance from the training images; see `scoring.unlike`
    features: np.ndarray | None = None  # float32 [D]; None if no neighbours can be found by them


class Served(Protocol):
    """The interface of a model that `serve` answers with."""

    @property
    def layout(self) -> Layout:
        """The form of the answers."""

    @property
    def max_pixels(self) -> int:
        """The maximum number of pixels of an image."""

    @property
    def images_per_pass(self) -> int:
        """The maximum number of images in one forward pass."""

    @property
    def passes(self) -> int:
        """The number of forward passes that may run at the same time."""

    def pixels(self, data: bytes, name: str, header: Header) -> Pixels | Fault:
        """Return the pixels of an image, or the fault if the image can't be used.

        `data`, `name` and `header` are the bytes, the name and the header of the image's file. Several threads may call
        this method at the same time.
        """

    def answers(self, images: Sequence[Pixels], number: int) -> Sequence[Found]:
        """Return an answer for each of `images`. There are at most `images_per_pass` images.

        `number`, from 0 to `passes` - 1, says which forward pass to use. Two calls at the same time must have different
        numbers.
        """


@dataclass(frozen=True)
class ServedRun:
    """The model of a run that `serve` answers with."""

    run: Run
    layout: Layout
    trust: Trust
    model: Loaded
    max_pixels: int

    @property
    def images_per_pass(self) -> int:
        """Return the maximum number of images in one forward pass."""
        return self.model.images_per_pass

    @property
    def passes(self) -> int:
        """Return the number of forward passes that may run at the same time."""
        return self.model.passes

    def pixels(self, data: bytes, name: str, header: Header) -> Pixels | Fault:
        """Return the pixels of an image, or the fault if the image can't be used; see `Served`."""
        return pixels_of(data, name, header, self.model.images)

    def answers(self, images: Sequence[Pixels], number: int) -> Sequence[Found]:
        """Return an answer for each of `images`; see `Served`. Raises a RunError if a logit is not finite."""
        features, logits, distances = self.model([np.stack(one) for one in zip(*images, strict=True)], number)
        if not np.isfinite(logits).all():
            raise RunError(f"its {self.layout.model} yields values that are not finite; the weights are damaged")
        rows = zip(self.trust.probabilities(logits), distances, features, strict=True)
        return [Found(chances, distance, row if len(row) else None) for chances, distance, row in rows]


def serve_run(run: Run, config: ServeConfig, places: NetworkPlaces, seed: int) -> ServedRun:
    """Load a model of `run`: the model that `predict` would choose.

    `places` says where the run's store and weights are now. Raises RunError if the weights changed. For other errors,
    see `choose_model`, `make_trust` and `load_answers`.
    """
    asked = PredictConfig(
        model=config.model, threshold=config.threshold, abstain=config.abstain, batch_size=config.batch_size
    )
    choice = choose_model(run, asked.model, asked.threshold)
    trust = make_trust(run, choice, asked)
    answers = load_answers(run, choice, trust, places, asked, seed, Clock())
    top = min(SHOWN, len(run.class_names()))
    layout = Layout(run.class_names(), top, True, answers.choice.model, trust, answers.choice.threshold)
    served = ServedRun(run, layout, trust, answers.model.loaded(), config.max_pixels)
    blank = [np.zeros((one.size, one.size, 3), np.uint8) for one in served.model.images]
    served.answers([blank], 0)  # the first pass takes longer, and raises an error if the reference does not fit
    return served


def pixels_of(data: bytes, name: str, header: Header, configs: Sequence[ImageConfig]) -> Pixels | Fault:
    """Decode an image once for each of `configs`. Return the list of results, or the fault of the image.

    `data` has the bytes of the image's file, `name` is the file's name, and `header` is the result of `usable_header`.
    A result is uint8 [size, size, 3]. If the file has several pages, the first page is taken. `predict` decodes images
    in the same way.
    """
    from headstart.features.images.batches import decoded_bytes, fault_in

    image = ImageFile(name, "", len(data), 0, **vars(completed(data, header)))
    found = [decoded_bytes(data, image, config) for config in configs]
    whole = [pixels for pixels in found if pixels is not None]
    if len(whole) == len(configs):
        return whole
    return fault_in(data, image) or Fault("corrupt", "can't be decoded")


def usable_header(data: bytes, name: str, max_pixels: int) -> Header | Fault:
    """Return the header of an image, or the fault if the image can't be used.

    `data` has the bytes of the image's file, and `name` is the file's name. No pixels are decoded, so the header lacks
    the orientation and the bits in use; see `completed`.
    """
    header = inspect_bytes(data, Path(name).name, max_pixels, decoding=False)
    if not isinstance(header, Header):
        return header or NO_IMAGE
    if header.scans * header.width * header.height > _MOST_OFTEN * max_pixels:
        return Fault("too-large", f"{header.width} x {header.height} pixels, drawn {header.scans} times over")
    return header


def is_large(header: Header) -> bool:
    """Return whether decoding an image takes so much memory that only one such image is decoded at a time."""
    return header.width * header.height > _LARGE
