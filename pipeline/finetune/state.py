"""The state of a fine-tuning: its settings, and everything that it needs to go on after its last finished epoch.

While the fine-tuning is unfinished, the state lies in `finetune.partial/` of the run folder. Afterwards, the state lies
in `finetune.state/`, so that a later call can train for more epochs.

    start.json     settings, precision, and the figures of epoch 0
    epoch-0003/    the state after the last finished epoch; the next state is written beside it, and then replaces it
        history.csv    the metrics of each epoch
        seconds.json   the training time, summed over all calls
        and weights files, see `FinetuneModel`
"""

import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from headstart.features.errors import RunError
from headstart.features.files import folder_written_atomically, remove_left_over, write_json
from headstart.features.files import read_json as read_any_json
from headstart.pipeline.finetune.course import Course
from headstart.pipeline.finetune.start import Start
from headstart.pipeline.runs import read_csv, read_json, write_csv
from headstart.pipeline.runs.config import converted
from headstart.pipeline.scoring.choosing import ChooseBy

ANEW = "--overwrite begins anew"
_HISTORY, _SECONDS = "history.csv", "seconds.json"
_EPOCH = re.compile("epoch-([0-9]{4,9})")


class FinetuneState:
    """The state of a fine-tuning in `folder`, which need not exist yet.

    Each method that reads a file raises RunError if the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def _start_file(self) -> Path:
        return self.folder / "start.json"

    def begin(self, start: Start) -> None:
        """Remove any earlier state, and write `start` to `start.json`."""
        self.drop()
        self.folder.mkdir(parents=True)
        write_json(self._start_file, asdict(start))

    def start(self) -> Start | None:
        """Return the content of `start.json`; None if there is no such file."""
        if not self._start_file.exists():
            return None
        try:
            return converted(read_json(self._start_file, ANEW), Start)
        except RunError:
            raise
        except ValueError as error:
            raise RunError(f"{self._start_file}: {str(error)[:300]}; {ANEW}") from error

    def kept(self) -> Path | None:
        """Return the folder with the state after the last finished epoch; None if there is no such state."""
        if not self._start_file.exists():
            return None
        found = {}
        for path in self.folder.glob("epoch-*"):
            name = _EPOCH.fullmatch(path.name)
            if name is None or path.is_symlink() or not path.is_dir():
                raise RunError(f"{path}: is not the state after an epoch; {ANEW}")
            found[int(name[1])] = path
        return found[max(found)] if found else None

    def epoch(self) -> int:
        """Return the number of the last finished epoch, or 0 if no epoch is finished."""
        kept = self.kept()
        return int(kept.name.removeprefix("epoch-")) if kept else 0

    def course(self, choose_by: ChooseBy) -> Course:
        """Return a `Course`: the val figures of epoch 0 and of each finished epoch. `start.json` must exist.

        `choose_by` is the figure that decides the best epoch.
        """
        start = self.start()
        assert start is not None  # `begin` wrote it
        return Course.of(choose_by, start.before, self.history())

    @contextmanager
    def keep(self, epoch: int) -> Iterator[Path]:
        """Yield a folder to fill with the state after `epoch`.

        If the context ends without an error, this folder replaces the folder of the previous epoch.
        """
        remove_left_over(self.folder)
        before = [*self.folder.glob("epoch-*"), *self.folder.glob("work")]  # earlier versions had `work/`
        with folder_written_atomically(self.folder / f"epoch-{epoch:04d}") as folder:
            yield folder
        for path in before:
            shutil.rmtree(path, ignore_errors=True)

    def history(self) -> list[dict[str, float]]:
        """Return the metrics of each finished epoch. The field `epoch` counts from 1."""
        kept, start = self.kept(), self.start()
        if kept is None or start is None or not self.epoch():
            return []
        file, columns = kept / _HISTORY, ("loss", "accuracy", *(f"val_{name}" for name in start.before))
        rows = read_csv(file, columns, ANEW)
        if len(rows) != self.epoch():
            raise RunError(f"{file}: has {len(rows)} epochs in place of {self.epoch()}; {ANEW}")
        try:
            return [
                {"epoch": epoch, **{name: float(row[name]) for name in columns}} for epoch, row in enumerate(rows, 1)
            ]
        except ValueError as error:
            raise RunError(f"{file}: {str(error)[:100]}; {ANEW}") from error

    def seconds(self) -> float:
        """Return the training time in seconds, summed over all calls."""
        kept = self.kept()
        if kept is None or not (file := kept / _SECONDS).exists():
            return 0.0
        try:
            seconds = converted(read_any_json(file), float)
            if 0 <= seconds < math.inf:
                return seconds
            raise ValueError(f"{seconds} is no duration")
        except ValueError as error:
            raise RunError(f"{file}: {str(error)[:200]}; {ANEW}") from error

    def move(self, folder: Path) -> None:
        """Rename the state's folder to `folder`. An older state at `folder` is removed first."""
        if folder != self.folder:
            shutil.rmtree(folder, ignore_errors=True)
            self.folder.rename(folder)
            self.folder = folder

    def drop(self) -> None:
        """Remove the state's folder. `start.json` is removed first, because a state without `start.json` is ignored."""
        if not self._start_file.is_dir():
            self._start_file.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def write_epochs(folder: Path, rows: list[dict[str, float]], seconds: float) -> None:
    """Write the metrics of each epoch (`rows`) and the training time (`seconds`) into `folder`.

    `folder` is a folder that `FinetuneState.keep` yields.
    """
    if rows:
        write_csv(folder / _HISTORY, list(rows[0]), ([row[name] for name in rows[0]] for row in rows))
    write_json(folder / _SECONDS, seconds)
