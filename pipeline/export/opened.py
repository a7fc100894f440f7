"""Open an export in its own runtime."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from headstart.features.errors import ExportError, OptionError
from headstart.features.images.pixels import ImageConfig, Resize
from headstart.pipeline.export.config import MODEL_FILES, MODULES, Format
from headstart.pipeline.export.folder import LABELS, read_labels

_SETTINGS = ("size", "resize", "truncated", "bits", "most_pixels")
_AGAIN = "export the run again"
_ROUNDING = 0.01


@dataclass(frozen=True)
class OpenExport:
    """An export whose model is loaded."""

    path: Path  # the folder of the export
    format: Format
    class_names: list[str]
    preprocessing: dict[str, Any]  # the arguments of `preprocess.pixels`
    second_above: float | None  # above this probability, the second of two classes is predicted; None: the likeliest
    labels: dict[str, Any]  # all of `labels.json`
    run: Callable[[np.ndarray], np.ndarray]

    @property
    def image_size(self) -> int:
        """The side of the images that the model takes, in pixels."""
        return int(self.preprocessing["size"])

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        """Return the class probabilities (float32 [B, C]) of images, whose pixels are `batch` (uint8 [B, S, S, 3])."""
        return self.run(batch)

    def label(self, chances: np.ndarray) -> int:
        """Return the label that is predicted from the probabilities of an image, float [C]."""
        return int(chances.argmax()) if self.second_above is None else int(chances[1] > self.second_above)


def open_export(path: Path) -> OpenExport:
    """Open the export at `path`. `path` is the folder of the export, or the model in this folder.

    Raises ExportError if `path` is no export, if the export is damaged, or if its runtime is missing. A SavedModel can
    read and write files when it runs, as TensorFlow warns. Open only SavedModels of people you trust.
    """
    is_export = path.is_dir() and (path.name != MODEL_FILES["saved_model"] or (path / LABELS).is_file())
    folder = path if is_export else path.parent
    labels = read_labels(folder)
    format, settings, second_above = labels["format"], labels["preprocessing"], labels.get("second_above")
    model = folder / MODEL_FILES[format]  # what the file says about its place is not believed
    _require_files(model, format)
    _require_valid(folder, settings, second_above, len(labels["class_names"]))
    module = importlib.import_module(f"headstart.pipeline.export.formats.{MODULES[format]}")
    try:
        run = module.load(model)
        blank = np.asarray(run(np.zeros((1, settings["size"], settings["size"], 3), np.uint8)))
    except (ExportError, MemoryError):
        raise
    except Exception as error:  # each runtime raises half a dozen kinds
        said = " ".join(str(error).split())[:200]
        raise ExportError(f"{model}: its runtime can't load it, or run it ({said}); {_AGAIN}") from error
    classes = len(labels["class_names"])
    if blank.shape != (1, classes) or not _are_probabilities(blank):
        raise ExportError(f"{model}: does not give {classes} probabilities, one a class of labels.json; {_AGAIN}")
    return OpenExport(folder, format, labels["class_names"], settings, second_above, labels, run)


def _require_files(model: Path, format: Format) -> None:
    """Raise an ExportError if a file of the model is missing, or is no regular file."""
    if not (model.is_dir() if format == "saved_model" else model.is_file()):
        raise ExportError(f"{model.parent}: has no {model.name}; {_AGAIN}")
    parts = model.rglob("*") if model.is_dir() else model.parent.glob(f"{model.stem}.*")
    if odd := next((part for part in parts if part.exists() and not (part.is_file() or part.is_dir())), None):
        raise ExportError(f"{odd}: is no regular file; {_AGAIN}")


def _are_probabilities(found: np.ndarray) -> bool:
    """Return whether each row of `found` holds probabilities that sum to 1. NaN is not a probability."""
    within = (found >= -_ROUNDING) & (found <= 1 + _ROUNDING)
    return bool(within.all() and (np.abs(found.sum(axis=1) - 1) <= _ROUNDING).all())


def _require_valid(folder: Path, settings: dict[str, Any], second_above: object, classes: int) -> None:
    """Raise an ExportError if the preprocessing settings or the threshold from `labels.json` are not valid."""
    try:
        size, resize, truncated, bits, most = (settings[name] for name in _SETTINGS)
        ImageConfig(size, resize, truncated, bits)
        known = len(settings) == len(_SETTINGS) and resize in get_args(Resize) and truncated in ("reject", "keep")
        whole = isinstance(size, int) and isinstance(most, int) and most > 0
        of_two = second_above is None or (isinstance(second_above, float) and 0 < second_above < 1 and classes == 2)
        if not (known and whole and of_two):
            raise ValueError
    except (OptionError, KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{folder}/labels.json: is damaged; {_AGAIN}") from error
