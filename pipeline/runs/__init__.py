"""Runs on disk: reading, checking and writing their files, and making new runs."""

from headstart.pipeline.runs.calibration import (
    forget_calibration,
    origin_of_reference,
    read_calibration,
    read_reference,
    write_calibration,
)
from headstart.pipeline.runs.files import read_csv, read_json, write_csv
from headstart.pipeline.runs.making import example_digests, new_run, require_free, require_unchanged, versions
from headstart.pipeline.runs.run import HISTORY_COLUMNS, PHASES, Run, require_finite

__all__ = [
    "HISTORY_COLUMNS",
    "PHASES",
    "Run",
    "example_digests",
    "forget_calibration",
    "new_run",
    "origin_of_reference",
    "read_calibration",
    "read_csv",
    "read_json",
    "read_reference",
    "require_finite",
    "require_free",
    "require_unchanged",
    "versions",
    "write_calibration",
    "write_csv",
]
