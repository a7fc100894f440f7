"""Compute the probabilities of image files with a model of a run."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from headstart.features.errors import HeadstartError, RunError, StoreError
from headstart.features.files import sha256_of
from headstart.features.frozen.network import Network
from headstart.features.images.augment import View
from headstart.features.images.depth import bits_that_matter
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console
from headstart.pipeline.locating import known_store
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.predict.clock import Clock
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.networks import Loaded, distances, networks_of, require_width
from headstart.pipeline.predict.trust import Trust
from headstart.pipeline.runs import Run
from headstart.pipeline.runs.choice import Choice, without_network
from headstart.pipeline.scoring.unlike import Reference

if TYPE_CHECKING:
    import keras
    from headstart.features.frozen.frozen import FrozenBackbone

Rows = Iterator[tuple[int, np.ndarray]]  # pairs of an image's position and its row of values, by ascending position
# Triples of an image's position, its row of values, and its distance from the training images, or None.
Outputs = Iterator[tuple[int, np.ndarray, float | None]]
_END = (2**63, np.empty(0))  # follows the last pair
_ROWS_AT_ONCE = 32  # rows of features that go to the head, or are compared to the training images, together
_IMAGES_AT_ONCE = 256  # images whose views are all classified before the next images


class Model(Protocol):
    """The head of a run, or its fine-tuned classifier."""

    def outputs(self, images: Sequence[ImageFile], view: View | None) -> Outputs:
        """Yield a triple for each image that can be decoded: its position in `images`, its logits, and a distance.

        The logits are float32 [1] (two classes) or [C]. For the distance, see `Reference.distances`. Without a
        reference, the distance is None. If `view` is given, the model sees this view of each image.
        """

    def decides(self) -> dict[str, Any]:
        """Return everything that decides the logits, as JSON values."""

    def loaded(self) -> Loaded:
        """Return the model in a form for fast forward passes. A caller calls the result with pixels."""


@dataclass(frozen=True)
class Answers:
    """A model, and the views of each image. An answer is the mean of the probabilities over these views."""

    run: Run
    choice: Choice
    model: Model
    views: Sequence[View | None]  # None is the image as it is
    trust: Trust

    def name(self) -> str:
        """Return the name of the model, followed by a hash of everything that decides the answers."""
        views = [[view.seed, view.augment, view.number] for view in self.views if view]
        threshold = {"threshold": asdict(self.choice.threshold)} if self.choice.threshold else {}
        decides = {**self.model.decides(), "classes": self.run.class_names(), "views": views}
        decides |= {**threshold, **self.trust.decides()}
        return f"{self.choice.model} {hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]}"

    def chances(self, images: Sequence[ImageFile]) -> Outputs:
        """Yield a triple for each image that can be decoded: position, probabilities (float64 [C]), and distance.

        For position and distance, see `Model.outputs`. Raises RunError if the model yields values that are not finite.
        """
        plain, *augmented = self.views
        if not augmented:
            yield from self._of_view(images, plain)
            return
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            piece = images[start : start + _IMAGES_AT_ONCE]
            # The views are classified one after the other, because a pass serves one stream at a time.
            parts = [list(self._of_view(piece, view)) for view in self.views]
            distances = {position: distance for position, _, distance in parts[0]}
            for position, rows in _joined([((at, row) for at, row, _ in part) for part in parts]):
                yield start + position, np.mean(rows, axis=0), distances[position]

    def _of_view(self, images: Sequence[ImageFile], view: View | None) -> Outputs:
        for position, logits, distance in self.model.outputs(images, view):
            if not np.isfinite(logits).all():
                raise RunError(
                    f"{self.run.path}: its {self.choice.model} yields values that are not finite, for "
                    f"{images[position].path} the first; the model or the weights are damaged"
                )
            yield position, self.trust.probabilities(logits[np.newaxis])[0], distance


def load_answers(
    run: Run, choice: Choice, trust: Trust, places: NetworkPlaces, config: PredictConfig, seed: int, clock: Clock
) -> Answers:
    """Load the model of `choice`. `clock` counts the time that this takes.

    If the networks of the head can't be loaded, `without_network` decides what happens: the fine-tuned classifier is
    loaded instead, or the error is raised.
    """
    views = [None, *(View("standard", seed, number) for number in range(1, config.views))]
    batch_size = config.batch_size
    if choice.model == "head":
        try:
            with clock.of("network"):
                networks = networks_of(run, places, batch_size)
            return Answers(run, choice, _Head(run, networks, trust.reference, clock), views, trust)
        except HeadstartError as error:
            choice = without_network(choice, bool(places.weights), error)
    classifier = _Classifier(run, known_store(run, places), trust.reference, batch_size, clock)
    return Answers(run, choice, classifier, views, trust)


class _Head:
    """The head of a run, and its networks. The head takes the concatenated features of all networks."""

    def __init__(self, run: Run, networks: Sequence[Network], reference: Reference | None, clock: Clock) -> None:
        self._run, self._networks, self._reference, self._clock = run, networks, reference, clock
        self._frozen = [functools.cache(functools.partial(_timed, clock, network.freeze)) for network in networks]
        self._stores = [functools.cache(functools.partial(_stores, network)) for network in networks]
        self._function = functools.cache(functools.partial(_timed, clock, self._load))

    def decides(self) -> dict[str, Any]:
        keys = [network.fingerprint(cut).key for network in self._networks for cut in network.cuts]
        return {"head": sha256_of(self._run.head_file), "features": keys}

    def loaded(self) -> Loaded:
        frozen, head = [freeze() for freeze in self._frozen], self._function()
        images = [network.images for network in self._networks]
        return Loaded(images, frozen, lambda features: (features, head(features)), self._reference)

    def outputs(self, images: Sequence[ImageFile], view: View | None) -> Outputs:
        parts = [
            _features(network, frozen, {} if view else _known(network, stores, images), images, view)
            for network, frozen, stores in zip(self._networks, self._frozen, self._stores, strict=True)
        ]
        for positions, rows in _batched((at, np.concatenate(found)) for at, found in _joined(parts)):
            features = np.stack(rows)
            yield from zip(positions, self._function()(features), distances(self._reference, features), strict=True)

    def _load(self) -> Callable[[np.ndarray], np.ndarray]:
        from headstart.features.tensorflow import tf

        width = sum(network.backbone.shape(cut)[0] for network in self._networks for cut in network.cuts)
        head = self._run.load_model(self._run.head_file, (width,))
        require_width(self._run, "head", self._reference, (width,))
        signature = tf.TensorSpec((None, *head.input_shape[1:]), tf.float32)
        graph = tf.function(lambda features: head(features, training=False)).get_concrete_function(signature)
        return lambda features: np.asarray(graph(tf.constant(features)))


class _Classifier:
    """The fine-tuned classifier of a run."""

    def __init__(
        self, run: Run, store: Path | None, reference: Reference | None, batch_size: int, clock: Clock
    ) -> None:
        self._run, self._store, self._reference, self._batch_size = run, store, reference, batch_size
        self._frozen = functools.cache(functools.partial(_timed, clock, self._load))
        self._images = run.feature_config().images()

    def decides(self) -> dict[str, Any]:
        return {"classifier": sha256_of(self._run.classifier_file), "pixels": vars(self._images)}

    def loaded(self) -> Loaded:
        return Loaded([self._images], [self._frozen()], self._parted, self._reference)

    def outputs(self, images: Sequence[ImageFile], view: View | None) -> Outputs:
        for positions, rows in _batched(_passed(self._frozen(), images, self._images, view)):
            features, logits = self._parted(np.stack(rows))
            yield from zip(positions, logits, distances(self._reference, features), strict=True)

    def _parted(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Split outputs for M images into features [M, D] and logits [M, 1 or C].

        If `self._reference` is None, D is 0.
        """
        classes = len(self._run.class_names())
        features, logits = np.split(rows, [-1 if classes == 2 else -classes], axis=1)
        require_width(self._run, "finetuned", self._reference, features.shape[1:])
        return features, logits

    def _load(self) -> FrozenBackbone:
        from headstart.pipeline.classifier import with_features
        from headstart.pipeline.predict.fast_classifier import freeze_whole

        file, side = self._run.classifier_file, self._images.size

        def load() -> keras.Model:
            classifier = self._run.load_model(file)
            return with_features(classifier) if self._reference else classifier

        return freeze_whole(file, load, 2 if self._reference else 1, side, self._batch_size, self._store)


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
    """Yield the position and features, float32 [D], of each image. Images that can't be decoded are left out."""
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
    """Return a store for each cut of `network`. `bits` replaces the network's setting `bits`. No folder is made."""
    return list(replace(network, config=replace(network.config, bits=bits)).stores().values())


def _known(
    network: Network, stores_of: Callable[[str], list[FeatureStore]], images: Sequence[ImageFile]
) -> dict[int, np.ndarray]:
    """Return a dict from positions in `images` to the features in the stores, float32 [D].

    If a store is missing or damaged, the dict is empty.
    """
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
    """Yield a pair for each decodable image: its position, and its joined outputs at all cuts, float32 [D]."""
    from headstart.features.images.batches import decoded_batches

    for positions, outputs in frozen.stream(decoded_batches(images, config, frozen.images_per_pass, view)):
        rows = np.concatenate([outputs[cut] for cut in frozen.cuts], axis=1)
        yield from zip(positions.tolist(), rows, strict=True)


def _joined(parts: Sequence[Rows]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield a pair for each position that all `parts` have: the position, and a list of rows, one from each part."""
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
