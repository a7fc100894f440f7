"""Load a model from a run for export. Compute the run's own answers, for the comparison with the export."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.backbones.cuts import split_names
from headstart.features.backbones.facts import KnownBackbones
from headstart.features.errors import HeadstartError, RunError
from headstart.features.files import sha256_of
from headstart.features.frozen.network import Network
from headstart.features.images.pixels import ImageConfig
from headstart.pipeline.locating import known_store, located_networks
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.runs import Run, read_calibration, require_finite
from headstart.pipeline.runs.choice import Choice, without_network
from headstart.pipeline.scoring.calibration import Calibration
from headstart.pipeline.scoring.metrics import probabilities

if TYPE_CHECKING:
    import keras
    from headstart.features.frozen.frozen import FrozenBackbone
    from headstart.pipeline.export.deployable import Deployable
from headstart.pipeline.export.folder import ascii_where_needed

Answer = Callable[[np.ndarray], np.ndarray]  # maps pixels, uint8 [N, S, S, 3], to probabilities, float64 [N, C]


@dataclass(frozen=True)
class Source:
    """A model of a run, in float32."""

    run: Run
    choice: Choice
    networks: Sequence[Network]  # of the head; empty for a fine-tuned classifier
    images: ImageConfig  # how a file becomes pixels
    max_pixels: int
    store: Path | None  # keeps the fast form of a classifier
    calibration: Calibration | None

    @property
    def temperature(self) -> float:
        """The number by which logits are divided: the temperature of the calibration, or 1 without a calibration."""
        return self.calibration.temperature if self.calibration else 1.0

    @property
    def second_above(self) -> float | None:
        """The probability above which the second of two classes is predicted; None without a threshold."""
        threshold = self.choice.threshold
        return threshold.second_above(self.run.class_names()) if threshold else None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The arguments of `preprocess.pixels`."""
        images = self.images
        return {
            "size": images.size,
            "resize": images.resize,
            "truncated": images.truncated,
            "bits": images.bits,
            "most_pixels": self.max_pixels,
        }

    def classifier(self) -> keras.Model:
        """Build a model that maps pixels, uint8 [B, S, S, 3], to logits, float32 [B, 1 or C].

        The model may share layers with `networks`. For errors, see `deployable`.
        """
        from headstart.pipeline.export.deployable import joined_classifier

        if not self.networks:
            return self.run.load_model(self.run.classifier_file, (self.images.size, self.images.size, 3))
        return joined_classifier(self.networks, self.run.load_model(self.run.head_file, (_width(self.networks),)))

    def deployable(self) -> Deployable:
        """Build the model to write. Raises RunError if the head does not fit the networks."""
        from headstart.pipeline.export.deployable import Deployable, deployable_model

        model = deployable_model(self.classifier(), self.temperature)
        facts = self.facts().items()
        texts = {name: ascii_where_needed(json.dumps(value, ensure_ascii=False)) for name, value in facts}
        return Deployable(model, texts, self.images.size, self.run.class_names())

    def facts(self) -> dict[str, Any]:
        """Return the metadata of the export, as JSON values by name: class names, preprocessing, provenance etc."""
        run, threshold = self.run, self.choice.threshold
        config, kept = run.feature_config(), run.config()
        file = run.head_file if self.networks else run.classifier_file
        return {
            "class_names": run.class_names(),
            "preprocessing": self.preprocessing,
            "temperature": self.temperature,
            "calibrated": self.calibration is not None,
            "threshold": asdict(threshold) if threshold else None,
            "provenance": {
                "headstart": version("headstart"),
                "run": run.path.resolve().name,
                "model": self.choice.model,
                "model_sha256": sha256_of(file),
                "backbone": _titles(config.backbone),
                "cut": list(config.cut),
                "weights_sha256": kept["weights_digest"],
                "features_precision": config.precision,
            },
        }

    def answers(self) -> Answer:
        """Return a function that maps pixels, uint8 [N, S, S, 3], to the probabilities of the run, float64 [N, C].

        The command `predict` gives the same probabilities in float32. On a GPU, TF32 is turned off.
        """
        from headstart.features.tensorflow import tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
        logits = self._logits_of_head() if self.networks else self._logits_of_classifier()
        calibration = self.calibration
        return lambda pixels: (
            calibration.probabilities(logits(pixels)) if calibration else probabilities(logits(pixels))
        )

    def _logits_of_head(self) -> Answer:
        head = self.run.load_model(self.run.head_file, (_width(self.networks),))
        frozen = [network.freeze() for network in self.networks]

        def logits(pixels: np.ndarray) -> np.ndarray:
            features = [output for one in frozen for output in _outputs(one, pixels)]
            found = head.predict_on_batch(np.concatenate(features, axis=1))
            return require_finite(np.asarray(found), self.run.head_file)

        return logits

    def _logits_of_classifier(self) -> Answer:
        from headstart.pipeline.predict.fast_classifier import freeze_whole

        file, side = self.run.classifier_file, self.images.size
        frozen = freeze_whole(file, lambda: self.run.load_model(file), 1, side, 0, self.store)
        return lambda pixels: require_finite(_outputs(frozen, pixels)[-1], file)


def load_source(run: Run, choice: Choice, places: NetworkPlaces) -> Source:
    """Load the model `choice` of `run` in float32, whatever the precision of the run's features.

    If the network of the head can't be loaded, the fine-tuned classifier may be loaded in place of the head; see
    `without_network`. Raises RunError if the head needs several networks that differ in the size or the resizing of
    their images. For other errors, see `located_networks`.
    """
    networks: Sequence[Network] = ()
    if choice.model == "head":
        try:
            networks = _networks(run, places)
        except HeadstartError as error:
            choice = without_network(choice, bool(places.weights), error)
    images = _same_images(run, networks) if networks else run.feature_config().images()
    store, calibration = known_store(run, places), read_calibration(run, choice.model)
    return Source(run, choice, networks, images, run.extraction_config().max_pixels, store, calibration)


def _networks(run: Run, places: NetworkPlaces) -> list[Network]:
    config, extraction = run.feature_config(), run.extraction_config()
    store = known_store(run, places) or extraction.store
    known = KnownBackbones(store, read_only=True)
    settings, making = replace(config, precision="float32"), replace(extraction, store=store, batch_size=0)
    return located_networks(run, places, settings, making, known)[1]


def _same_images(run: Run, networks: Sequence[Network]) -> ImageConfig:
    images = networks[0].images
    for other in networks[1:]:
        if other.images != images:
            first, second = (f"{_titles(one.backbone.name)} takes {_shown(one.images)}" for one in (networks[0], other))
            raise RunError(
                f"{run.path}: its head stands on networks that take different images: {first}, {second}; one model "
                "takes one image, so train a head with the same --image-size and --resize for both"
            )
    return images


def _shown(images: ImageConfig) -> str:
    return f"{images.size} x {images.size} pixels by --resize {images.resize}"


def _titles(backbone: str) -> str:
    """Return `backbone` with the path of each `.keras` file shortened to its file name.

    `backbone` is one backbone, or several, joined by `+`.
    """
    return "+".join(name.rsplit("/", 1)[-1] for name in split_names(backbone))


def _width(networks: Sequence[Network]) -> int:
    return sum(network.backbone.shape(cut)[0] for network in networks for cut in network.cuts)


def _outputs(frozen: FrozenBackbone, pixels: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of a network for `pixels`, one array per cut.

    `pixels` is uint8 [N, S, S, 3]. Each array is float32 [N, D].
    """
    step = frozen.images_per_pass
    parts = [frozen(pixels[at : at + step]) for at in range(0, len(pixels), step)]
    return [np.concatenate([part[cut] for part in parts]) for cut in frozen.cuts]
