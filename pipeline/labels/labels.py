"""`headstart labels`: find likely label errors, and change labels."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from headstart.features.backbones.cuts import chosen_cuts, require_averaged
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError
from headstart.features.frozen.network import Network
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import Example, Scan
from headstart.pipeline.data.trainable import too_few
from headstart.pipeline.featured import FeaturedExamples, cache_features
from headstart.pipeline.labels.apply import apply, undo
from headstart.pipeline.labels.config import LabelsConfig
from headstart.pipeline.labels.finding import alike, likely_errors, nearest_agreeing, require_cleanlab, suggestions
from headstart.pipeline.labels.page import write_page
from headstart.pipeline.labels.result import Changed, FoundLabels, Suspect
from headstart.pipeline.labels.table import require_table, write_table
from headstart.pipeline.memory.limits import rows_in_memory
from headstart.pipeline.pages.html import require_page


def labels(
    data: Path,
    features: FeatureConfig,
    extraction: ExtractionConfig,
    config: LabelsConfig = LabelsConfig(),
    seed: int = 0,
    reading: DataConfig = DataConfig(),
) -> FoundLabels | Changed:
    """Find likely label errors in `data`, or change the labels of `data`.

    If `config.apply` or `config.undo` is set, labels are changed; see `apply` and `undo`. If neither is set, likely
    label errors are found. Features that the store lacks are extracted first. If `config.csv` or `config.html` is set,
    the likely errors are written to this file.

    Args:
        seed: decides the folds and, if `data` has no split folders, the splits.
        reading: how `data` is read.

    Raises:
        OptionError: cleanlab is missing, `features` has views or a cut that is a map, or a file can't be written.
        DataError: `config.csv` exists and holds actions, there is only one class, or a class has fewer than two images
            outside test. Copies and near-duplicates count as one image.
    """
    if config.apply:
        return apply(data, config.apply, reading)
    if config.undo:
        return undo(data, config.undo, reading)
    if features.views:
        raise OptionError(f"--views {features.views}: labels are judged by the images alone; leave --views out")
    require_averaged(chosen_cuts(features))
    require_cleanlab()
    for flag, file, require in (("--csv", config.csv, require_table), ("--html", config.html, require_page)):
        if file and os.path.realpath(file) == os.path.realpath(data):
            raise OptionError(f"{flag} {file}: is DATA; name another file")
        if file:
            require(flag, file)

    def check(scanned: Scan, _: list[Network]) -> None:
        _require_classes(data, scanned.class_names)

    found = _found(data, cache_features(data, features, extraction, seed, check, reading), seed)
    if config.csv:
        write_table(config.csv, found.rows())
    if config.html:
        write_page(found, config.html)
    return replace(found, csv=config.csv, html=config.html)


def _require_classes(data: Path, class_names: Sequence[str]) -> None:
    if len(class_names) < 2:
        raise DataError(f"{data}: {too_few(class_names)}; expected at least two")


def _found(data: Path, cached: FeaturedExamples, seed: int) -> FoundLabels:
    """Find the likely label errors of all examples outside the test split."""
    examples = [example for example in cached.examples if example.split != "test"]
    _require_classes(data, cached.class_names)
    labelled, root = cached.labelled(examples), os.path.join(data if data.is_dir() else data.parent, "")
    rows, given = labelled.features, labelled.labels
    groups = alike(examples, rows)
    together = {at: number for number, group in enumerate(groups) for at in group}
    most = rows_in_memory(rows.shape[1], cached.extraction.memory)
    in_group = np.array([together[at] for at in range(len(examples))])
    wrong, chances = likely_errors(rows, given, in_group, cached.class_names, seed, most)
    conflicts = [group for group in groups if len(set(given[group])) > 1]
    numbers = {at: number for number, group in enumerate(conflicts, 1) for at in group}
    suggested = suggestions(chances, given, conflicts)
    wrong &= suggested >= 0

    def suspect(at: int) -> Suspect:
        example, names = examples[at], cached.class_names
        other = names[suggested[at]] if suggested[at] >= 0 else None
        score = float(chances[at, given[at]])
        return Suspect(example, _name(example, root), names[given[at]], other, score, numbers.get(at))

    issues = sorted(np.flatnonzero(wrong).tolist(), key=lambda at: (chances[at, given[at]], examples[at].image.path))
    trusted = ~wrong
    trusted[[at for group in conflicts for at in group]] = False
    near = nearest_agreeing(rows, given, trusted, np.array(issues, np.int64), suggested[issues])
    return FoundLabels(
        data=data,
        reading=cached.reading,
        sample=most if len(examples) > most else None,
        examples=len(examples),
        untouched=len(cached.examples) - len(examples),
        issues=[suspect(at) for at in issues],
        conflicts=[[suspect(at) for at in group] for group in conflicts],
        agreeing={
            _name(examples[at], root): [examples[one] for one in ones] for at, ones in zip(issues, near, strict=True)
        },
    )


def _name(example: Example, root: str) -> str:
    """Return the path of an example's image, relative to the folder `root`. The text `root` ends with a slash."""
    return example.image.path.removeprefix(root)
