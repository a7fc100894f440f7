"""The settings of `report`."""

from dataclasses import dataclass
from pathlib import Path

from headstart.features.errors import require_options
from headstart.features.options import option


@dataclass(frozen=True)
class ReportConfig:
    """Where the report is written."""

    output: Path = option(Path("report.html"), "HTML page to write. An earlier report there is replaced.")
    overwrite: bool = option(False, "Replace the file at --output even if it is no report.")

    def __post_init__(self) -> None:
        require_options(("--output", self.output, not self.output.is_dir(), "a file, and no folder"))
