"""The settings of `labels`."""

import os
from dataclasses import dataclass
from pathlib import Path

from headstart.features.errors import OptionError
from headstart.features.options import option


@dataclass(frozen=True)
class LabelsConfig:
    """The files that `labels` writes, and the file that says how to change or restore the labels of DATA."""

    csv: Path | None = option(None, "Write the likely label errors into this CSV file, to be edited for --apply.")
    html: Path | None = option(None, "HTML page to write, with thumbnails of the likely label errors.")
    apply: Path | None = option(None, "Change the labels of DATA as the column `action` of this CSV file says.")
    undo: Path | None = option(None, "Take back the changes of --apply, by the log that it wrote.")

    def __post_init__(self) -> None:
        if (self.apply or self.undo) and sum(map(bool, (self.csv, self.html, self.apply, self.undo))) > 1:
            raise OptionError(
                "--apply and --undo change DATA and do nothing else; leave the other of these options out"
            )
        if self.csv and self.html and os.path.realpath(self.csv) == os.path.realpath(self.html):
            raise OptionError(f"--html {self.html}: is the file of --csv; name another")
