"""Exports that run in this process: starting TensorFlow once more for each would take seconds."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from headstart.pipeline.export import measure


def run_in_process(patch: pytest.MonkeyPatch) -> None:
    """Have exports run in the test's own process."""

    def measured(folder: Path, asked: measure.Asked) -> measure.Measured:
        (folder / measure.ASKED).write_text(json.dumps(asdict(asked)))
        return measure.measured(folder)

    patch.setattr(measure, "_SINGLE", 1)
    patch.setattr("headstart.pipeline.export.export.measure", measured)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports run in the test's own process."""
    run_in_process(monkeypatch)
