"""What a search chooses from: settings of heads, from a small TOML file, and the cuts whose features they take."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.backbones.backbone import ALL_CUTS, split_cuts
from headstart.features.backbones.network import cut_names
from headstart.features.config import FeatureConfig
from headstart.features.errors import OptionError
from headstart.pipeline.head.config import OPTIMIZERS, HeadConfig
from headstart.pipeline.sweep.choices import Asker, Choice, Nearest, every

DEFAULT_SPACE = """\
# A list is a choice among its values, a table a range, and anything else is fixed.
layers = [0, 1, 2]                                        # hidden ones
units = { low = 64, high = 2048, log = true }             # of each
dropout = { low = 0.0, high = 0.7 }
weight_decay = { low = 1e-6, high = 1e-2, log = true }
learning_rate = { low = 1e-4, high = 1e-2, log = true }
optimizer = ["adam", "nadam", "rmsprop"]
batch_size = [64, 128, 256, 512]
label_smoothing = { low = 0.0, high = 0.2 }
epochs = 20                                               # at most: trials that do worse end sooner
"""
_LARGEST_GRID = 20_000
_NAMES = tuple(tomllib.loads(DEFAULT_SPACE))


@dataclass(frozen=True)
class Cuts:
    """The features that a head may take.

    Args:
        alternatives: names of columns side by side, of which one is chosen.
        free: any of the single columns together, each chosen for itself; the last of `alternatives` where none is.
    """

    alternatives: tuple[tuple[str, ...], ...]
    free: bool = False

    def __str__(self) -> str:
        return f"{'any of ' * self.free}{', '.join('+'.join(names) for names in self.alternatives)}"

    def suggest(self, trial: Asker) -> list[str]:
        """The columns that `trial` takes."""
        if self.free:
            names = [name for (name,) in self.alternatives]
            chosen = [name for name in names if trial.suggest_categorical(f"use {name}", [False, True])]
            return chosen or names[-1:]
        joined = ["+".join(names) for names in self.alternatives]
        choice = Choice(tuple(joined)).suggest(trial, "cut")
        return list(self.alternatives[joined.index(choice)])


@dataclass(frozen=True)
class Space:
    """Everything a trial chooses. `suggest` asks for the same parameters in the same order, whatever asks."""

    choices: Mapping[str, Choice]
    cuts: Cuts

    def suggest(self, trial: Asker) -> tuple[HeadConfig, list[str]]:
        """The head and the columns that `trial` stands for."""
        cuts = self.cuts.suggest(trial)

        def chosen(setting: str, name: str = "") -> Any:
            return self.choices[setting].suggest(trial, name or setting)

        layers = chosen("layers")
        units = tuple(chosen("units", f"units {layer}") for layer in range(1, layers + 1))
        config = HeadConfig(
            units=units,
            dropout=chosen("dropout") if layers else 0.0,
            weight_decay=chosen("weight_decay"),
            learning_rate=chosen("learning_rate"),
            optimizer=chosen("optimizer"),
            batch_size=chosen("batch_size"),
            label_smoothing=chosen("label_smoothing"),
            epochs=chosen("epochs"),
        )
        return config, cuts

    def near(self, config: HeadConfig) -> dict[str, Any]:
        """Parameters of the head that comes nearest to `config`, on the first alternative, or the last cut alone."""
        wanted = {**vars(config), "layers": len(config.units), f"use {self.cuts.alternatives[-1][0]}": True}
        wanted |= {f"units {layer}": units for layer, units in enumerate(config.units, 1)}
        nearest = Nearest(wanted)
        self.suggest(nearest)
        return nearest.params

    def grid(self, seed: int) -> list[dict[str, Any]]:
        """Parameters of every head of the grid, each once, in an order drawn by `seed`.

        Raises:
            OptionError: there are too many.
        """
        by_head: dict[str, dict[str, Any]] = {}
        for params in every(self.suggest, _LARGEST_GRID):  # without any cut it is the last one, as with that alone
            by_head.setdefault(repr(self.suggest(Nearest(params))), params)
        grid = list(by_head.values())
        return [grid[index] for index in np.random.default_rng(seed).permutation(len(grid))]


def read_choices(file: Path | None) -> dict[str, Choice]:
    """The choices in a TOML file; those that it leaves out, and all where it is None, are of `DEFAULT_SPACE`.

    Raises:
        OptionError: no such file, or something in it that can't be used.
    """
    table = tomllib.loads(DEFAULT_SPACE)
    if file is not None:
        try:
            table |= tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OptionError(f"--space {file}: can't be read ({error})") from error
    unknown = sorted(set(table) - set(_NAMES))
    if unknown:
        raise OptionError(f"--space {file}: there is no setting {unknown[0]!r}; choose from {', '.join(_NAMES)}")
    return {name: _choice(f"--space {file}: {name}", name, value) for name, value in table.items()}


def _choice(where: str, name: str, value: Any) -> Choice:
    if isinstance(value, dict):
        choice = _range(where, value)
    else:
        choice = Choice(tuple(value) if isinstance(value, list) else (value,))
    for one in choice.values:
        _check(where, name, one)
    if not choice.values or len(set(choice.values)) < len(choice.values):
        raise OptionError(f"{where} must have values that differ. Received: {value}")
    return choice


def _range(where: str, value: dict[str, Any]) -> Choice:
    ends: list[Any] = [value.get("low"), value.get("high")]
    numbers = all(_is_number(end) for end in ends)
    log = value.get("log", False)
    if set(value) - {"low", "high", "log"} or not numbers or ends[0] >= ends[1] or not isinstance(log, bool):
        raise OptionError(f"{where} must be {{ low = A, high = B, log = true or false }}, A under B. Received: {value}")
    if log and ends[0] <= 0:
        raise OptionError(f"{where} must be over 0 where log is true. Received: {value}")
    whole = all(isinstance(end, int) for end in ends)
    return Choice(tuple(ends) if whole else tuple(map(float, ends)), between=True, log=log)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check(where: str, name: str, value: Any) -> None:
    """Make sure that a head can have `value`."""
    if name == "optimizer":
        if value not in OPTIMIZERS:
            raise OptionError(f"{where} must be among {', '.join(OPTIMIZERS)}. Received: {value!r}")
        return
    if not _is_number(value):
        raise OptionError(f"{where} must be numbers. Received: {value!r}")
    if name in ("layers", "units", "batch_size", "epochs") and not isinstance(value, int):
        raise OptionError(f"{where} must be whole numbers. Received: {value!r}")
    if name == "layers" and not 0 <= value <= 2:
        raise OptionError(f"{where} must be from 0 to 2. Received: {value}")
    if name == "units" and value < 1:
        raise OptionError(f"{where} must be at least 1; a linear head is layers = 0. Received: {value}")
    if name != "layers":
        try:
            setting: dict[str, Any] = {name: (value,) if name == "units" else value}
            HeadConfig(**setting)
        except OptionError as error:
            raise OptionError(f"{where}: {error}") from error


def alternatives(features: FeatureConfig) -> Cuts:
    """What heads may take: each `--cut`, which may join several by `+`; all of them freely, with `all`.

    Of several backbones and no cut: each alone at its default, and all together. A backbone that has none of the cuts
    of an alternative is in it with its default, as in `head`; but not where the cuts are given as `backbone/cut`.

    Raises:
        OptionError: as `load_networks`.
    """
    if ALL_CUTS in (cut.rpartition("/")[2] for cut in split_cuts(features.cut)):
        single = dict.fromkeys(name for cut in split_cuts(features.cut) for name in _columns(features, cut))
        return Cuts(tuple((name,) for name in single), free=True)
    if not features.cut:
        names = cut_names(features)
        return Cuts(tuple(dict.fromkeys([*((name,) for name in names), tuple(names)])))
    return Cuts(tuple(dict.fromkeys(_columns(features, cut) for cut in features.cut)))


def _columns(features: FeatureConfig, cut: str) -> tuple[str, ...]:
    """The names of what `cut` stands for: of several backbones, only those that it names, if it names any."""
    names = cut_names(replace(features, cut=(cut,)))
    backbones = {part.rpartition("/")[0] for part in split_cuts((cut,))}
    return tuple(name for name in names if "" in backbones or name.rpartition("/")[0] in backbones)


def only(features: FeatureConfig, columns: Sequence[str]) -> FeatureConfig:
    """`features` with the backbones and cuts of `columns` alone."""
    names, weights = features.backbone.split("+"), features.weights.split("+")
    if len(names) == 1:
        return replace(features, cut=tuple(columns))
    used = [name for name in names if any(column.startswith(f"{name}/") for column in columns)]
    if len(weights) > 1:
        weights = [file for name, file in zip(names, weights, strict=True) if name in used]
    cuts = [column if len(used) > 1 else column.split("/")[-1] for column in columns]
    return replace(features, backbone="+".join(used), weights="+".join(weights), cut=tuple(cuts))
