"""The settings of `labels`."""

from dataclasses import dataclass
from pathlib import Path

from headstart.features.errors import OptionError, require_options
from headstart.features.options import option


@dataclass(frozen=True)
class LabelsConfig:
    """The files that `labels` writes, and the file from which it changes or restores the labels of DATA."""

    csv: Path | None = option(None, "Write the likely label errors into this CSV file, to be edited for --apply.")
    html: Path | None = option(None, "HTML page to write, with thumbnails of the likely label errors.")
    apply: Path | None = option(None, "Change the labels of DATA as the column `action` of this CSV file says.")
    undo: Path | None = option(None, "Take back the changes of --apply, by the log that it wrote.")

    def __post_init__(self) -> None:
        require_options(
            ("--csv", self.csv, not (self.csv and self.csv.is_dir()), "a file, and no folder"),
            ("--html", self.html, not (self.html and self.html.is_dir()), "a file, and no folder"),
        )
        if (self.apply or self.undo) and sum(map(bool, (self.csv, self.html, self.apply, self.undo))) > 1:
            raise OptionError(
                "--apply and --undo change DATA and do nothing else; leave the other of these options out"
            )
