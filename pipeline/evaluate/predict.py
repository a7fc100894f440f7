"""Probabilities for any images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import tensorflow as tf
from headstart.features.backbones.frozen import BATCH_SIZE, FrozenBackbone
from headstart.features.backbones.network import load_networks, weights_digest
from headstart.features.config import FeatureConfig
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
    """The likeliest class of an image, its probability, and that of every class by name."""

    path: str
    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class PredictResult:
    """Predictions in the order of the paths given, folders sorted within, and the files that could not be used."""

    predictions: list[Prediction]
    rejects: list[Reject]


def predict(path: Path, sources: Sequence[Path]) -> PredictResult:
    """Classify image files, and those in folders, with the fine-tuned classifier of a run, or else with its head.

    Raises:
        RunError: no run at `path`.
        DataError: a source that does not exist, or no file that could be used.
    """
    run = Run.open(path)
    files = _files(sources)
    seen = inspect_images(files)
    # A file that was named is meant as an image; among those of a folder others may lie.
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
    return PredictResult(predictions, rejects)


def _files(sources: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for source in sources:
        if not source.exists():
            raise DataError(f"{source}: no such file or folder")
        files += files_below(source) if source.is_dir() else [source]
    return files


def _predict(run: Run, images: Sequence[ImageFile]) -> tuple[list[Prediction], list[Reject]]:
    class_names: list[str] = run.config()["class_names"]
    settings = FeatureConfig(**{**run.config()["features"], "precision": "float32"})
    decoded, chances = (
        _with_classifier(run, settings, images) if run.classifier_file.exists() else _with_head(run, settings, images)
    )
    predictions = [
        Prediction(
            images[position].path,
            class_names[int(row.argmax())],
            float(row.max()),
            dict(zip(class_names, map(float, row), strict=True)),
        )
        for position, row in zip(decoded.tolist(), chances, strict=True)
    ]
    undecodable = sorted(set(range(len(images))) - set(decoded.tolist()))
    return predictions, [why_undecodable(images[position]) for position in undecodable]


def _with_classifier(run: Run, settings: FeatureConfig, images: Sequence[ImageFile]) -> tuple[np.ndarray, np.ndarray]:
    """Positions [n] of what can be decoded, and probabilities float64 [n, classes] of the fine-tuned classifier."""
    classifier = run.load_model(run.classifier_file)
    config = ImageConfig(settings.image_size, settings.resize, settings.truncated)

    with progress("predicting", len(images)) as advance:
        decoded, logits = _decoded(
            images, config, settings.batch_size or BATCH_SIZE, classifier.output_shape[1], classifier.predict_on_batch,
            advance,
        )  # fmt: skip
    return decoded, probabilities(logits)


def _with_head(run: Run, settings: FeatureConfig, images: Sequence[ImageFile]) -> tuple[np.ndarray, np.ndarray]:
    """Positions [n] of what can be decoded, and probabilities float64 [n, classes] of the head on its features."""
    networks = load_networks(settings)
    if weights_digest(networks) != run.config()["weights_digest"]:
        raise RunError(f"{run.path}: {settings.weights} holds other weights than those it was trained with")
    head = run.load_model(run.head_file)
    parts = []
    with progress("predicting", len(networks) * len(images)) as advance:
        for network in networks:
            graph = FrozenBackbone(network.backbone, network.cuts).traced(None)  # one image is no whole batch

            def features(pixels: np.ndarray, graph: Callable[[tf.Tensor], list[tf.Tensor]] = graph) -> np.ndarray:
                return np.concatenate([output.numpy() for output in graph(tf.constant(pixels))], axis=1)

            width = sum(network.backbone.shape(cut)[0] for cut in network.cuts)
            batch_size = settings.batch_size or BATCH_SIZE
            parts.append(_decoded(images, network.images, batch_size, width, features, advance))
    # Every network's images are decoded anew: one may have gone in between.
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
    """Positions int64 [n] of what can be decoded, ascending, and `function` of its pixels, float32 [n, width]."""
    positions, rows = [np.empty(0, np.int64)], [np.empty((0, width), np.float32)]
    for batch, pixels in decoded_batches(images, config, batch_size):
        positions.append(batch)
        rows.append(function(pixels))
        advance(len(batch))
    return np.concatenate(positions), np.concatenate(rows)
