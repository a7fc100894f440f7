"""Predictions by a cluster: workers get units of files, and send back predictions and rejects.

The driver puts the predictions and rejects in the order of the files. Every node must see the run and the store at the
same paths as the driver.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from headstart.features.cluster.crew import Crew
from headstart.features.cluster.probe import NodeError
from headstart.features.cluster.scanning import drawn, require_seen, why_blind
from headstart.features.cluster.sharing import Sharing
from headstart.features.cluster.unit_job import Outcome, UnitJob
from headstart.features.cluster.worker import Built, Job
from headstart.features.images.faults import UNREAD
from headstart.features.images.files.fetched import bytes_kept, kept_folder
from headstart.features.images.files.paths import is_url
from headstart.features.images.files.urls import one_of_each_place, require_credentials
from headstart.features.images.pixels import Pages
from headstart.features.images.scan import ImageFile, Reject, inspect_image
from headstart.pipeline.locating import known_store
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.predict.classifying.pieces import Classified, classified
from headstart.pipeline.predict.clock import Clock
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.items import Item
from headstart.pipeline.predict.model import Answers, load_answers
from headstart.pipeline.predict.sources import Sources
from headstart.pipeline.predict.trust import make_trust
from headstart.pipeline.runs import Run
from headstart.pipeline.runs.choice import Choice, choose_model

_LARGEST = 4096  # files in a unit
_HELD_BYTES = 256 << 20  # of results that wait until all results before them have come
_ITEM_BYTES = 300  # besides the probabilities


@dataclass(frozen=True)
class PredictTask:
    """The task that the driver sends to workers: to classify files with a model of a run. All paths are absolute."""

    run: Path
    config: PredictConfig  # without the files to read and to write
    places: NetworkPlaces
    seed: int
    choice: Choice
    max_pixels: int
    pages: Pages
    name: str  # the driver's `Answers.name`
    fingerprints: Sequence[str]  # the folders of features that the driver sees in the store; see `store_folders`
    sample: Sequence[tuple[str, tuple[int, int]]]  # see `require_seen`
    urls: Sequence[str] = ()  # some of the files; see `require_credentials`
    kept: Path | None = None
    tries_batch_sizes = takes_network = False

    def job(self, before: Job | None) -> PredictJob:
        """Return the job that does this task in a worker. `before`, the worker's previous job, is not used."""
        return PredictJob(self)

    def require_same(self, met: tuple[str, Sequence[str]]) -> None:
        """Raise a NodeError if a worker has another model or store than the driver.

        `met` is what `PredictJob.meet` returned in the worker.
        """
        name, fingerprints = met
        if name != self.name:
            raise NodeError(f"{self.run}: this node would answer by another model: {name}, the driver has {self.name}")
        if list(fingerprints) != list(self.fingerprints):
            raise NodeError(f"--store {self.places.store}: this node does not see the store as the driver does")


class PredictJob(UnitJob):
    """Classifies files. A unit is a list of pairs: an absolute path, and whether the file must be an image."""

    def __init__(self, task: PredictTask) -> None:
        super().__init__()
        self._task = task
        self._answers: Answers

    def meet(self) -> tuple[str, Sequence[str]]:
        """Load the model of the run. Return the model's name (see `Answers.name`), and the result of `store_folders`.

        Raises a HeadstartError if this node does not see the run or the files to classify, or lacks the access to files
        that are URLs.
        """
        task = self._task
        require_seen(task.sample)
        require_credentials(task.urls)
        run = Run.open(task.run)
        choice = choose_model(run, task.choice.model, task.config.threshold)
        trust = make_trust(run, choice, task.config)
        self._answers = load_answers(run, choice, trust, task.places, task.config, task.seed, Clock())
        return self._answers.name(), store_folders(task.places.store)

    def build(self, batch_sizes: Mapping[str, int]) -> Built:
        """Build the network, classify an image of noise, and return the result. `batch_sizes` is not used.

        The driver compares the results of all workers.
        """
        from headstart.features.device import processor, start_tensorflow

        with TemporaryDirectory() as folder:
            ((_, chances, distance),) = self._answers.chances([_noise(Path(folder))])
        values = np.append(chances, 0.0 if distance is None else distance)
        return Built(features={"": values.astype(np.float32)}, device=start_tensorflow(), processor=processor())

    def do(self, items: Sequence[tuple[str, bool]]) -> list[Item]:
        """Classify the files of a unit. Return their predictions and rejects, in the order of the files.

        If the unit is stopped early, return only the predictions and rejects so far.
        """
        task, found = self._task, list[Item]()
        sources = Sources([path for path, _ in items], {path for path, is_named in items if is_named})
        with bytes_kept(None, ""):
            for _, others, piece in classified(self._answers, sources, task.max_pixels, task.pages):
                self.advance(others)
                for item in piece:
                    found.append(item)
                    self.advance(1)
                    if self.is_stopped():
                        return found
        return found


def _noise(folder: Path) -> ImageFile:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)).save(folder / "noise.png")
    (image,) = inspect_image(folder / "noise.png")
    assert isinstance(image, ImageFile)
    return image


def store_folders(store: Path | None) -> list[str]:
    """Return the sorted names of the folders of features in `store`. If `store` is None, return an empty list."""
    return sorted(file.parent.name for file in store.glob("*/fingerprint.json")) if store else []


def predict_task(
    answers: Answers, config: PredictConfig, places: NetworkPlaces, seed: int, max_pixels: int, pages: Pages
) -> PredictTask:
    """Return a task for workers. Workers that do the task classify images just as `answers` does in the driver.

    The fields `sample`, `urls` and `kept` of the task are left empty. `classified_by` sets them.
    """
    store = known_store(answers.run, places)
    weights = os.path.abspath(places.weights) if places.weights and os.path.exists(places.weights) else places.weights
    return PredictTask(
        answers.run.path.absolute(),
        replace(config, output=None, append=False, listed=None),
        NetworkPlaces(store.absolute() if store else None, weights),
        seed,
        answers.choice,
        max_pixels,
        pages,
        answers.name(),
        store_folders(store),
        [],
    )


def classified_by(
    crew: Crew,
    task: PredictTask,
    answers: Answers,
    sources: Sources,
    is_done: Callable[[str], bool],
) -> Classified:
    """Let the workers of `crew` classify the files of `sources`. Yield groups in the form and order of `classified`.

    If a worker can't read a file, this process tries the file again, with the model in `answers`. A file becomes a
    reject if three workers died while they classified it. For `is_done`, see `classified`.
    """
    files = [file for file in sources.files if not (task.pages == "first" and is_done(file))]
    yield len(sources.files) - len(files), 0, []
    if not files:
        return
    here = os.getcwd()
    every = [file if is_url(file) else os.path.join(here, file) for file in files]
    sample = drawn([path for path in every if not is_url(path)])
    crew.begin(replace(task, sample=sample, urls=one_of_each_place(every), kept=kept_folder()))

    def unit(positions: Sequence[int], again: bool) -> list[tuple[str, bool]]:
        return [(every[at], files[at] in sources.named) for at in positions]

    def blind(positions: Sequence[int], outcome: Outcome) -> str:
        return why_blind(_unread(outcome.result), len(positions))

    window = max(4 * _LARGEST, _HELD_BYTES // (_ITEM_BYTES + 8 * len(answers.run.class_names())))
    sharing = Sharing(crew, len(files), unit, lambda count: None, blind=blind, largest=_LARGEST, window=window)
    for positions, outcome in sharing.in_order():
        if outcome is None:
            crashed = Reject(files[positions[0]], "crashed", "three workers died while they classified it")
            yield (1, 0, []) if is_done(crashed.path) else (0, 0, [crashed])
            continue
        given = [(every[at], files[at]) for at in positions]
        items, others = _renamed(outcome.result, given)
        found = _with_unread(answers, task, Sources([name for _, name in given], sources.named), items)
        fresh = [item for item in found if not is_done(item.path)]
        yield len(found) - len(fresh), others, fresh


def _with_unread(answers: Answers, task: PredictTask, sources: Sources, items: Sequence[Item]) -> list[Item]:
    """Use this process and the model in `answers` to classify the files that a worker could not read.

    Return the worker's `items`, with the new results in place of the rejects of these files.
    """
    unread = dict.fromkeys(_unread(items)).keys() & set(sources.files)
    if not unread:
        return list(items)
    found = defaultdict[str, list[Item]](list)
    for _, _, piece in classified(answers, Sources(sorted(unread), sources.named), task.max_pixels, task.pages):
        for one in piece:
            found[_file(one.path, unread)].append(one)
    return [one for item in items for one in (found[item.path] if item.path in unread else [item])]


def _unread(items: Sequence[Item]) -> list[str]:
    """Return the paths of the rejects in `items` whose files could not be read."""
    return [one.path for one in items if isinstance(one, Reject) and one.reason in UNREAD]


def _file(path: str, files: Container[str]) -> str:
    """Return the file in `files` that holds the image `path`. `path` is `FILE`, or `FILE#PAGE` for a later page."""
    return path if path in files else path.rpartition("#")[0]


def _renamed(items: Sequence[Item], given: Sequence[tuple[str, str]]) -> tuple[list[Item], int]:
    """In each item, replace the file's path by the name that `given` pairs with this path.

    Return the changed items, and the number of files that have no item.
    """
    names = defaultdict[str, list[str]](list)
    for path, name in given:
        names[path].append(name)
    files = [_file(item.path, names) for item in items]
    counts, seen, found = Counter(files), Counter[str](), list[Item]()
    for item, file in zip(items, files, strict=True):
        # Files with the same path get equal shares of its items, in order.
        name = names[file][seen[file] * len(names[file]) // counts[file]]
        seen[file] += 1
        found.append(replace(item, path=name + item.path.removeprefix(file)))
    return found, len(given) - sum(len(names[file]) for file in counts)
