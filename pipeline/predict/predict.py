"""Predict the classes of any images with a run: as a list, line by line, or into a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.errors import DataError, OptionError
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.terminal import console, progress
from headstart.pipeline.data.trainable import too_many_rejects
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.predict.choice import Choice, choose_model
from headstart.pipeline.predict.clock import Clock
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.items import Item, Layout, Scored
from headstart.pipeline.predict.model import Answers, load_answers
from headstart.pipeline.predict.output import open_output, require_output
from headstart.pipeline.predict.sources import Piece, Sources, find_files, inspected
from headstart.pipeline.predict.written import Written
from headstart.pipeline.runs import Run

_END = (-1, np.empty(0))


@dataclass(frozen=True)
class Prediction:
    """The likeliest class of an image, its probability, and the probabilities of all classes by name."""

    path: str
    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class PredictResult:
    """The predictions in the order of the given paths (the files of a folder are sorted), and the rejected files."""

    predictions: list[Prediction]
    rejects: list[Reject]
    choice: Choice  # which model answered, and why

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return _fields(list(map(asdict, self.predictions)), self.rejects, self.choice)


def _fields(predictions: list[dict[str, Any]], rejects: Sequence[Reject], choice: Choice) -> dict[str, Any]:
    given = {"predictions": predictions, "rejects": list(map(asdict, rejects))}
    return {**given, **choice.fields()}


@dataclass
class Predicting:
    """A command that classifies images when its result is asked for: line by line, or as one JSON object."""

    run: Run
    answers: Answers
    sources: Sources
    config: PredictConfig
    clock: Clock
    rejects: list[Reject] = field(default_factory=list)  # so far, as the next two
    predicted: int = 0
    skipped: int = 0  # images that were done before

    def layout(self) -> Layout:
        """Return what is said of each image on a screen and in JSON."""
        names, choice = self.run.class_names(), self.answers.choice
        return Layout(names, self.config.top, every=True, model=choice.model, threshold=choice.threshold)

    def items(
        self, advance: Callable[[int], None] = lambda count: None, is_done: Callable[[str], bool] = lambda path: False
    ) -> Iterator[Item]:
        """Classify the files in order, without those that are done. Yield each prediction or reject when it is there.

        `advance` receives the number of images, or of files without any, just finished. Raises DataError in the end if
        no file could be used.
        """
        features, extraction = self.run.configs()
        most = self.config.max_pixels or extraction.max_pixels
        for done, others, piece in inspected(self.sources, most, features.pages, is_done):
            self.skipped += done
            advance(done + others)
            for item in _in_order(piece, self.answers):
                if isinstance(item, Reject):
                    self.rejects.append(item)
                else:
                    self.predicted += 1
                advance(1)
                yield item
        if not (self.predicted or self.skipped):
            first = "; ".join(f"{reject.path} ({reject.reason})" for reject in self.rejects[:3])
            raise DataError(f"none of {len(self.sources.files)} files could be used" + (f": {first}" if first else ""))

    def fields(self) -> dict[str, Any]:
        """Classify the images, and return the JSON object that `--json` prints."""
        layout = self.layout()
        with progress("predicting", len(self.sources.files)) as advance:
            predictions = [layout.prediction(item) for item in self.items(advance) if isinstance(item, Scored)]
        return _fields(predictions, self.rejects, self.answers.choice)

    def lines(self) -> Iterator[str]:
        """Classify the images, and yield a line for each as soon as it is there."""
        layout = self.layout()
        # On a terminal the lines themselves show the progress, and a bar would run into them.
        shown = nullcontext(lambda count: None) if sys.stdout.isatty() else None
        with shown or progress("predicting", len(self.sources.files)) as advance:
            for item in self.items(advance):
                yield layout.line(item)
        console.print(self.answers.choice.line())
        console.print(self.clock.line())

    def failure(self) -> DataError | None:
        """Return the error to raise after the predictions are shown, if too many files were rejected."""
        found = self.predicted + len(self.rejects)
        problem = too_many_rejects(self.rejects, found, self.config.max_rejects)
        return DataError(f"{problem}; the others were classified") if problem else None


def predict(
    path: Path,
    sources: Sequence[Path],
    config: PredictConfig = PredictConfig(),
    places: NetworkPlaces = NetworkPlaces(),
    seed: int = 0,
) -> PredictResult:
    """Classify image files, and the images in folders, with the run at `path`; see `predicting`. Return all at once."""
    if config.output:
        raise OptionError("output: `predict` returns predictions; `predict_to_file` writes them")
    begun = predicting(path, sources, config, places, seed)
    layout = begun.layout()
    predictions = [
        Prediction(item.path, label, chance, dict(zip(layout.class_names, item.chances.tolist(), strict=True)))
        for item in begun.items()
        if isinstance(item, Scored)
        for label, chance in layout.likeliest(item.chances)[:1]
    ]
    return PredictResult(predictions, begun.rejects, begun.answers.choice)


def predicting(
    path: Path, sources: Sequence[Path], config: PredictConfig, places: NetworkPlaces = NetworkPlaces(), seed: int = 0
) -> Predicting:
    """Find the files to classify, and load the model of the run at `path` that answers.

    Raises RunError if there is no run, or if the weights changed. Raises DataError if a source does not exist.

    Args:
        sources: image files, and folders of images.
        places: where the run's store and weights are now.
        seed: decides the augmented views.
    """
    run = Run.open(path)
    require_output(config)
    classes = len(run.class_names())
    if config.top > classes:
        raise OptionError(f"--top must be at most {classes}, the classes of {path}. Received: {config.top}")
    choice = choose_model(run, config.model, config.threshold)
    found = find_files(sources, config.listed, config.recursive, distinct=bool(config.output))
    clock = Clock()
    with clock.of("start"):
        import headstart.features.tensorflow  # noqa: F401
    answers = load_answers(run, choice, places, config, seed, clock)
    return Predicting(run, answers, found, config, clock)


def predict_to_file(
    path: Path,
    sources: Sequence[Path],
    config: PredictConfig,
    places: NetworkPlaces = NetworkPlaces(),
    seed: int = 0,
) -> Written:
    """Classify images as `predicting` does, and write each to `config.output` as soon as it is there.

    A DataError is raised if the file exists and `config.append` is false, or if `predict_to_file` did not write it with
    the same model and options.
    """
    begun = predicting(path, sources, config, places, seed)
    answers = begun.answers
    layout = Layout.of(config, begun.run.class_names(), answers.name(), answers.choice.threshold)
    with open_output(config, layout) as output, progress("predicting", len(begun.sources.files)) as advance:
        for item in begun.items(advance, output.is_done):
            output.write(item)
    return Written(
        written=begun.predicted,
        skipped=begun.skipped,
        rejected=len(begun.rejects),
        seconds=begun.clock.seconds(),
        output=str(config.output),
        choice=begun.answers.choice,
        spent=begun.clock.line(),
        problem=begun.failure(),
    )


def _in_order(piece: Piece, answers: Answers) -> Iterator[Item]:
    """Yield a prediction for each image that can be decoded, and a reject for each other file, in the given order."""
    from headstart.features.images.batches import why_undecodable

    images = [one for one in piece if isinstance(one, ImageFile)]
    rows = answers.chances(images) if images else iter(())
    at, chances = next(rows, _END)
    position = -1
    for one in piece:
        if isinstance(one, Reject):
            yield one
            continue
        position += 1
        if at == position:
            yield Scored(one.path, chances)
            at, chances = next(rows, _END)
        else:
            yield why_undecodable(one)
