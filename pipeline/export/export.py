"""`headstart export`: write a model of a run for another runtime, and compare the export's answers with the run's."""

import importlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.files import folder_written_atomically, require_space, scratch_folder
from headstart.features.images.files.fetched import bytes_kept
from headstart.features.images.scan import ImageFile
from headstart.features.terminal import console, progress
from headstart.pipeline.export.card import card
from headstart.pipeline.export.comparison import Comparison, compare
from headstart.pipeline.export.config import MODEL_FILES, MODULES, ModelExportConfig
from headstart.pipeline.export.folder import labels_of, require_free, write_beside
from headstart.pipeline.export.formats.packages import require_packages
from headstart.pipeline.export.images import RunImages, decoded, find_images, local_files
from headstart.pipeline.export.measure import DECODED, Asked, measure
from headstart.pipeline.export.source import Source, load_source
from headstart.pipeline.locating import known_store, run_data
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run
from headstart.pipeline.runs.choice import choose_model


@dataclass(frozen=True)
class ExportResult:
    """A finished export, whose answers are close enough to the answers of its run."""

    format: str
    precision: str
    path: str  # of the model: a file, or the folder of a SavedModel
    bytes: int  # of the model alone
    answers: str  # which model of the run was exported, and why
    comparison: Comparison

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        own = {"format": self.format, "precision": self.precision, "path": self.path, "bytes": self.bytes}
        return {**own, **self.comparison.fields()}

    def lines(self) -> Iterator[str]:
        """Yield the summary that is printed without `--json`."""
        yield f"{self.path}: {self.format}, {self.precision}, {self.bytes / 1e6:.1f} MB; {self.answers}"
        yield from self.comparison.lines()
        yield f"beside it: labels.json, preprocess.py, example.py and a model card; try `python {self._example} IMAGE`"

    @property
    def _example(self) -> Path:
        return Path(self.path).parent / "example.py"


def export(
    path: Path,
    out: Path,
    config: ModelExportConfig,
    places: Places = Places(),
    overwrite: bool = False,
    seed: int = 0,
) -> ExportResult:
    """Write a model of the run at `path` to the folder `out`.

    The answers of the export are compared with the answers of the run in float32. If the answers differ too much,
    nothing is written.

    Args:
        places: where the run's data, store and weights are now.
        overwrite: whether to replace an export at `out`.
        seed: decides which val images are compared, and which training images calibrate int8.

    Raises:
        ExportError: something at `out` is not to be replaced (see `require_free`), the format can't hold the network,
            the format's runtime is missing, or the answers differ too much (see `Comparison.require_close`).
        RunError, DataError, WeightsError: the run, its data or its weights are missing, or can't be used.
    """
    run = Run.open(path)
    require_free(out, overwrite)
    require_packages(config.format, config.precision)
    choice = choose_model(run, config.model)
    with bytes_kept(known_store(run, places), run_data(run, places)):
        images = find_images(run, places)
        drawn, labels = images.draw("val", config.images, seed)
        source = load_source(run, choice, places)
        _tell(source)
        with folder_written_atomically(out, replace=overwrite) as folder:
            model = folder / MODEL_FILES[config.format]
            _write(source, model, config, images, seed)
            compared = _compared(source, model, config, drawn, labels)
            compared.require_close(config)
            described = labels_of(source.facts(), config.format, config.precision, source.second_above)
            described |= {"bytes": _bytes(model), "comparison": compared.fields()}
            write_beside(folder, config.format, described, card(source, described, compared))
    answers = source.choice.line().replace(" answers", "", 1)
    return ExportResult(config.format, config.precision, str(out / model.name), described["bytes"], answers, compared)


def _tell(source: Source) -> None:
    if source.calibration is None:
        console.print(f"{source.run.path}: holds no calibration, so probabilities are as the model gives them")
    precision = source.run.feature_config().precision
    if source.networks and precision != "float32":
        console.print(
            f"{source.run.path}: its features are {precision}; the export computes in float32, and is compared with "
            "the run in float32"
        )


def _write(source: Source, model: Path, config: ModelExportConfig, images: RunImages, seed: int) -> None:
    calibration = None
    if config.precision == "int8":
        training, _ = images.draw("train", config.calibration_images, seed)
        calibration = np.concatenate(list(decoded(training, source.images)))
    module = importlib.import_module(f"headstart.pipeline.export.formats.{MODULES[config.format]}")
    module.write(source.deployable(), model, config.precision, calibration)


def _compared(
    source: Source, model: Path, config: ModelExportConfig, images: Sequence[ImageFile], labels: np.ndarray
) -> Comparison:
    """Run the export at `model` on `images`, in another process. Compare its answers with the run's answers."""
    side, answers, rows = source.images.size, source.answers(), []
    with scratch_folder(model.parent.parent, "measured") as scratch:
        shape = (len(images), side, side, 3)
        require_space(scratch, math.prod(shape))
        pixels = np.lib.format.open_memmap(scratch / DECODED, "w+", np.uint8, shape)
        with progress("comparing the export with the run", len(images)) as advance:
            at = 0
            for batch in decoded(images, source.images):
                pixels[at : at + len(batch)] = batch
                rows.append(answers(batch))
                at += len(batch)
                advance(len(batch))
        pixels.flush()
        files, names = local_files(images, scratch), [image.path for image in images]
        asked = Asked(config.format, str(model.resolve()), files, names, source.preprocessing)
        measured = measure(scratch, asked)
    return compare(np.concatenate(rows), measured, labels, source.second_above)


def _bytes(model: Path) -> int:
    """Return the size in bytes of all files of the model."""
    files = model.rglob("*") if model.is_dir() else model.parent.glob(f"{model.stem}.*")
    return sum(file.stat().st_size for file in files if file.is_file())
