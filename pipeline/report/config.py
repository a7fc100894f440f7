"""The settings of `report`."""

from dataclasses import dataclass
from pathlib import Path

from headstart.features.options import option


@dataclass(frozen=True)
class ReportConfig:
    """The file to write, and what the report includes."""

    output: Path = option(Path("report.html"), "HTML page to write. An earlier report there is replaced.")
    study: bool = option(
        False, "Add how accuracy grows with the number of images; see `headstart study`.", flag="--study"
    )
    overwrite: bool = option(False, "Replace the file at --output even if it is no report.", flag="--overwrite")
