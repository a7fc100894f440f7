"""The state of an unfinished fine-tuning, saved atomically after every epoch.

Keras's callbacks (`BackupAndRestore`, `ModelCheckpoint`, `CSVLogger`) write several files into `work/`, one after
another. After each epoch, `work/` is copied to `epoch-<n>/` atomically. So a process that is killed at any moment
leaves a consistent state.

    finetune.partial/
        start.json     settings, precision, and the metrics of epoch 0
        epoch-0003/    the last finished epoch, from which a repeated call continues
        work/          files that the callbacks are writing
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

from headstart.features.files import folder_written_atomically, write_json
from headstart.pipeline.runs import read_json


class FinetuneState:
    """The state of a fine-tuning in `folder`, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._start_file, self._work = folder, folder / "start.json", folder / "work"
        self.best_weights = self._work / "best.weights.h5"
        self.csv = self._work / "history.csv"
        self.backup = self._work / "backup"
        self._seconds_file = self._work / "seconds.json"

    def begin(self, start: dict[str, Any]) -> None:
        """Remove any earlier state, and write `start` to `start.json`."""
        self.drop()
        self._work.mkdir(parents=True)
        write_json(self._start_file, start)

    def start(self) -> dict[str, Any]:
        """Return the content of `start.json`; {} if there is no such file. Raises RunError if the file is damaged."""
        return read_json(self._start_file, "--overwrite begins anew") if self._start_file.exists() else {}

    def resume(self) -> int | None:
        """Copy the kept state to `work/`, and return its epoch. Returns None if there is no kept state."""
        kept = sorted(self.folder.glob("epoch-*"))
        if not kept or not self._start_file.exists():
            return None
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(kept[-1], self._work)
        return int(kept[-1].name.removeprefix("epoch-"))

    def keep(self, epoch: int) -> None:
        """Keep `work/` as the state after `epoch`, and drop the previous state."""
        before = list(self.folder.glob("epoch-*"))
        with folder_written_atomically(self.folder / f"epoch-{epoch:04d}") as copy:
            shutil.copytree(self._work, copy, dirs_exist_ok=True)
        for path in before:
            shutil.rmtree(path)

    def spend(self, seconds: float) -> None:
        """Add `seconds` to the training time in `work/`."""
        write_json(self._seconds_file, self.seconds() + seconds)

    def seconds(self) -> float:
        """Return the training time in `work/`, in seconds, summed over all starts."""
        return float(json.loads(self._seconds_file.read_text())) if self._seconds_file.exists() else 0.0

    def drop(self) -> None:
        """Remove the folder. `start.json` is removed first: without this file, `resume` ignores what remains."""
        self._start_file.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def history(self) -> list[dict[str, float]]:
        """Return the history in `work/`, one row per finished epoch. Epochs count from 1."""
        if not self.csv.exists():
            return []
        with self.csv.open(newline="") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        return [{**row, "epoch": epoch} for epoch, row in enumerate(rows, 1)]
