"""One fine-tuned run for all tests that look at its result."""

import shutil
from pathlib import Path

import pytest
from headstart.pipeline.finetune.config import FinetuneConfig

QUICK = FinetuneConfig(epochs=2, batch_size=8, learning_rate=1e-3, augment="none")


@pytest.fixture(scope="session")
def tuned_run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `trained_run` after phase 2 with `QUICK`. Tests only read it, and its store."""
    from headstart.pipeline.finetune.finetune import finetune

    path = tmp_path_factory.mktemp("tuned") / "run"
    shutil.copytree(trained_run, path)
    finetune(path, QUICK)
    return path
