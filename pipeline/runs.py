"""The run folder: one training's configuration, history, model and metrics.

RUN/
    config.json               settings, versions, fingerprints, digests of the class and example lists
    history.csv               phase, epoch, loss, accuracy, val_loss, val_accuracy
    logs/                     TensorBoard, both phases on one axis
    head.keras                features -> logits
    classifier.keras          raw pixels -> logits; only after fine-tuning
    examples.csv              path, digest, label and split of each example
    metrics.json              what was measured on val, and by `headstart evaluate`
    predictions-<split>.csv   path, digest, label and logits of each example
    finetune.partial/         the last finished epoch of a fine-tuning that is not finished
"""

import csv
import hashlib
import io
import json
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.features.errors import RunError
from headstart.features.files import write_atomically, write_json
from headstart.pipeline.data.examples import Example

if TYPE_CHECKING:
    import keras

HISTORY_COLUMNS = ("phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy")
_PACKAGES = ("headstart", "tensorflow", "keras", "numpy", "h5py", "pillow")


class Run:
    """The files of one run folder.

    Args:
        path: the folder; it need not exist yet.
    """

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

    @classmethod
    def open(cls, path: Path) -> "Run":
        """The run at `path`.

        Raises:
            RunError: there is none.
        """
        run = cls(path)
        for file in (run.config_file, run.head_file):
            if not file.is_file():
                raise RunError(
                    f"{path}: not a run folder, it has no {file.name}; `headstart head DATA --run RUN` makes one"
                )
        return run

    def config(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return _read_json(self.config_file)

    def load_model(self, file: Path) -> "keras.Model":
        """The head or classifier saved in `file`.

        Raises:
            RunError: it is damaged.
        """
        import keras

        try:
            return keras.models.load_model(file)
        except Exception as error:  # a damaged zip, HDF5 file or JSON in it: each library has its own
            raise RunError(f"{file}: can't be loaded ({error}); the run is damaged, train it again") from error

    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`; empty where there is none."""
        return _read_json(self.metrics_file) if self.metrics_file.exists() else {}

    def history(self) -> list[dict[str, str]]:
        """The rows of `history.csv`."""
        with self.history_file.open(newline="") as file:
            return list(csv.DictReader(file))

    def write_examples(self, examples: Iterable[Example], class_names: Sequence[str]) -> None:
        """Write `examples.csv`."""
        rows = (
            (example.image.path, example.image.digest, class_names[example.label], example.split)
            for example in examples
        )
        write_csv(self.examples_file, ("path", "digest", "label", "split"), rows)

    def digests(self, split: str) -> set[str]:
        """The digests of the run's examples of `split`."""
        with self.examples_file.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return {row["digest"] for row in csv.DictReader(file) if row["split"] == split}

    def write_history(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write `history.csv`."""
        write_csv(self.history_file, HISTORY_COLUMNS, ([row[name] for name in HISTORY_COLUMNS] for row in rows))

    def update(self, file: Path, **fields: Any) -> None:
        """Set top-level fields of one of the run's JSON files."""
        write_json(file, {**(_read_json(file) if file.exists() else {}), **fields})

    def forget_evaluations(self) -> None:
        """Remove what was measured on a classifier that is no more."""
        write_json(self.metrics_file, {key: value for key, value in self.metrics().items() if key != "evaluate"})
        for file in self.path.glob("predictions-*.csv"):
            file.unlink()

    def predictions_file(self, split: str) -> Path:
        """`predictions-<split>.csv`."""
        return self.path / f"predictions-{split}.csv"


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8", "surrogateescape"))
    except ValueError as error:
        raise RunError(f"{file}: not JSON ({error}); the run is damaged, train it again") from error
    if not isinstance(content, dict):
        raise RunError(f"{file}: expected a JSON object; the run is damaged, train it again")
    return content


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file in one step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


@contextmanager
def new_run(path: Path, overwrite: bool) -> Iterator[Run]:
    """Yield a run in a folder beside `path`, and give it that name when all is written; else leave no trace.

    Raises:
        RunError: `path` exists, and may not or must not be overwritten.
    """
    check_free(path, overwrite)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield Run(partial)
        replaced = path.with_name(f".{path.name}.{os.getpid()}.replaced")
        if path.exists():
            path.rename(replaced)
        partial.rename(path)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(path: Path, overwrite: bool) -> None:
    """Make sure that a run may be written to `path`.

    Raises:
        RunError: it exists, and may not or must not be overwritten.
    """
    if path.exists():
        if not overwrite:
            raise RunError(f"--run {path}: exists; give another name, or --overwrite to replace it")
        Run.open(path)  # never replace a folder that is not a run


def versions() -> dict[str, str]:
    """The versions that decide what a run yields."""
    return {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}


def list_digests(examples: Sequence[Example], class_names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of the class list, and of each split's set of (digest, label): names and order do not matter."""
    lines: dict[str, list[str]] = {"classes": list(class_names)}
    for example in sorted(examples, key=lambda example: (example.image.digest, example.label)):
        lines.setdefault(example.split, []).append(f"{example.image.digest} {example.label}")
    return {
        name: hashlib.sha256("\n".join(entries).encode(errors="surrogateescape")).hexdigest()
        for name, entries in lines.items()
    }


def check_unchanged(run: Run, examples: Sequence[Example], class_names: Sequence[str], splits: Sequence[str]) -> None:
    """Make sure that the classes, and the examples of `splits`, are those that the run was trained on.

    Raises:
        RunError: they differ; it names what.
    """
    then, now = run.config()["examples"], list_digests(examples, class_names)
    changed = [name for name in ("classes", *splits) if then.get(name) != now.get(name)]
    if changed:
        raise RunError(
            f"{run.path}: the data changed since its head was trained ({', '.join(changed)}); "
            "run `headstart head` again, with --overwrite"
        )
