import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headstart.pipeline.finetune import batches
from headstart.pipeline.finetune.batches import Batch, MapBatches
from headstart.pipeline.finetune.finetune import finetune
from headstart.pipeline.inputs import eval_dataset
from headstart.pipeline.runs import Run
from headstart.tests.pipeline.conftest import QUICK

BATCH_BYTES = 2 * 4 * 4 + 2 * 8


def counted(most_bytes: int, computed: list[int]) -> MapBatches:
    """Three batches of two images. The list `computed` gets the number of each batch whenever it is computed."""

    def after(count: int) -> Iterator[Batch]:
        for number in range(count // 2, 3):
            computed.append(number)
            yield np.full((2, 4), number, np.float32), np.full(2, number)

    return MapBatches(after, most_bytes)


@pytest.mark.parametrize("kept", range(5))
def test_batches_that_fit_into_memory_are_computed_once(kept: int) -> None:
    computed = list[int]()
    found = counted(kept * BATCH_BYTES, computed)
    for _ in range(3):
        assert [int(maps[0, 0]) for maps, _ in found] == [0, 1, 2]
    assert computed == [0, 1, 2] + 2 * [0, 1, 2][kept:]
    assert (found.kept_seconds > 0) == (kept > 0)


def test_an_iteration_that_ends_early_leaves_what_it_computed() -> None:
    computed = list[int]()
    found = counted(10 * BATCH_BYTES, computed)
    next(iter(found))
    for _ in range(2):
        assert [int(labels[0]) for _, labels in found] == [0, 1, 2]
    assert computed == [0, 1, 2]


def test_a_batch_that_is_too_large_ends_the_keeping() -> None:
    def after(count: int) -> Iterator[Batch]:
        return ((np.zeros((2, width)), np.zeros(2)) for width in (4, 400, 4)[count // 2 :])

    found = MapBatches(after, 10 * BATCH_BYTES)
    assert [maps.shape[1] for _ in range(2) for maps, _ in found] == [4, 400, 4, 4, 400, 4]


@pytest.mark.slow
@pytest.mark.parametrize(("most_bytes", "images_kept"), [(0, 0), (2 * 70_000, 8)])
def test_the_frozen_part_sees_each_val_image_once(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_bytes: int, images_kept: int
) -> None:
    shutil.copytree(tiny_run, tmp_path / "streamed")
    decoded = list[int]()

    def counting(examples: Sequence[Any], *others: Any) -> Any:
        decoded.append(len(examples))
        return eval_dataset(examples, *others)

    monkeypatch.setattr(batches, "eval_dataset", counting)
    config = replace(QUICK, learning_rate=1e-5, choose_by="accuracy")
    kept = finetune(tiny_run, config)
    val, reference = decoded
    decoded.clear()
    monkeypatch.setattr(batches, "memory_limit", lambda _: most_bytes)
    streamed = finetune(tmp_path / "streamed", config)
    assert streamed.best_epoch, "no epoch was better than the head: there is no pass for the calibration"
    left = val - images_kept
    assert decoded == [val, left, left, reference, left]  # of the head, of two epochs, and of the calibration
    assert streamed.course == kept.course
    assert Run(tiny_run).history() == Run(tmp_path / "streamed").history()
