"""Probabilities for any images."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from headstart.features.backbones.frozen import default_batch_size, folded_backbone, traced
from headstart.features.backbones.network import load_networks, weights_digest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, RunError
from headstart.features.images.batches import decoded_batches, why_undecodable
from headstart.features.images.decode import ImageConfig
from headstart.features.images.scan import ImageFile, Reject, inspect_images
from headstart.features.terminal import progress
from headstart.pipeline.data.layouts import files_below
from headstart.pipeline.metrics import probabilities
from headstart.pipeline.runs import Run


@dataclass(frozen=True)
class Prediction:
    """The likeliest class of an image, its probability, and the probabilities of all classes by name."""

    path: str
    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class PredictResult:
    """Predictions in the order of the paths given, each folder sorted; and the files that could not be used."""

    predictions: list[Prediction]
    rejects: list[Reject]

    def fields(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)

    def lines(self) -> list[Any]:
        """The summary for a person."""
        lines = [f"{item.path}: {item.label} ({item.probability:.4f})" for item in self.predictions]
        return lines + [f"{reject.path}: {reject.reason}, {reject.detail}" for reject in self.rejects]


def predict(path: Path, sources: Sequence[Path]) -> PredictResult:
    """Classify image files, and the images in folders, with a run's fine-tuned classifier, or else with its head.

    Images larger than the run's `--max-pixels` are rejected.

    Raises:
        RunError: there is no run at `path`, or its weights changed.
        DataError: a source does not exist, or no file could be used.
    """
    run = Run.open(path)
    files = _files(sources)
    seen = inspect_images(files, run.configs()[1].max_pixels)
    # A file that was named is meant as an image; a folder may hold other files, too.
    rejects = [
        Reject(str(file), "not-an-image", "no image by its content")
        for file, image in zip(files, seen, strict=True)
        if image is None and file in sources
    ]
    rejects += [image for image in seen if isinstance(image, Reject)]
    images = [image for image in seen if isinstance(image, ImageFile)]
    predictions: list[Prediction] = []
    if images:
        predictions, undecodable = _predict(run, images)
        rejects += undecodable
    if not predictions:
        first = "; ".join(f"{reject.path} ({reject.reason})" for reject in rejects[:3])
        raise DataError(f"none of {len(files)} files could be used" + (f": {first}" if first else ""))
    return PredictResult(predictions=predictions, rejects=rejects)


def _files(sources: Sequence[Path]) -> list[Path]:
    """The files of `sources`, folders walked through.

    Raises:
        DataError: a source does not exist.
    """
    files: list[Path] = []
    for source in sources:
        if not source.exists():
            raise DataError(f"{source}: no such file or folder")
        files += files_below(source) if source.is_dir() else [source]
    return files


def _predict(run: Run, images: Sequence[ImageFile]) -> tuple[list[Prediction], list[Reject]]:
    """Predictions for the images that can be decoded, and rejects for the others."""
    class_names = run.class_names()
    config, extraction = run.configs()
    config = replace(config, precision="float32")
    extraction = replace(extraction, batch_size=extraction.batch_size or default_batch_size())
    predicted_with = _with_classifier if run.classifier_file.exists() else _with_head
    decoded, chances = predicted_with(run, config, extraction, images)
    predictions = [
        Prediction(
            path=images[position].path,
            label=class_names[int(row.argmax())],
            probability=float(row.max()),
            probabilities=dict(zip(class_names, map(float, row), strict=True)),
        )
        for position, row in zip(decoded.tolist(), chances, strict=True)
    ]
    undecodable = sorted(set(range(len(images))) - set(decoded.tolist()))
    return predictions, [why_undecodable(images[position]) for position in undecodable]


def _with_classifier(
    run: Run, config: FeatureConfig, extraction: ExtractionConfig, images: Sequence[ImageFile]
) -> tuple[np.ndarray, np.ndarray]:
    """Positions int64 [n] of decodable images; probabilities float64 [n, classes] by the fine-tuned classifier."""
    classifier = run.load_model(run.classifier_file)
    pixels = ImageConfig(config.image_size, config.resize, config.truncated)
    units, run_batch = classifier.output_shape[1], classifier.predict_on_batch
    with progress("predicting", len(images)) as advance:
        decoded, logits = _decoded(images, pixels, extraction.batch_size, units, run_batch, advance)
    return decoded, probabilities(logits)


def _with_head(
    run: Run, config: FeatureConfig, extraction: ExtractionConfig, images: Sequence[ImageFile]
) -> tuple[np.ndarray, np.ndarray]:
    """Positions int64 [n] of decodable images; probabilities float64 [n, classes] by frozen networks and head."""
    networks = load_networks(config, extraction)
    if weights_digest(networks) != run.config()["weights_digest"]:
        raise RunError(f"{run.path}: {config.weights} holds other weights than those it was trained with")
    head = run.load_model(run.head_file)
    parts = []
    with progress("predicting", len(networks) * len(images)) as advance:
        for network in networks:
            graph = traced(folded_backbone(network.backbone), network.cuts)  # any batch size: few images come

            def features(pixels: np.ndarray, graph: Callable[[tf.Tensor], list[tf.Tensor]] = graph) -> np.ndarray:
                return np.concatenate([output.numpy() for output in graph(tf.constant(pixels))], axis=1)

            width = sum(network.backbone.shape(cut)[0] for cut in network.cuts)
            parts.append(_decoded(images, network.images, extraction.batch_size, width, features, advance))
    # Each network decodes the images anew, and one may have gone in between.
    decoded = reduce(np.intersect1d, [positions for positions, _ in parts])
    whole = np.concatenate([rows[np.isin(positions, decoded)] for positions, rows in parts], axis=1)
    logits = head.predict(whole, batch_size=1024, verbose=0) if len(whole) else np.empty((0, head.output_shape[1]))
    return decoded, probabilities(logits)


def _decoded(
    images: Sequence[ImageFile],
    config: ImageConfig,
    batch_size: int,
    width: int,
    function: Callable[[np.ndarray], np.ndarray],
    advance: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Ascending positions int64 [n] of decodable images; `function` of their pixels, float32 [n, width]."""
    positions, rows = [np.empty(0, np.int64)], [np.empty((0, width), np.float32)]
    for batch, pixels in decoded_batches(images, config, batch_size):
        positions.append(batch)
        rows.append(function(pixels))
        advance(len(batch))
    return np.concatenate(positions), np.concatenate(rows)
