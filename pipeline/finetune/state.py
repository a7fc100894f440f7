"""The state of an unfinished fine-tuning, kept whole after every epoch.

Keras's callbacks (`BackupAndRestore`, `ModelCheckpoint`, `CSVLogger`) write several files in place, one after another.
They write into `work/`; when an epoch is finished, `work/` is copied and renamed to `epoch-<n>/`, so that a kill at
any moment leaves one consistent state.

    finetune.partial/
        start.json     settings, and the metrics of epoch 0
        epoch-0003/    what is gone on from
        work/          what the callbacks are writing
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

from headstart.features.files import flush_to_disk, write_json


class FinetuneState:
    """The states kept in `folder`, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._start_file = folder / "start.json"
        self._work = folder / "work"
        self.best_weights = self._work / "best.weights.h5"
        self.csv = self._work / "history.csv"
        self.backup = self._work / "backup"
        self._seconds_file = self._work / "seconds.json"

    def begin(self, start: dict[str, Any]) -> None:
        """Begin anew, remembering `start`."""
        self.drop()
        self._work.mkdir(parents=True)
        write_json(self._start_file, start)

    def start(self) -> dict[str, Any]:
        """What `begin` was given; empty where nothing was begun."""
        content: dict[str, Any] = json.loads(self._start_file.read_text()) if self._start_file.exists() else {}
        return content

    def resume(self) -> int | None:
        """Put the last state kept back into work; its epoch, or None where there is none."""
        kept = sorted(self.folder.glob("epoch-*"))
        if not kept or not self._start_file.exists():
            return None
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(kept[-1], self._work)
        return int(kept[-1].name.removeprefix("epoch-"))

    def keep(self, epoch: int) -> None:
        """Keep the state in work as that after `epoch`, and drop the one before."""
        before = list(self.folder.glob("epoch-*"))
        copy = self.folder / "copy.partial"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._work, copy)
        for path in copy.rglob("*"):
            flush_to_disk(path)
        copy.rename(self.folder / f"epoch-{epoch:04d}")
        for path in before:
            shutil.rmtree(path)

    def spend(self, seconds: float) -> None:
        """Add to the time spent on the state in work."""
        write_json(self._seconds_file, self.seconds() + seconds)

    def seconds(self) -> float:
        """The time spent on the state in work, all starts together."""
        return float(json.loads(self._seconds_file.read_text())) if self._seconds_file.exists() else 0.0

    def drop(self) -> None:
        """Remove everything; the start first, without which the rest is not gone on from."""
        self._start_file.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def history(self) -> list[dict[str, float]]:
        """A row for each finished epoch of the state in work; epochs count from 1."""
        if not self.csv.exists():
            return []
        with self.csv.open(newline="") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        return [{**row, "epoch": epoch} for epoch, row in enumerate(rows, 1)]
