"""Compare runs on the same examples, and test whether the two best models differ by more than chance."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.errors import OptionError, RunError
from headstart.pipeline.evaluate.predictions import read_predictions
from headstart.pipeline.evaluate.side_by_side import Compared, SideBySide, write_comparison
from headstart.pipeline.pages.html import require_page
from headstart.pipeline.places import Places
from headstart.pipeline.runs import PHASES, Run
from headstart.pipeline.runs.files import csv_rows
from headstart.pipeline.scoring.metrics import McNemar, mcnemar, predicted_labels, score

_UNINTERESTING = {"data", "seed", "versions", "store", "rehash", "max_rejects", "overwrite"}
_TRAIN = "examples of train"


@dataclass(frozen=True)
class CompareResult:
    """The compared models, the most accurate first, and a test of the two most accurate models."""

    rows: list[Compared]
    test: McNemar
    scored: str  # the split
    html: Path | None = None  # the page that was written

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        page = {"html": str(self.html)} if self.html else {}
        return {"runs": [asdict(row) for row in self.rows], "test": asdict(self.test), **page}

    def lines(self) -> list[Any]:
        """Return the summary that is printed without `--json`."""
        page = [f"the page is {self.html}"] if self.html else []
        return [SideBySide(self.rows, f"{self.test.n} images of {self.scored}"), str(self.test), *page]


def compare(
    paths: Sequence[Path], split: str = "test", places: Places = Places(), html: Path | None = None
) -> CompareResult:
    """Compare runs by the predictions that `evaluate` wrote for `split`. If `html` is given, write a page to it.

    `places` has no effect, because the predictions are in the runs.

    Raises OptionError if there are fewer than two models, if a run is named twice, or if no page can be written to
    `html`. Raises RunError if a path is not a run, or if the runs were not all evaluated on `split` with the same
    examples and classes.
    """
    if html:
        require_page("--html", html)
    if len({path.resolve() for path in paths}) < len(paths):
        raise OptionError(f"RUN: names a run twice. Received: {' '.join(map(str, paths))}")
    runs = [Run.open(path) for path in paths]
    labels, class_names, logits = _same_examples(runs, split)
    if len(logits) < 2:
        raise OptionError(f"RUN: one classifier has nothing to be compared with. Received: {paths[0]}")
    settings = _differing_settings(runs)
    predicted = {key: predicted_labels(values) for key, values in logits.items()}  # as without thresholds
    rows = [
        Compared(
            run=str(run.path),
            model=model,
            **{name: scored[name] for name in ("accuracy", "accuracy_interval", "loss")},
            seconds=run.metrics().get(PHASES[model], {}).get("seconds"),
            settings=settings[run],
        )
        for (run, model), values in logits.items()
        for scored in [score(values, labels, class_names, predicted[run, model])]
    ]
    ranked = sorted(zip(rows, predicted.values(), strict=True), key=lambda pair: (-pair[0].accuracy, pair[0].loss))
    first, second = (f"{row.run} ({row.model})" for row, _ in ranked[:2])
    right, other = (found == labels for _, found in ranked[:2])
    result = CompareResult([row for row, _ in ranked], mcnemar(first, second, right, other), split, html)
    if html:
        write_comparison(html, result.rows, result.test, split)
    return result


def _same_examples(runs: Sequence[Run], split: str) -> tuple[np.ndarray, list[str], dict[tuple[Run, str], np.ndarray]]:
    """Return three things: the labels, the class names, and a dict from (run, model) to the logits.

    Raises RunError if the runs differ in their examples or classes.
    """
    first, logits = read_predictions(runs[0], split).in_order(), {}
    for run in runs:
        found = first if run is runs[0] else read_predictions(run, split).in_order()
        if found.class_names != first.class_names:
            raise RunError(f"{run.path}: has other classes than {runs[0].path}")
        if found.digests != first.digests or (found.labels != first.labels).any():
            raise RunError(
                f"{run.path}: was evaluated on other examples of {split} than {runs[0].path}; `headstart evaluate` "
                "both with the same --data"
            )
        logits.update({(run, model): values for model, values in found.logits.items()})
    return first.labels, first.class_names, logits


def _differing_settings(runs: Sequence[Run]) -> dict[Run, dict[str, Any]]:
    """Return, for each run, its values of the settings in which the runs differ."""
    found = {run: _flat(run) for run in runs}
    names = sorted({name for settings in found.values() for name in settings})
    differing = [name for name in names if any(one.get(name) != found[runs[0]].get(name) for one in found.values())]
    counted = _train_images(runs) if _TRAIN in differing else {}
    return {
        run: {name: counted[run] if name == _TRAIN else settings.get(name) for name in differing}
        for run, settings in found.items()
    }


def _train_images(runs: Sequence[Run]) -> dict[Run, str]:
    """Return, as text, the number of training images of each run, and how many of them the first run has, too."""
    found = {
        run: [(row["digest"], row["label"]) for row in csv_rows(run.examples_file, ("digest", "label", "split"))
              if row["split"] == "train"]
        for run in runs
    }  # fmt: skip
    own = set(found[runs[0]])
    told = {run: f"{len(train)}, {sum(one in own for one in train)} of them as in the first run"
            for run, train in found.items()}  # fmt: skip
    return told | {runs[0]: str(len(found[runs[0]]))}


def _flat(run: Run) -> dict[str, Any]:
    """Return the settings that may explain why runs differ. A setting has a name such as `head.epochs`."""
    config, unchanged = run.config(), run.finetuning_gained_nothing()
    return {
        f"{part}.{name}": value
        for part in ("features", "head", *(() if unchanged else ("finetune",)))
        for name, value in config.get(part, {}).items()
        if name not in _UNINTERESTING
    } | {"seed": config["seed"], _TRAIN: config["examples"].get("train", "")}
