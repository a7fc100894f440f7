"""The search space: the settings and the cuts that a head can use. A TOML file can define the settings."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.backbones.cuts import Cut, alternative_cuts, chosen_cuts, cut_names
from headstart.features.config import FeatureConfig
from headstart.features.errors import OptionError
from headstart.pipeline.head.config import CLASS_WEIGHTS, OPTIMIZERS, ClassWeight, HeadConfig
from headstart.pipeline.head.own import OwnHead
from headstart.pipeline.scoring.choosing import ChooseBy
from headstart.pipeline.sweep.choices import Choice, Choose, grid_points, is_number

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

_DEFAULT_SPACE = """\
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
_WORDS: Mapping[str, tuple[str, ...]] = {"optimizer": OPTIMIZERS, "class_weight": CLASS_WEIGHTS}


@dataclass(frozen=True)
class CutChoice:
    """The cuts among which a search chooses for each head."""

    alternatives: tuple[tuple[Cut, ...], ...]  # combinations of cuts; a head takes one combination
    free: bool  # each alternative is one cut, and a head may take several cuts; a head without any gets the last
    names: Mapping[Cut, str]  # the name of each cut in a study

    @classmethod
    def of(cls, features: FeatureConfig) -> CutChoice:
        """Return the choice of cuts that `--cut` and `--backbone` define; see `alternative_cuts`."""
        alternatives, free = alternative_cuts(features)
        single = dict.fromkeys(cut for cuts in alternatives for cut in cuts)
        cuts = chosen_cuts(replace(features, cut=tuple(f"{cut.backbone}/{cut.name}" for cut in single)))
        return cls(alternatives, free, dict(zip(cuts, cut_names(cuts), strict=True)))

    def __str__(self) -> str:
        return f"{'any of ' * self.free}{', '.join(map(self.name, self.alternatives))}"

    def name(self, cuts: Sequence[Cut]) -> str:
        """Return the name that a study gives to `cuts`, a combination of cuts."""
        return "+".join(self.names[cut] for cut in cuts)

    def chosen_by(self, choose: Choose) -> list[Cut]:
        """Return the cuts of a head. The function `choose` chooses the cuts.

        `choose` takes the name of a parameter and the parameter's `Choice`, and returns the chosen value.
        """
        if self.free:
            single = [cut for (cut,) in self.alternatives]
            chosen = [cut for cut in single if choose(f"use {self.names[cut]}", Choice((False, True)))]
            return chosen or single[-1:]
        by_name = {self.name(cuts): list(cuts) for cuts in self.alternatives}
        return by_name[choose("cut", Choice(tuple(by_name)))]


@dataclass(frozen=True)
class Space:
    """The settings and cuts that a search can choose for a head. For each head, they are chosen in the same order.

    `choices` maps the name of each setting to its possible values.
    """

    choices: Mapping[str, Choice]
    cuts: CutChoice
    choose_by: ChooseBy = "loss"  # the same for every head
    own: OwnHead | None = None  # defines the layers of every head

    def suggest(self, trial: BaseTrial) -> tuple[HeadConfig, list[Cut]]:
        """Return the head and the cuts that an Optuna trial chooses.

        A setting with one value is not a parameter of the trial.
        """
        return self._chosen_by(lambda name, choice: choice.suggest(trial, name))

    def _chosen_by(self, choose: Choose) -> tuple[HeadConfig, list[Cut]]:
        def ask(name: str, choice: Choice) -> Any:
            return choice.values[0] if len(choice.values) == 1 else choose(name, choice)

        cuts = self.cuts.chosen_by(ask)
        layers = 0 if self.own else ask("layers", self.choices["layers"])
        units = tuple(ask(f"units {layer}", self.choices["units"]) for layer in range(1, layers + 1))
        dropout = ask("dropout", self.choices["dropout"]) if layers else 0.0
        others = (
            "weight_decay",
            "learning_rate",
            "optimizer",
            "batch_size",
            "label_smoothing",
            "epochs",
            "class_weight",
        )
        settings = {name: ask(name, self.choices[name]) for name in others}
        return HeadConfig(units=units, dropout=dropout, choose_by=self.choose_by, own=self.own, **settings), cuts

    def nearest_to(self, config: HeadConfig) -> dict[str, Any]:
        """Return the parameters of the head that is nearest to `config` in this space.

        `config` says nothing about cuts. If `cuts.free` is true, the head takes the last of `cuts.alternatives`.
        Otherwise, the head takes the first.
        """
        last = self.cuts.names[self.cuts.alternatives[-1][0]]
        wanted = {**vars(config), "layers": len(config.units), f"use {last}": True}
        wanted |= {f"units {layer}": units for layer, units in enumerate(config.units, 1)}
        params: dict[str, Any] = {}

        def choose(name: str, choice: Choice) -> Any:
            params[name] = choice.nearest(wanted.get(name, choice.values[0]))
            return params[name]

        self._chosen_by(choose)
        return params

    def grid(self, seed: int) -> list[dict[str, Any]]:
        """Return the parameters of every distinct head of the grid, in random order; see `grid_points`.

        `seed` decides the order. Raises OptionError if the grid has over 20,000 points.
        """
        by_head: dict[str, dict[str, Any]] = {}
        for params, head in grid_points(self._chosen_by, _LARGEST_GRID):
            by_head.setdefault(repr(head), params)  # points may give equal heads: no cut means the last cut
        grid = list(by_head.values())
        return [grid[index] for index in np.random.default_rng(seed).permutation(len(grid))]


def read_choices(
    file: Path | None, class_weight: ClassWeight = "none", own: OwnHead | None = None
) -> dict[str, Choice]:
    """Return the `Choice` of each setting from the TOML file `file`. Settings that `file` lacks get a default.

    The default of the setting `class_weight` is the argument `class_weight`. Other defaults are in `_DEFAULT_SPACE`.
    `own` is the function that builds the heads, if the user gave one. Raises OptionError in four cases:

    - `file` can't be read.
    - A setting in `file` can't be used.
    - `file` sets `class_weight`, and the argument `class_weight` is not `none`.
    - `file` sets `layers`, `units` or `dropout`, and `own` is given.
    """
    table = {**tomllib.loads(_DEFAULT_SPACE), "class_weight": class_weight}
    names = list(table)
    if file is not None:
        try:
            asked = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OptionError(f"--space {file}: can't be read ({error})") from error
        if class_weight != "none" and "class_weight" in asked:
            raise OptionError(
                f"--class-weight {class_weight}: --space {file} chooses class_weight; leave one of them out"
            )
        if own and (layers := sorted({"layers", "units", "dropout"} & set(asked))):
            raise OptionError(f"--space {file}: sets {layers[0]}, but {own} says which layers there are")
        table |= asked
    if unknown := sorted(set(table) - set(names)):
        raise OptionError(f"--space {file}: there is no setting {unknown[0]!r}; choose from {', '.join(names)}")
    return {name: _choice(f"--space {file}: {name}", name, value) for name, value in table.items()}


def _choice(where: str, name: str, value: Any) -> Choice:
    if isinstance(value, dict):
        choice = _range(where, value)
    else:
        choice = Choice(tuple(value) if isinstance(value, list) else (value,))
    for one in choice.values:
        _require_usable(where, name, one)
    if not choice.values or len(set(choice.values)) < len(choice.values):
        raise OptionError(f"{where} must have values that differ. Received: {value}")
    return choice


def _range(where: str, value: dict[str, Any]) -> Choice:
    ends: list[Any] = [value.get("low"), value.get("high")]
    log = value.get("log", False)
    numbers = all(map(is_number, ends))
    if set(value) - {"low", "high", "log"} or not numbers or ends[0] >= ends[1] or not isinstance(log, bool):
        raise OptionError(f"{where} must be {{ low = A, high = B, log = true or false }}, A under B. Received: {value}")
    if log and ends[0] <= 0:
        raise OptionError(f"{where} must be over 0 where log is true. Received: {value}")
    whole = all(isinstance(end, int) for end in ends)
    return Choice(tuple(ends) if whole else tuple(map(float, ends)), between=True, log=log)


def _require_usable(where: str, name: str, value: Any) -> None:
    """Raise OptionError if no head can have `value` for the setting `name`. The message begins with `where`."""
    needed = ""
    if name in _WORDS:
        if value not in _WORDS[name]:
            needed = f"among {', '.join(_WORDS[name])}"
    elif not is_number(value):
        needed = "numbers"
    elif name in ("layers", "units", "batch_size", "epochs") and not isinstance(value, int):
        needed = "whole numbers"
    elif name == "layers" and not 0 <= value <= 2:
        needed = "from 0 to 2"
    elif name == "units" and value < 1:
        needed = "at least 1; a linear head is layers = 0"
    if needed:
        raise OptionError(f"{where} must be {needed}. Received: {value!r}")
    if name != "layers":
        try:
            setting: dict[str, Any] = {name: (value,) if name == "units" else value}
            HeadConfig(**setting)
        except OptionError as error:
            raise OptionError(f"{where}: {error}") from error
