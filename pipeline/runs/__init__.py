"""Runs on disk: their files, what is read from them and believed, and how they are made."""

from headstart.pipeline.runs.files import read_csv, read_json, write_csv
from headstart.pipeline.runs.making import list_digests, new_run, require_free, require_unchanged, versions
from headstart.pipeline.runs.run import HISTORY_COLUMNS, PHASES, Run, require_finite

__all__ = [
    "HISTORY_COLUMNS",
    "PHASES",
    "Run",
    "list_digests",
    "new_run",
    "read_csv",
    "read_json",
    "require_finite",
    "require_free",
    "require_unchanged",
    "versions",
    "write_csv",
]
