"""The run folder: one training's settings, history, models and metrics.

RUN/
    config.json               settings, versions, fingerprints, digests of the class and example lists
    history.csv               phase, epoch, loss, accuracy, val_loss, val_accuracy, further figures on val
    logs/                     TensorBoard logs; the epochs of both phases share one axis
    head.keras                features -> logits
    classifier.keras          raw pixels -> logits; only after fine-tuning
    examples.csv              path, digest, label and split of each example
    metrics.json              metrics on val, and the metrics of `headstart evaluate`
    predictions-<split>.csv   path, digest, label, predicted label and logits of each example
    confusion-<split>.csv     the number of examples of each pair of true and predicted label that occurs
    finetune.partial/         state of an unfinished fine-tuning (see `pipeline.finetune.state`)
    finetune.state/           state of a finished fine-tuning, from which more epochs go on
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import platform
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.features.config import ExtractionConfig, FeatureConfig, configs_from_json
from headstart.features.errors import RunError
from headstart.features.files import folder_written_atomically, remove_left_over, write_atomically, write_json
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.spreadsheets import original_text, spreadsheet_safe

if TYPE_CHECKING:
    import keras
    from headstart.pipeline.data.examples import Example

HISTORY_COLUMNS = ("phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy")
_PACKAGES = ("headstart", "tensorflow", "keras", "numpy", "h5py", "pillow")


class Run:
    """The files of the run folder `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.history_file = path / "history.csv"
        self.examples_file = path / "examples.csv"
        self.logs = path / "logs"
        self.head_file = path / "head.keras"
        self.classifier_file = path / "classifier.keras"
        self.metrics_file = path / "metrics.json"
        self.unfinished = path / "finetune.partial"
        self.finished = path / "finetune.state"

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open the run at `path`. If a process was killed while it replaced this run, the old run is first put back.

        Raises RunError if there is no run at `path`.
        """
        if not path.exists():
            _clear_left_over(path)
        run = cls(path)
        lacking = [file.name for file in (run.config_file, run.head_file) if not file.is_file()]
        if lacking:
            raise RunError(
                f"{path}: not a run folder, it has no {lacking[0]}; `headstart head DATA --run RUN` makes one"
            )
        return run

    def config(self) -> dict[str, Any]:
        """Read `config.json`. Raises RunError if the file is damaged."""
        return read_json(self.config_file)

    def configs(self) -> tuple[FeatureConfig, ExtractionConfig]:
        """Return the settings of the features that the head was trained on, and the settings of their extraction."""
        return configs_from_json(self.config()["features"])

    def read_as(self) -> DataConfig:
        """Return the settings by which the run's data are read.

        Runs of versions before 0.2 have not saved them: their data are read by the layout `v1`. Raises RunError if a
        saved setting is unknown, because a later version of headstart wrote it.
        """
        found = self.config().get("reading", {"layout": "v1"})
        try:
            return DataConfig(**found)
        except TypeError as error:
            raise RunError(f"{self.config_file}: `reading` is of another version of headstart ({error})") from error

    def class_names(self) -> list[str]:
        """Return the class names. A label is an index into this list."""
        return list(self.config()["class_names"])

    def load_model(self, file: Path) -> keras.Model:
        """Load the head or classifier from `file`. Raises RunError if the file is damaged."""
        from headstart.features.tensorflow import keras  # late, so that a wrong folder is reported before this

        try:
            return keras.models.load_model(file)
        except Exception as error:  # a damaged zip, HDF5 or JSON: each library raises its own
            raise RunError(f"{file}: can't be loaded ({error}); the run is damaged, train it again") from error

    def metrics(self) -> dict[str, Any]:
        """Read `metrics.json`. Without such a file, return an empty dict."""
        return read_json(self.metrics_file) if self.metrics_file.exists() else {}

    def history(self) -> list[dict[str, str]]:
        """Read the rows of `history.csv`."""
        return read_csv(self.history_file)

    def write_examples(self, examples: Iterable[Example], class_names: Sequence[str]) -> None:
        """Write `examples.csv`."""
        rows = ((one.image.path, one.image.digest, class_names[one.label], one.split) for one in examples)
        write_csv(self.examples_file, ("path", "digest", "label", "split"), rows)

    def digests(self, split: str) -> set[str]:
        """Read the digests of the run's examples in `split` from `examples.csv`."""
        return {row["digest"] for row in read_csv(self.examples_file) if row["split"] == split}

    def write_history(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write `history.csv`. Further figures on val get columns after the others, empty where a row has none."""
        rows = list(rows)
        further = dict.fromkeys(name for row in rows for name in row if name.startswith("val_"))
        columns = list(dict.fromkeys([*HISTORY_COLUMNS, *further]))
        write_csv(self.history_file, columns, ([row.get(name, "") for name in columns] for row in rows))

    def update(self, file: Path, **fields: Any) -> None:
        """Set top-level `fields` of `file`, one of the run's JSON files. Other fields stay as they are."""
        write_json(file, {**(read_json(file) if file.exists() else {}), **fields})

    def predictions_file(self, split: str) -> Path:
        """Return the path of `predictions-<split>.csv`."""
        return self.path / f"predictions-{split}.csv"

    def confusion_file(self, split: str) -> Path:
        """Return the path of `confusion-<split>.csv`."""
        return self.path / f"confusion-{split}.csv"


def read_json(file: Path, remedy: str = "the run is damaged, train it again") -> dict[str, Any]:
    """Read the JSON object in a file of a run. Without one, raise a RunError whose message ends with `remedy`."""
    try:
        content = json.loads(file.read_text("utf-8", "surrogateescape"))
    except ValueError as error:
        raise RunError(f"{file}: not JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise RunError(f"{file}: expected a JSON object; {remedy}")
    return content


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file that `write_csv` wrote. A row is a dict from column name to text."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [
            {
                original_text(name): original_text(value) if isinstance(value, str) else value
                for name, value in row.items()
            }
            for row in csv.DictReader(file)
        ]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically. Text that a spreadsheet would take for a formula is written safely."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in itertools.chain([header], rows):
        writer.writerow([spreadsheet_safe(cell) if isinstance(cell, str) else cell for cell in row])
    write_atomically(path, text.getvalue())


@contextmanager
def new_run(path: Path, overwrite: bool) -> Iterator[Run]:
    """Yield a run in a temporary folder beside `path`. On success rename the folder to `path`, else remove it.

    Raises RunError if a run may not be written to `path` (see `require_free`), or if another process makes `path`
    meanwhile.
    """
    require_free(path, overwrite)
    try:
        with folder_written_atomically(path, replace=overwrite) as folder:
            yield Run(folder)
    except FileExistsError as error:
        if error.filename != str(path):
            raise
        raise RunError(f"--run {path}: another process made it meanwhile; give another name, or --overwrite") from error


def require_free(path: Path, overwrite: bool) -> None:
    """Raise RunError if a new run may not be written to `path`.

    With `overwrite`, a run may exist at `path`. Without it, nothing may exist there. The function first cleans up after
    killed processes.
    """
    _clear_left_over(path)
    if path.exists():
        if not overwrite:
            raise RunError(f"--run {path}: exists; give another name, or --overwrite to replace it")
        Run.open(path)


def _clear_left_over(path: Path) -> None:
    """Remove half-written runs of killed processes beside `path`, and put back a run that such a process moved away."""
    remove_left_over(path.parent)
    # Earlier versions wrote a run as `.NAME.PID.partial`. Before they replaced an old run, they moved it to
    # `.NAME.PID.replaced`.
    name = re.compile(rf"\.{re.escape(path.name)}\.(?P<pid>\d+)\.(?:partial|replaced)")
    found = [(folder, name.fullmatch(folder.name)) for folder in path.parent.glob(".*")]
    import psutil  # late: most commands don't need it

    dead = [folder for folder, match in found if match and not psutil.pid_exists(int(match["pid"]))]
    with suppress(FileNotFoundError):  # another process may clear them too
        for folder in sorted(dead, key=lambda folder: folder.stat().st_ctime, reverse=True):
            if folder.suffix == ".replaced" and not path.exists():
                folder.rename(path)  # the run moved last; those moved before may be half removed
            else:
                shutil.rmtree(folder, ignore_errors=True)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a run's results."""
    return {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}


def list_digests(examples: Sequence[Example], class_names: Sequence[str]) -> dict[str, str]:
    """Return SHA-256 hashes: of the class names, under `classes`, and of each split's (digest, label) pairs.

    File names and the order of `examples` don't matter.
    """
    lines: dict[str, list[str]] = {"classes": list(class_names)}
    for example in sorted(examples, key=lambda example: (example.image.digest, example.label)):
        lines.setdefault(example.split, []).append(f"{example.image.digest} {example.label}")
    texts = {name: "\n".join(entries).encode(errors="surrogateescape") for name, entries in lines.items()}
    return {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}


def require_unchanged(run: Run, examples: Sequence[Example], class_names: Sequence[str], splits: Sequence[str]) -> None:
    """Raise RunError if the classes, or the examples of `splits`, differ from the data that the run was trained on."""
    then, now = run.config()["examples"], list_digests(examples, class_names)
    changed = [name for name in ("classes", *splits) if then.get(name) != now.get(name)]
    if changed:
        raise RunError(
            f"{run.path}: the data changed since its head was trained ({', '.join(changed)}); "
            "run `headstart head` again, with --overwrite"
        )
