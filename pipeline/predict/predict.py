"""Use a run to classify any images. The predictions are returned as a list, yielded as lines, or written to a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.extraction import Cluster, cluster
from headstart.features.errors import DataError, OptionError
from headstart.features.images.files.fetched import bytes_kept
from headstart.features.images.pixels import Pages
from headstart.features.images.scan import Reject
from headstart.features.terminal import console, progress
from headstart.pipeline.data.trainable import too_many_rejects
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.predict.classifying.by_ray import classified_by, predict_task
from headstart.pipeline.predict.classifying.pieces import Classified, classified
from headstart.pipeline.predict.clock import Clock
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.items import Item, Layout, Scored
from headstart.pipeline.predict.model import Answers, load_answers
from headstart.pipeline.predict.output import open_output, require_output
from headstart.pipeline.predict.sources import Sources, find_files
from headstart.pipeline.predict.trust import make_trust
from headstart.pipeline.predict.written import Written
from headstart.pipeline.runs import Run
from headstart.pipeline.runs.choice import Choice, choose_model
from headstart.pipeline.runs.files import without_null


@dataclass(frozen=True)
class Prediction:
    """The class predicted for an image, the probability of this class, and the probabilities of all classes by name."""

    path: str
    label: str
    probability: float
    probabilities: dict[str, float]
    unsure: bool | None = None  # whether the probability is under `PredictConfig.abstain`; None without it
    labels: list[str] | None = None  # the set of `PredictConfig.conformal`; None without it
    unlike: bool | None = None  # whether the image is unlike the training images; None if the run can't say
    distance: float | None = None  # from the training images; see `scoring.unlike`


@dataclass(frozen=True)
class PredictResult:
    """The predictions, and the rejected files.

    The predictions have the order of the given paths. The files of a given folder are sorted.
    """

    predictions: list[Prediction]
    rejects: list[Reject]
    choice: Choice  # which model answered, and why

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return _fields([without_null(asdict(one)) for one in self.predictions], self.rejects, self.choice)


def _fields(predictions: list[dict[str, Any]], rejects: Sequence[Reject], choice: Choice) -> dict[str, Any]:
    given = {"predictions": predictions, "rejects": list(map(asdict, rejects))}
    return {**given, **choice.fields()}


@dataclass
class Predicting:
    """A prepared classification. A call of `items`, `predictions`, `fields` or `lines` classifies the images."""

    run: Run
    answers: Answers
    sources: Sources
    config: PredictConfig
    clock: Clock
    classify: Callable[[Callable[[str], bool]], Classified]  # takes `is_done` of `items`
    rejects: list[Reject] = field(default_factory=list)  # the rejects so far
    predicted: int = 0  # the number of predictions so far
    skipped: int = 0  # the number of images and rejects so far that an earlier command wrote

    def layout(self) -> Layout:
        """Return the layout for a screen and for `--json`."""
        names, choice = self.run.class_names(), self.answers.choice
        return Layout(names, self.config.top, True, choice.model, self.answers.trust, choice.threshold)

    def items(
        self, advance: Callable[[int], None] = lambda count: None, is_done: Callable[[str], bool] = lambda path: False
    ) -> Iterator[Item]:
        """Classify the files in order. Yield each prediction or reject as soon as it is known.

        If `is_done` returns True for a path, the image or reject at this path is left out. During the classification,
        each call of `advance` gets the number of paths that were finished since the call before. Paths that are left
        out and files that are no images count, too. Raises DataError at the end if nothing was predicted or left out.
        """
        with bytes_kept(None, ""):
            for done, others, piece in self.classify(is_done):
                self.skipped += done
                advance(done + others)
                for item in piece:
                    if isinstance(item, Reject):
                        self.rejects.append(item)
                    else:
                        self.predicted += 1
                    advance(1)
                    yield item
        if not (self.predicted or self.skipped):
            first = "; ".join(f"{reject.path} ({reject.reason})" for reject in self.rejects[:3])
            raise DataError(f"none of {len(self.sources.files)} files could be used" + (f": {first}" if first else ""))

    def predictions(self) -> list[Prediction]:
        """Classify the images, and return the list of all predictions. Rejects are added to the field `rejects`."""
        layout = self.layout()
        return [
            Prediction(**{name: value for name, value in layout.prediction(item).items() if name != "top"})
            for item in self.items()
            if isinstance(item, Scored)
        ]

    def fields(self) -> dict[str, Any]:
        """Classify the images, and return the JSON object that `--json` prints."""
        layout = self.layout()
        with progress("predicting", len(self.sources.files)) as advance:
            predictions = [layout.prediction(item) for item in self.items(advance) if isinstance(item, Scored)]
        return _fields(predictions, self.rejects, self.answers.choice)

    def lines(self) -> Iterator[str]:
        """Classify the images. As soon as a prediction or reject is known, yield a line about it."""
        layout = self.layout()
        # On a terminal the lines themselves show the progress, and a bar would run into them.
        shown = nullcontext(lambda count: None) if sys.stdout.isatty() else None
        with shown or progress("predicting", len(self.sources.files)) as advance:
            for item in self.items(advance):
                yield layout.line(item)
        console.print(self.answers.choice.line())
        console.print(self.clock.line())

    def failure(self) -> DataError | None:
        """Return an error if too many files were rejected, else None. The caller raises the error at the end."""
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
    """Classify images with the run at `path`, and return all predictions and rejects.

    Raises OptionError if `config.output` is set. For arguments and other errors, see `predicting`.
    """
    if config.output:
        raise OptionError("output: `predict` returns predictions; `predict_to_file` writes them")
    begun = predicting(path, sources, config, places, seed)
    return PredictResult(begun.predictions(), begun.rejects, begun.answers.choice)


def predicting(
    path: Path,
    sources: Sequence[Path],
    config: PredictConfig,
    places: NetworkPlaces = NetworkPlaces(),
    seed: int = 0,
    workers: Cluster | None = None,
) -> Predicting:
    """Prepare a classification: find the files, open the run at `path`, and load its model.

    Args:
        sources: image files, and folders of images.
        places: where the run's store and weights are now.
        seed: decides the augmented views.
        workers: the cluster that classifies the images. None means this process.

    Raises RunError if there is no run, or if the weights changed. Raises WeightsError if the weights can't be used.
    Raises DataError if a source does not exist. Raises OptionError if an option in `config` does not fit the run. For
    errors about `config.output`, see `require_output`.
    """
    run = Run.open(path)
    require_output(config)
    found = find_files(sources, config.listed, config.recursive, distinct=bool(config.output))
    clock = Clock()
    answers = open_answers(run, config, places, seed, clock)
    if not workers:
        return predicting_here(answers, found, config, clock)
    task = predict_task(answers, config, places, seed, *_limits(run, config))
    classify = partial(classified_by, workers.begun(), task, answers, found)
    return Predicting(run, answers, found, config, clock, classify)


def predicting_here(answers: Answers, sources: Sources, config: PredictConfig, clock: Clock) -> Predicting:
    """Return a `Predicting` for `sources` and `answers`. It classifies the files in this process."""
    classify = partial(classified, answers, sources, *_limits(answers.run, config))
    return Predicting(answers.run, answers, sources, config, clock, classify)


def _limits(run: Run, config: PredictConfig) -> tuple[int, Pages]:
    """Return two settings: how many pixels an image may have, and which pages of a file are read."""
    return config.max_pixels or run.extraction_config().max_pixels, run.feature_config().pages


def open_answers(run: Run, config: PredictConfig, places: NetworkPlaces, seed: int, clock: Clock) -> Answers:
    """Choose a model of `run`, start TensorFlow, and load the model. For arguments and errors, see `predicting`."""
    classes = len(run.class_names())
    if config.top > classes:
        raise OptionError(f"--top must be at most {classes}, the classes of {run.path}. Received: {config.top}")
    if places.store and not places.store.is_dir():
        console.print(f"--store {places.store}: no such folder, so no stored features are used")
    choice = choose_model(run, config.model, config.threshold)
    trust = make_trust(run, choice, config)
    with clock.of("start"):
        import headstart.features.tensorflow  # noqa: F401
    return load_answers(run, choice, trust, places, config, seed, clock)


def predict_to_file(
    path: Path,
    sources: Sequence[Path],
    config: PredictConfig,
    places: NetworkPlaces = NetworkPlaces(),
    seed: int = 0,
    by_ray: ClusterConfig = ClusterConfig(),
) -> Written:
    """Classify images with the run at `path`, and write each prediction or reject to `config.output` once it is known.

    `by_ray` may name a Ray cluster that classifies the images. For other arguments, see `predicting`. Raises
    OptionError if `config.output` is not set. If the file exists, raises DataError, except when two conditions both
    hold: `config.append` is true, and `predict_to_file` wrote the file with the same model and options.
    """
    if not config.output:
        raise OptionError("--ray: workers send predictions to a file; name it with --output")
    with cluster(by_ray) as workers:
        begun = predicting(path, sources, config, places, seed, workers)
        answers, names = begun.answers, begun.run.class_names()
        layout = Layout.of(config, names, answers.name(), answers.trust, answers.choice.threshold)
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
