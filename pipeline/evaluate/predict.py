"""Predict the classes of any images with a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from headstart.features.errors import DataError
from headstart.features.frozen.network import load_network
from headstart.features.images.pixels import ImageConfig, Resize
from headstart.features.images.scan import ImageFile, Reject, inspect_images
from headstart.features.terminal import progress
from headstart.pipeline.data.listing import files_below
from headstart.pipeline.data.trainable import too_many_rejects
from headstart.pipeline.evaluate.config import PredictConfig
from headstart.pipeline.featured import run_networks
from headstart.pipeline.metrics import probabilities
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run, require_finite

if TYPE_CHECKING:
    import tensorflow as tf

_Rows = dict[int, np.ndarray]  # maps the position of an image to its row of logits or features, by ascending position


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
    max_rejects: float = 1.0  # the fraction of rejects with which the command succeeds

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {"predictions": list(map(asdict, self.predictions)), "rejects": list(map(asdict, self.rejects))}

    def failure(self) -> DataError | None:
        """Return the error to raise after the predictions are shown, if too many files were rejected."""
        found = len(self.predictions) + len(self.rejects)
        problem = too_many_rejects(self.rejects, found, self.max_rejects)
        return DataError(f"{problem}; the others were classified") if problem else None

    def lines(self) -> list[Any]:
        """Return the summary that is printed without `--json`."""
        lines = [f"{item.path}: {item.label} ({item.probability:.4f})" for item in self.predictions]
        return lines + [f"{reject.path}: {reject.reason}, {reject.detail}" for reject in self.rejects]


def predict(
    path: Path, sources: Sequence[Path], config: PredictConfig = PredictConfig(), places: Places = Places()
) -> PredictResult:
    """Classify image files, and the images in folders, by a run's fine-tuned classifier or, without one, by its head.

    The result has a `failure` if the fraction of rejects exceeds `config.max_rejects`.

    Raises RunError if there is no run at `path`, or if the backbone's weights changed. Raises DataError if a source
    does not exist, or if no file can be used. `places` says where the weights are now, if they moved.
    """
    run = Run.open(path)
    features, extraction = run.configs()
    files = _files(sources)
    seen = inspect_images(files, config.max_pixels or extraction.max_pixels, pages=features.pages)
    # A file named as a source should be an image, so it is a reject if it is none. A folder may hold other files, too.
    rejects = [
        Reject(str(file), "not-an-image", "no image by its content")
        for file, found in zip(files, seen, strict=True)
        if not found and file in sources
    ]
    rejects += [image for found in seen for image in found if isinstance(image, Reject)]
    images = [image for found in seen for image in found if isinstance(image, ImageFile)]
    predictions, undecodable = _predict(run, images, places) if images else ([], [])
    rejects += undecodable
    if not predictions:
        first = "; ".join(f"{reject.path} ({reject.reason})" for reject in rejects[:3])
        raise DataError(f"none of {len(files)} files could be used" + (f": {first}" if first else ""))
    return PredictResult(predictions, rejects, config.max_rejects)


def _files(sources: Sequence[Path]) -> list[Path]:
    """List the files among `sources`, and the files in each folder among `sources`."""
    files: list[Path] = []
    for source in sources:
        if not source.exists():
            raise DataError(f"{source}: no such file or folder")
        files += files_below(source) if source.is_dir() else [source]
    return files


def _predict(run: Run, images: Sequence[ImageFile], places: Places) -> tuple[list[Prediction], list[Reject]]:
    """Return predictions for the images that can be decoded, and rejects for the others."""
    from headstart.features.images.batches import why_undecodable

    class_names = run.class_names()
    tuned = run.classifier_file.exists()
    logits = _by_classifier(run, images) if tuned else _by_head(run, images, places)
    if logits:
        require_finite(np.stack([*logits.values()]), run.classifier_file if tuned else run.head_file)
    chances = probabilities(np.stack([*logits.values()])) if logits else ()
    predictions = [
        Prediction(
            path=images[position].path,
            label=class_names[int(row.argmax())],
            probability=float(row.max()),
            probabilities=dict(zip(class_names, map(float, row), strict=True)),
        )
        for position, row in zip(logits, chances, strict=True)
    ]
    return predictions, [why_undecodable(image) for position, image in enumerate(images) if position not in logits]


def _by_classifier(run: Run, images: Sequence[ImageFile]) -> _Rows:
    """Return the logits of the fine-tuned classifier for each image that can be decoded."""
    classifier = run.load_model(run.classifier_file)
    config, extraction = run.configs()
    pixels = ImageConfig(config.image_size, cast(Resize, config.resize), config.truncated, config.bits)
    with progress("predicting", len(images)) as advance:
        return _decoded(images, pixels, extraction.batch_size, classifier.predict_on_batch, advance)


def _by_head(run: Run, images: Sequence[ImageFile], places: Places) -> _Rows:
    """Return the logits of the head, on features in float32, for each image that can be decoded."""
    networks = [
        load_network(replace(network.config, precision="float32"), network.extraction)
        if network.config.precision != "float32"
        else network
        for network in run_networks(run, places)
    ]
    from headstart.features.frozen.frozen import folded_backbone, traced
    from headstart.features.tensorflow import tf

    width = sum(network.backbone.shape(cut)[0] for network in networks for cut in network.cuts)
    head = run.load_model(run.head_file, (width,))
    parts = []
    with progress("predicting", len(networks) * len(images)) as advance:
        for network in networks:
            graph = traced(folded_backbone(network.backbone), network.cuts)  # takes any batch size: images are few

            def features(pixels: np.ndarray, graph: Callable[[tf.Tensor], list[tf.Tensor]] = graph) -> np.ndarray:
                return np.concatenate([output.numpy() for output in graph(tf.constant(pixels))], axis=1)

            parts.append(_decoded(images, network.images, network.extraction.batch_size, features, advance))
    # Each network decodes the images anew, and a file may be removed in between.
    decoded = [position for position in parts[0] if all(position in rows for rows in parts)]
    if not decoded:
        return {}
    whole = np.stack([np.concatenate([rows[position] for rows in parts]) for position in decoded])
    return dict(zip(decoded, head.predict(whole, batch_size=1024, verbose=0), strict=True))


def _decoded(
    images: Sequence[ImageFile],
    config: ImageConfig,
    batch_size: int,
    function: Callable[[np.ndarray], np.ndarray],
    advance: Callable[[int], None],
) -> _Rows:
    """Apply `function` to batches of the images that can be decoded, and return a row for each of these images.

    `function` maps pixels, uint8 [b, H, W, 3], to rows [b, D]. `advance` receives the number of images in each batch.
    """
    from headstart.features.frozen.frozen import default_batch_size
    from headstart.features.images.batches import decoded_batches

    rows: _Rows = {}
    for positions, pixels in decoded_batches(images, config, batch_size or default_batch_size()):
        rows.update(zip(positions.tolist(), function(pixels), strict=True))
        advance(len(positions))
    return rows
