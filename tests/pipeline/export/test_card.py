"""The model card, for runs of other versions and for files that can't be read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from headstart.pipeline.export.card import card
from headstart.pipeline.export.comparison import compare
from headstart.pipeline.export.folder import labels_of
from headstart.pipeline.export.measure import Measured
from headstart.pipeline.export.source import load_source
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.runs import Run
from headstart.pipeline.runs.choice import choose_model

CHANCES = np.array([[0.9, 0.1], [0.4, 0.6]])
EXACT = Measured(CHANCES, CHANCES, np.zeros(2), 0.0, 100.0, 0.01)


def card_of(path: Path, **measured: Any) -> str:
    """The card of an export of the head of a run, whose answers are exact but for `measured`."""
    run = Run.open(path)
    source = load_source(run, choose_model(run, "head"), NetworkPlaces())
    labels = labels_of(source.facts() | {"bytes": 10**6}, "keras", "float32", None)
    return card(source, labels, compare(CHANCES, replace(EXACT, **measured), np.array([0, 1]), None))


def test_figures_that_an_earlier_version_did_not_keep_are_left_out(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    old = {"n": 5, "head": {"accuracy": 0.9, "accuracy_interval": [0.8, 0.95], "loss": 0.2, "auc": 0.9}}
    (run / "metrics.json").write_text(json.dumps({**metrics, "evaluate": {"test": old, "train": old}}))
    text = card_of(run)
    assert "- Split `test`, 5 images: accuracy 0.9000 (95 % interval 0.800 - 0.950)\n" in text
    assert "Split `train`" not in text


def test_a_file_that_can_not_be_read_is_not_named(run: Path) -> None:
    unreadable = {"unreadable": "/home/me/private.tif", "why_unreadable": "cut off"}
    text = card_of(run, levels=np.array([0, np.nan]), **unreadable)
    assert "and can't read 1 (cut off)" in text
    assert "private" not in text
