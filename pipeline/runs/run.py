"""The run folder: one training's settings, history, models and metrics.

RUN/
    config.json               settings, versions, fingerprints, hashes of the class names and of the examples
    history.csv               phase, epoch, loss, accuracy, val_loss, val_accuracy, further figures on val
    logs/                     TensorBoard logs; the epochs of both phases share one axis
    head.keras                features -> logits
    classifier.keras          raw pixels -> logits; only after fine-tuning
    examples.csv              path, digest, label and split of each example
    metrics.json              metrics on val, and the metrics of `headstart evaluate`
    calibration.json          temperature of each model, and the probabilities of the true labels on val
    reference-<model>.npy     features of some training images, for comparison with other images
    predictions-<split>.csv   path, digest, label, prediction and logits of each example
    confusion-<split>.csv     for each model and each pair (true label, predicted label), the number of examples
    finetune.partial/         state of an unfinished fine-tuning (see `pipeline.finetune.state`)
    finetune.state/           state of a finished fine-tuning, from which more epochs can be trained
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.config import ExtractionConfig, FeatureConfig, configs_from_json
from headstart.features.errors import RunError
from headstart.features.files import write_json
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.runs.config import converted, require_valid_config, require_valid_metrics
from headstart.pipeline.runs.entries import require_own_entries
from headstart.pipeline.runs.files import REMEDY, csv_rows, read_csv, read_json, without_null, write_csv
from headstart.pipeline.runs.left_over import clear_left_over
from headstart.pipeline.runs.paths import with_absolute_paths, with_relative_paths
from headstart.pipeline.scoring.thresholds import Threshold

if TYPE_CHECKING:
    import keras
    from headstart.pipeline.data.examples import Example

HISTORY_COLUMNS = ("phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy")
EXAMPLES_COLUMNS = ("path", "digest", "label", "split")
_LARGEST = 1e6  # absolute value of a logit
PHASES = {"head": "head", "finetuned": "finetune"}  # the field of `metrics.json` of each model


class Run:
    """The files of a run, which lie in the folder `path`.

    While a new run is written, `path` is a temporary folder, and `place` is the path that the run will have.
    """

    def __init__(self, path: Path, place: Path | None = None) -> None:
        self.path = path
        self.place = place or path
        self.config_file = path / "config.json"
        self.history_file = path / "history.csv"
        self.examples_file = path / "examples.csv"
        self.logs = path / "logs"
        self.head_file = path / "head.keras"
        self.classifier_file = path / "classifier.keras"
        self.metrics_file = path / "metrics.json"
        self.calibration_file = path / "calibration.json"
        self.unfinished = path / "finetune.partial"
        self.finished = path / "finetune.state"
        self._contents: dict[Path, tuple[Any, dict[str, Any]]] = {}  # the file's state, and what `_read` returned

    @classmethod
    def open(cls, path: Path) -> Run:
        """Return the run at `path`, with its settings and metrics checked.

        Raises RunError if there is no run at `path`, or if its settings or metrics are damaged or have a form that this
        version of headstart does not know. Also raises RunError if headstart could write outside the run, through a
        symlink; see `require_own_entries`. Half-written files of killed processes are removed first.
        """
        run = cls.existing(path)
        require_own_entries(path)
        run.config()
        run.metrics()
        return run

    @classmethod
    def existing(cls, path: Path) -> Run:
        """Return the run at `path` without reading it. Raises RunError if there is no run at `path`.

        Half-written files of killed processes are removed first. If a killed process moved the run away and put no new
        run in its place, the run is put back.
        """
        clear_left_over(path)
        run = cls(path)
        lacking = [file.name for file in (run.config_file, run.head_file) if not file.is_file()]
        if lacking:
            raise RunError(
                f"{path}: not a run folder, it has no {lacking[0]}; `headstart head DATA --run RUN` makes one"
            )
        return run

    def config(self) -> dict[str, Any]:
        """Return the fields of `config.json` that are not null, with absolute paths.

        Raises RunError if the file is damaged. Callers must not change the result, which is kept for later calls.
        """
        return self._read(self.config_file, self._config_of)

    def _config_of(self, values: dict[str, Any]) -> dict[str, Any]:
        require_valid_config(values, self.config_file)
        return with_absolute_paths(without_null(values), self.place)

    def write_config(self, **fields: Any) -> None:
        """Write `fields` to `config.json`. Absolute paths become relative to the run's folder, if possible."""
        write_json(self.config_file, with_relative_paths(fields, self.place))

    def feature_config(self) -> FeatureConfig:
        """Return the settings of the features that the head was trained on."""
        return configs_from_json(self.config()["features"])[0]

    def extraction_config(self) -> ExtractionConfig:
        """Return the settings with which the features of the head were extracted."""
        return configs_from_json(self.config()["features"])[1]

    def read_as(self) -> DataConfig:
        """Return the settings by which the run's data are read.

        Runs of versions before 0.2 did not save these settings. For such a run, the result has the layout `v1`.
        """
        return DataConfig(**(self.config().get("reading") or {"layout": "v1"}))

    def class_names(self) -> list[str]:
        """Return the class names. A label is an index into this list."""
        return list(self.config()["class_names"])

    def load_model(self, file: Path, shape: tuple[int, ...] | None = None) -> keras.Model:
        """Load the head or classifier from `file`.

        Keras runs no code from the file. Raises RunError if the file is damaged, was saved by a newer Keras, or has
        weights that are not finite. Also raises RunError if the inputs or outputs of the model do not fit this run.

        Args:
            shape: the required shape of one input: `(D,)` for a head, `(H, W, 3)` for a classifier. By default, a head
                may take any number of features, and a classifier takes images of the run's size. If the run's settings
                give no size, a classifier may take images of any size.
        """
        from headstart.pipeline.runs.models import load_classifier, load_head  # late: they import TensorFlow

        if file != self.classifier_file:
            return load_head(file, len(self.class_names()), shape)
        side = self.feature_config().image_size
        return load_classifier(file, len(self.class_names()), shape or ((side, side, 3) if side else None))

    def metrics(self) -> dict[str, Any]:
        """Return the content of `metrics.json`, or an empty dict if there is no such file.

        The result lacks the file's null fields, also those of an object such as `head`, and of its `val` and `before`.
        Only the object `evaluate` is unchanged.

        Raises RunError if the file is damaged. Callers must not change the result, which is kept for later calls.
        """
        return self._read(self.metrics_file, self._metrics_of) if self.metrics_file.exists() else {}

    def _metrics_of(self, values: dict[str, Any]) -> dict[str, Any]:
        require_valid_metrics(values, self.metrics_file)
        return {
            name: field if name == "evaluate" else without_null(field, "val", "before")
            for name, field in without_null(values).items()
        }

    def finetuning_gained_nothing(self) -> bool:
        """Return whether no epoch of fine-tuning was better than the head. The classifier then equals the head."""
        return bool(self.metrics().get("finetune", {}).get("best_epoch") == 0)

    def threshold(self, model: str) -> Threshold | None:
        """Return the threshold of `model` (`head` or `finetuned`) in this run. If the run has none, return None.

        If no epoch of fine-tuning was better than the head, `finetuned` has the threshold of the head. Raises RunError
        if the threshold does not fit the classes of the run.
        """
        phase = "head" if self.finetuning_gained_nothing() else PHASES[model]
        kept = self.metrics().get(phase, {}).get("threshold")
        if kept is None:
            return None
        threshold, names = converted(kept, Threshold), self.class_names()
        if len(names) != 2 or threshold.positive not in names:
            raise RunError(f"{self.metrics_file}: threshold.positive is no class of two; {REMEDY}")
        return threshold

    def keep_thresholds(self, thresholds: Mapping[str, Threshold]) -> None:
        """Write `thresholds` into `metrics.json`. A key of `thresholds` is a model: `head` or `finetuned`.

        If a model has no entry in `thresholds`, its old threshold is removed.
        """
        kept = read_json(self.metrics_file) if self.metrics_file.exists() else {}
        phases = {phase: dict(kept[phase]) for phase in PHASES.values() if kept.get(phase)}
        for model, phase in PHASES.items():
            phases.get(phase, {}).pop("threshold", None)
            if model in thresholds:
                phases[phase] = {**phases.get(phase, {}), "threshold": asdict(thresholds[model])}
        self.update(self.metrics_file, **phases)

    def _read(self, file: Path, checked: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of `checked` for the content of the JSON file `file`.

        The result is kept in RAM, and is returned again until the file changes.
        """
        before = file.stat() if file.exists() else None  # if it is missing, `read_json` raises the error
        state = before and (before.st_ino, before.st_size, before.st_mtime_ns)
        if file not in self._contents or self._contents[file][0] != state:
            self._contents[file] = state, checked(read_json(file))
        return self._contents[file][1]

    def history(self) -> list[dict[str, str]]:
        """Read the rows of `history.csv`. Raises RunError if the file is missing or damaged."""
        return read_csv(self.history_file, HISTORY_COLUMNS)

    def write_examples(self, examples: Iterable[Example], class_names: Sequence[str]) -> None:
        """Write `examples.csv`, with the path, the digest, the class name and the split of each example."""
        rows = ((one.image.path, one.image.digest, class_names[one.label], one.split) for one in examples)
        write_csv(self.examples_file, EXAMPLES_COLUMNS, rows)

    def digests(self, split: str) -> set[str]:
        """Read the digests of the examples in `split`. Raises RunError if `examples.csv` is missing or damaged."""
        rows = csv_rows(self.examples_file, EXAMPLES_COLUMNS)
        return {row["digest"] for row in rows if row["split"] == split}

    def labelled(self, split: str) -> list[tuple[str, int]]:
        """Read the digest and the label of each example in `split`.

        Raises RunError if `examples.csv` is missing or damaged.
        """
        names = {name: label for label, name in enumerate(self.class_names())}
        rows = [row for row in csv_rows(self.examples_file, EXAMPLES_COLUMNS) if row["split"] == split]
        if unknown := [row["label"] for row in rows if row["label"] not in names]:
            raise RunError(f"{self.examples_file}: {unknown[0][:80]!r} is no class of the run; {REMEDY}")
        return [(row["digest"], names[row["label"]]) for row in rows]

    def write_history(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write `history.csv`. A figure on val that has no column in `HISTORY_COLUMNS` gets its own column at the end.

        If a row lacks a figure, the figure's cell is empty.
        """
        rows = list(rows)
        further = dict.fromkeys(name for row in rows for name in row if name.startswith("val_"))
        columns = list(dict.fromkeys([*HISTORY_COLUMNS, *further]))
        write_csv(self.history_file, columns, ([row.get(name, "") for name in columns] for row in rows))

    def update(self, file: Path, **fields: Any) -> None:
        """Set `fields` in `file`, which is one of the run's JSON files. All other top-level fields stay as they are."""
        write_json(file, {**(read_json(file) if file.exists() else {}), **fields})

    def reference_file(self, model: str) -> Path:
        """Return the path of `reference-<model>.npy`."""
        return self.path / f"reference-{model}.npy"

    def predictions_file(self, split: str) -> Path:
        """Return the path of `predictions-<split>.csv`."""
        return self.path / f"predictions-{split}.csv"

    def confusion_file(self, split: str) -> Path:
        """Return the path of `confusion-<split>.csv`."""
        return self.path / f"confusion-{split}.csv"


def require_finite(values: np.ndarray, file: Path, remedy: str = REMEDY) -> np.ndarray:
    """Return `values` unchanged. `values` are the outputs of the model in `file`.

    Raises a RunError if a value is not finite, or is over 1e6 in absolute value. Such values might make metrics
    overflow. The message ends with `remedy`.
    """
    bad = int((~(np.abs(values) <= _LARGEST)).any(axis=-1).sum())
    if bad:
        raise RunError(
            f"{file}: its outputs for {bad} of {len(values)} images are not finite, or over {_LARGEST:g}; {remedy}"
        )
    return values
