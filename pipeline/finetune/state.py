"""The state of a fine-tuning: its settings, and everything that it needs to go on after its last finished epoch.

While the fine-tuning is unfinished, the state lies in `finetune.partial/` of the run. Afterwards it lies in
`finetune.state/`, so that a later call can train for more epochs.

    start.json     settings, precision, and the figures of epoch 0
    epoch-0003/    the state after the last finished epoch; the next one is written beside it, and then replaces it
        history.csv    the metrics of each epoch
        seconds.json   the training time, summed over all calls
        and weights files, see `FinetuneModel`
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headstart.features.files import folder_written_atomically, remove_left_over, write_json
from headstart.pipeline.runs import read_csv, read_json, write_csv

_HISTORY, _SECONDS = "history.csv", "seconds.json"


class FinetuneState:
    """The state of a fine-tuning in `folder`, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def _start_file(self) -> Path:
        return self.folder / "start.json"

    def begin(self, start: dict[str, Any]) -> None:
        """Remove any earlier state, and write `start` to `start.json`."""
        self.drop()
        self.folder.mkdir(parents=True)
        write_json(self._start_file, start)

    def start(self) -> dict[str, Any]:
        """Return the content of `start.json`; {} if there is no such file. Raises RunError if the file is damaged."""
        return read_json(self._start_file, "--overwrite begins anew") if self._start_file.exists() else {}

    def kept(self) -> Path | None:
        """Return the folder with the state after the last finished epoch; None if there is no such state."""
        kept = sorted(self.folder.glob("epoch-*"))
        return kept[-1] if kept and self._start_file.exists() else None

    def epoch(self) -> int:
        """Return the number of the last finished epoch; 0 is the head alone."""
        kept = self.kept()
        return int(kept.name.removeprefix("epoch-")) if kept else 0

    @contextmanager
    def keep(self, epoch: int) -> Iterator[Path]:
        """Yield a folder to fill with the state after `epoch`. On success, it replaces the previous state."""
        remove_left_over(self.folder)
        before = [*self.folder.glob("epoch-*"), *self.folder.glob("work")]  # earlier versions had `work/`
        with folder_written_atomically(self.folder / f"epoch-{epoch:04d}") as folder:
            yield folder
        for path in before:
            shutil.rmtree(path, ignore_errors=True)

    def history(self) -> list[dict[str, float]]:
        """Return the metrics of each finished epoch. Epochs count from 1."""
        kept = self.kept()
        rows = read_csv(kept / _HISTORY) if kept and (kept / _HISTORY).exists() else []
        return [
            {**{name: float(value) for name, value in row.items()}, "epoch": epoch} for epoch, row in enumerate(rows, 1)
        ]

    def seconds(self) -> float:
        """Return the training time in seconds, summed over all calls."""
        kept = self.kept()
        return float(json.loads((kept / _SECONDS).read_text())) if kept and (kept / _SECONDS).exists() else 0.0

    def move(self, folder: Path) -> None:
        """Rename the state's folder to `folder`, in place of any earlier state there."""
        if folder != self.folder:
            shutil.rmtree(folder, ignore_errors=True)
            self.folder.rename(folder)
            self.folder = folder

    def drop(self) -> None:
        """Remove the folder. `start.json` is removed first: without this file, what remains is ignored."""
        self._start_file.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def write_epochs(folder: Path, rows: list[dict[str, float]], seconds: float) -> None:
    """Write the metrics of each epoch, and the training time in seconds, into the `folder` of `FinetuneState.keep`."""
    if rows:
        write_csv(folder / _HISTORY, list(rows[0]), ([row[name] for name in rows[0]] for row in rows))
    write_json(folder / _SECONDS, seconds)
