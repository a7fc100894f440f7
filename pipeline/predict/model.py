"""A run's model, ready to answer: image files in, probabilities out."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from headstart.features.errors import HeadstartError, RunError, StoreError
from headstart.features.files import sha256_of
from headstart.features.frozen.network import Network
from headstart.features.images.augment import View
from headstart.features.images.depth import bits_that_matter
from headstart.features.images.pixels import ImageConfig, Resize
from headstart.features.images.scan import ImageFile
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.predict.choice import Choice
from headstart.pipeline.predict.clock import Clock
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.networks import networks_of
from headstart.pipeline.runs import Run
from headstart.pipeline.scoring.metrics import probabilities

if TYPE_CHECKING:
    from headstart.features.frozen.frozen import FrozenBackbone

Rows = Iterator[tuple[int, np.ndarray]]  # the position of an image, ascending, and its row
_END = (2**63, np.empty(0))
_ROWS_AT_ONCE = 32  # of features that wait for the head
_IMAGES_AT_ONCE = 256  # of which all views are taken before the next images


class Model(Protocol):
    """One of the models of a run."""

    def logits(self, images: Sequence[ImageFile], view: View | None) -> Rows:
        """Yield the logits, float32 [1 or C], of `images`, or of a view of each. Undecodable images are left out."""

    def decides(self) -> dict[str, Any]:
        """Return what decides the logits, as JSON values."""


@dataclass(frozen=True)
class Answers:
    """A model, and the views of each image over which it averages."""

    run: Run
    choice: Choice
    model: Model
    views: Sequence[View | None]

    def name(self) -> str:
        """Return the name of the model, and a hash of everything that decides its answers."""
        views = [[view.seed, view.augment, view.number] for view in self.views if view]
        threshold = {"threshold": asdict(self.choice.threshold)} if self.choice.threshold else {}
        decides = {**self.model.decides(), "classes": self.run.class_names(), "views": views, **threshold}
        return f"{self.choice.model} {hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]}"

    def chances(self, images: Sequence[ImageFile]) -> Rows:
        """Yield the position and probabilities, float64 [C], of each image that can be decoded.

        Raises RunError if the model yields values that are not finite.
        """
        if len(self.views) == 1:
            yield from self._of_view(images, self.views[0])
            return
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            piece = images[start : start + _IMAGES_AT_ONCE]
            # The views take turns: a pass of the network serves one stream at a time.
            parts = [iter(list(self._of_view(piece, view))) for view in self.views]
            for position, rows in _joined(parts):
                yield start + position, np.mean(rows, axis=0)

    def _of_view(self, images: Sequence[ImageFile], view: View | None) -> Rows:
        for position, logits in self.model.logits(images, view):
            if not np.isfinite(logits).all():
                raise RunError(
                    f"{self.run.path}: its {self.choice.model} yields values that are not finite, for "
                    f"{images[position].path} the first; the model or the weights are damaged"
                )
            yield position, probabilities(logits[np.newaxis])[0]


def load_answers(
    run: Run, choice: Choice, places: NetworkPlaces, config: PredictConfig, seed: int, clock: Clock
) -> Answers:
    """Load the model of `choice`. Its network is loaded when an image first needs it, and timed as `network`.

    Where the head's networks can't be loaded, a classifier with the same values answers; see `Choice.alike`. If there
    is none, or if `places` name weights, the error is raised.
    """
    views = [None, *(View("standard", seed, number) for number in range(1, config.views))]
    batch_size = config.batch_size
    if choice.model == "head":
        try:
            with clock.of("network"):
                networks = networks_of(run, places, batch_size)
            return Answers(run, choice, _Head(run, networks, clock), views)
        except HeadstartError as error:
            if not choice.alike or places.weights:
                raise
            why = f"it has the values of the head, whose network can't be loaded ({error})"
            choice = replace(choice, model="finetuned", reason=why)
    return Answers(run, choice, _Classifier(run, batch_size, clock), views)


class _Head:
    """The networks of a run, whose features its head takes side by side."""

    def __init__(self, run: Run, networks: Sequence[Network], clock: Clock) -> None:
        self._run, self._networks, self._clock = run, networks, clock
        self._frozen = [functools.cache(functools.partial(_timed, clock, network.freeze)) for network in networks]
        self._stores = [functools.cache(functools.partial(_stores, network)) for network in networks]
        self._function = functools.cache(functools.partial(_timed, clock, self._load))

    def decides(self) -> dict[str, Any]:
        keys = [network.fingerprint(cut).key for network in self._networks for cut in network.cuts]
        return {"head": sha256_of(self._run.head_file), "features": keys}

    def logits(self, images: Sequence[ImageFile], view: View | None) -> Rows:
        parts = [
            _features(network, frozen, {} if view else _known(network, stores, images), images, view)
            for network, frozen, stores in zip(self._networks, self._frozen, self._stores, strict=True)
        ]
        for positions, rows in _batched((at, np.concatenate(found)) for at, found in _joined(parts)):
            yield from zip(positions, self._function()(np.stack(rows)), strict=True)

    def _load(self) -> Callable[[np.ndarray], np.ndarray]:
        from headstart.features.tensorflow import tf

        width = sum(network.backbone.shape(cut)[0] for network in self._networks for cut in network.cuts)
        head = self._run.load_model(self._run.head_file, (width,))
        signature = tf.TensorSpec((None, *head.input_shape[1:]), tf.float32)
        graph = tf.function(lambda features: head(features, training=False)).get_concrete_function(signature)
        return lambda features: np.asarray(graph(tf.constant(features)))


class _Classifier:
    """The fine-tuned classifier of a run."""

    def __init__(self, run: Run, batch_size: int, clock: Clock) -> None:
        self._run, self._batch_size = run, batch_size
        self._frozen = functools.cache(functools.partial(_timed, clock, self._load))
        config, _ = run.configs()
        self._images = ImageConfig(config.image_size, cast(Resize, config.resize), config.truncated, config.bits)

    def decides(self) -> dict[str, Any]:
        return {"classifier": sha256_of(self._run.classifier_file), "pixels": vars(self._images)}

    def logits(self, images: Sequence[ImageFile], view: View | None) -> Rows:
        return _passed(self._frozen(), images, self._images, view)

    def _load(self) -> FrozenBackbone:
        from headstart.pipeline.predict.classifier import freeze_classifier

        classifier = self._run.load_model(self._run.classifier_file)
        return freeze_classifier(classifier, self._batch_size)


def _timed(clock: Clock, load: Callable[[], Any]) -> Any:
    with clock.of("network"):
        return load()


def _features(
    network: Network,
    frozen: Callable[[], FrozenBackbone],
    known: dict[int, np.ndarray],
    images: Sequence[ImageFile],
    view: View | None,
) -> Rows:
    """Yield the features, float32 [D], of images: those that are `known`, by position, and new ones of the others."""
    lacking = [position for position in range(len(images)) if position not in known]
    rows = _passed(frozen(), [images[at] for at in lacking], network.images, view) if lacking else iter(())
    fresh = ((lacking[at], row) for at, row in rows)
    at, row = next(fresh, _END)
    for position in range(len(images)):
        if position in known:
            yield position, known[position]
        elif position == at:
            yield position, row
            at, row = next(fresh, _END)


def _stores(network: Network, bits: str) -> list[FeatureStore]:
    """Return the stores of a network's cuts with these `bits`. No store is made."""
    return list(replace(network, config=replace(network.config, bits=bits)).stores().values())


def _known(
    network: Network, stores_of: Callable[[str], list[FeatureStore]], images: Sequence[ImageFile]
) -> dict[int, np.ndarray]:
    """Return the features, float32 [D], that the store has, by position in `images`."""
    stores = stores_of(bits_that_matter(network.config.bits, {image.bits for image in images}))
    if not all(store.folder.is_dir() for store in stores):
        return {}
    digests = [image.digest for image in images]
    try:
        missing = {digest for store in stores for digest in store.missing(digests)}
        at = [position for position, digest in enumerate(digests) if digest not in missing]
        rows = np.concatenate([store.read([digests[position] for position in at]) for store in stores], axis=1)
    except StoreError as error:
        console.print(f"features in the store are not used: {error}")
        return {}
    return dict(zip(at, rows.astype(np.float32, copy=False), strict=True))


def _passed(frozen: FrozenBackbone, images: Sequence[ImageFile], config: ImageConfig, view: View | None) -> Rows:
    """Yield the outputs of a network side by side, float32 [D], for each image that can be decoded."""
    from headstart.features.images.batches import decoded_batches

    for positions, outputs in frozen.stream(decoded_batches(images, config, frozen.images_per_pass, view)):
        rows = np.concatenate([outputs[cut] for cut in frozen.cuts], axis=1)
        yield from zip(positions.tolist(), rows, strict=True)


def _joined(parts: Sequence[Rows]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield each position that all of `parts` have, and its rows. A file may be removed before all parts read it."""
    first, *others = parts
    held = [next(part, _END) for part in others]
    for position, row in first:
        for number, part in enumerate(others):
            while held[number][0] < position:
                held[number] = next(part, _END)
        if all(at == position for at, _ in held):
            yield position, [row, *(other for _, other in held)]


def _batched(rows: Iterable[tuple[int, np.ndarray]]) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    positions, held = list[int](), list[np.ndarray]()
    for position, row in rows:
        positions.append(position)
        held.append(row)
        if len(held) == _ROWS_AT_ONCE:
            yield positions, held
            positions, held = [], []
    if held:
        yield positions, held
