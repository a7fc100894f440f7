"""Cuts: the places in a backbone where features are taken. Only this module parses `--cut` and `--weights`.

This module imports no Keras, so that a wrong name is reported without waiting for TensorFlow.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path

from headstart.features.backbones.outlines import is_own, outline
from headstart.features.backbones.zoo import BACKBONES, backbone_spec
from headstart.features.config import FeatureConfig
from headstart.features.errors import OptionError

ALL = "all"
KNOWN_WEIGHTS = ("imagenet", "random")
_MAP = ":map"


@dataclass(frozen=True)
class Cut:
    """The end of one block of a backbone, where features are taken."""

    backbone: str  # a name in `BACKBONES`, or the path of a `.keras` file
    block: str  # a name in that backbone's `outline`
    map: bool = False  # features are a map, `[H, W, D]`; else they are averaged over space, `[D]`

    @classmethod
    def parse(cls, backbone: str, text: str) -> "Cut":
        """Parse `text`, such as `mixed8` or `mixed8:map`, as a cut of `backbone`.

        The backbone need not have the block that `text` names.
        """
        return cls(backbone, text.removesuffix(_MAP), text.endswith(_MAP))

    @property
    def name(self) -> str:
        """The cut's name within its backbone: `mixed8`, or `mixed8:map`."""
        return f"{self.block}{_MAP * self.map}"


def cut_names(cuts: Sequence[Cut]) -> list[str]:
    """Return the command-line name of each cut: `mixed8`, or `backbone/mixed8` if there are several backbones."""
    alone = len({cut.backbone for cut in cuts}) == 1
    return [cut.name if alone else f"{cut.backbone}/{cut.name}" for cut in cuts]


def chosen_backbones(config: FeatureConfig) -> list[str]:
    """Return the backbones that `config` names: names in `BACKBONES`, and absolute paths of `.keras` files.

    An unknown or repeated backbone raises an OptionError.
    """
    # Paths are made absolute, because a run outlives the working directory.
    names = [os.path.abspath(name) if is_own(name) else name for name in split_names(config.backbone)]
    for name in names:
        if not is_own(name):
            backbone_spec(name)
    if len(set(names)) < len(names):
        raise OptionError(f"--backbone: names a backbone twice. Received: {config.backbone}")
    return names


def split_names(text: str) -> list[str]:
    """Split `text` into backbones that are joined by `+`: names in `BACKBONES`, and paths of `.keras` files.

    A path may contain a `+`. If `text` can't be split into known names and paths, it is split at every `+`.
    """
    names, part = [], ""
    for piece in text.split("+"):
        part = f"{part}+{piece}" if part else piece
        if part in BACKBONES or is_own(part):
            names.append(part)
            part = ""
    return text.split("+") if part or not text or text.endswith("+") else names


def chosen_cuts(config: FeatureConfig) -> tuple[Cut, ...]:
    """Return the cuts that `config` names, grouped by backbone.

    The cuts of one backbone have the order in which `config` names them. A name such as `mixed8` selects the cut of
    that name in every backbone with such a cut. `backbone/mixed8` selects the cut in one backbone only. In place of a
    cut's name, `all` selects all cuts. A backbone without a selected cut is cut at its last block.

    Raises OptionError if a backbone or cut is unknown or repeated, or if the output at a `:map` cut is not a map.
    """
    backbones = chosen_backbones(config)
    found: dict[str, list[Cut]] = {name: [] for name in backbones}
    for text in _separate(config.cut, backbones):
        for cut in _meant(text, backbones):
            found[cut.backbone].append(cut)
    for cuts in found.values():
        require_maps([cut for cut in cuts if cut.map])
        if len(set(cuts)) < len(cuts):
            raise OptionError(f"--cut: names a cut twice. Received: {'+'.join(cut.name for cut in cuts)}")
    return tuple(cut for name, cuts in found.items() for cut in cuts or [Cut(name, list(outline(name).cuts)[-1])])


def alternative_cuts(config: FeatureConfig) -> tuple[tuple[tuple[Cut, ...], ...], bool]:
    """Return the sets of cuts from which a search chooses, and whether the search may also join sets.

    - Without `--cut`, the last cut of each backbone is a set. With several backbones, all these cuts together are one
      more set.
    - If a value of `--cut` contains the name `all`, every value is first split, so that each name in the value becomes
      a value. Each cut of each value is then a set. Only in this case may the search join sets.
    - In all other cases, the cuts of each value of `--cut` are a set.

    A name in a value may lack its backbone: `mixed8`, not `backbone/mixed8`. Such a name selects the cut `mixed8` in
    every backbone that has this cut. Each of the other backbones adds its last cut to the value's cuts, unless another
    name in the value selects a cut of that backbone.
    """
    if not config.cut:
        cuts = chosen_cuts(config)
        return tuple(dict.fromkeys([*((cut,) for cut in cuts), cuts])), False
    if any(text.rpartition("/")[2] == ALL for text in _separate(config.cut, chosen_backbones(config))):
        parts = _separate(config.cut, chosen_backbones(config))
        single = dict.fromkeys(cut for text in parts for cut in _combination(config, text))
        return tuple((cut,) for cut in single), True
    return tuple(dict.fromkeys(_combination(config, text) for text in config.cut)), False


def _combination(config: FeatureConfig, text: str) -> tuple[Cut, ...]:
    named = {_named(part) for part in _separate((text,), chosen_backbones(config))}
    return tuple(cut for cut in chosen_cuts(replace(config, cut=(text,))) if "" in named or cut.backbone in named)


def restricted(config: FeatureConfig, cuts: Sequence[Cut]) -> FeatureConfig:
    """Return a copy of `config` with only the given cuts, the backbones of these cuts, and their weights."""
    wanted = {cut.backbone for cut in cuts}
    weights = {name: file for name, file in chosen_weights(config).items() if name in wanted}
    files = config.weights if config.weights in weights.values() else "+".join(weights.values())
    # If there are `.keras` files, `--rescale` applies to them alone; see `load_networks`.
    of_others = any(map(is_own, chosen_backbones(config))) and not any(map(is_own, weights))
    rescale = "auto" if of_others else config.rescale
    return replace(config, backbone="+".join(weights), weights=files, rescale=rescale, cut=tuple(cut_names(cuts)))


def require_averaged(cuts: Sequence[Cut]) -> None:
    """Raise an OptionError if a cut is a map, which a head can't take."""
    for cut in cuts:
        if cut.map:
            wanted, given = repr(cut.block), repr(cut.name)
            raise OptionError(f"--cut: a head takes features averaged over space, {wanted}. Received: {given}")


def require_maps(cuts: Sequence[Cut]) -> None:
    """Raise an OptionError if the output of a network at one of `cuts` is not a map, [H, W, D]."""
    for cut in cuts:
        if len(outline(cut.backbone).cuts[cut.block]) != 3:
            raise OptionError(f"--cut: {cut.backbone} has no map at {cut.block!r}. Received: {cut.name}")


def renamed(cut: str, backbones: Mapping[str, str]) -> str:
    """Return `cut`, the text of a cut such as `backbone/block`, with another name for its backbone.

    `backbones` maps old names of backbones to new names. A cut of any other backbone is returned unchanged.
    """
    old = next((name for name in backbones if cut.startswith(f"{name}/")), None)
    return cut if old is None else backbones[old] + cut.removeprefix(old)


def chosen_weights(config: FeatureConfig) -> dict[str, str]:
    """Return the weights of each backbone: `imagenet`, `random`, or the path of a weights file.

    `config.weights` is one value for all backbones, or one value per backbone, joined by `+`. The path of an existing
    weights file may contain a `+`. Raises OptionError if there is not exactly one way to split `config.weights`.

    A `.keras` file holds its own weights. If only some backbones are `.keras` files, `config.weights` has values for
    the other backbones only, and each `.keras` file gets the placeholder `imagenet`.
    """
    every, text = chosen_backbones(config), config.weights
    names = [name for name in every if not is_own(name)] or every  # a `.keras` file holds its own weights
    return dict.fromkeys(every, "imagenet") | weights_of_each(names, text)


def weights_of_each(names: Sequence[str], text: str) -> dict[str, str]:
    """Return the weights of each backbone in `names`; see `chosen_weights`.

    `text` holds one value for all backbones, or one value per backbone, joined by `+`.
    """
    if len(names) == 1 or "+" not in text or _is_weights(text):
        return dict.fromkeys(names, text)
    joints = [place for place, letter in enumerate(text) if letter == "+"]
    splits = []
    for places in combinations(joints, len(names) - 1):
        ends = pairwise([-1, *places, len(text)])
        splits.append([text[start + 1 : end] for start, end in ends])
    existing = [parts for parts in splits if all(map(_is_weights, parts))]
    possible = existing or [parts for parts in splits if all(parts)]
    if len(possible) != 1:
        raise OptionError(
            f"--weights must be one for all, or one for each of {len(names)} backbones, joined by +. Received: {text}"
        )
    return dict(zip(names, possible[0], strict=True))


def _is_weights(text: str) -> bool:
    return text in KNOWN_WEIGHTS or Path(text).is_file()


def _separate(texts: Sequence[str], backbones: Sequence[str] = ()) -> list[str]:
    """Split values of `--cut` at each `+`, except inside the path of a `.keras` file among `backbones`."""
    parts = []
    for text in texts:
        pieces = text.split("+")
        while pieces:
            joined = ["+".join(pieces[:count]) for count in range(1, len(pieces) + 1)]
            part = next(
                (one for one in joined if _named(one) in backbones and "+" not in one.split("/")[-1]), joined[0]
            )
            parts.append(part)
            del pieces[: part.count("+") + 1]
    return parts


def _named(text: str) -> str:
    """Return the part of a cut's name that names the backbone: `backbone` for `backbone/cut`, "" for `cut`.

    If this part is the path of a `.keras` file, the path is made absolute.
    """
    named = text.rpartition("/")[0]
    return os.path.abspath(named) if is_own(named) else named


def _meant(text: str, backbones: Sequence[str]) -> list[Cut]:
    named, inner = _named(text), text.rpartition("/")[2]
    among = [name for name in backbones if named in ("", name)]
    if inner == ALL:
        found = [Cut(name, block) for name in among for block in outline(name).cuts]
    else:
        cuts = [Cut.parse(name, inner) for name in among]
        found = [cut for cut in cuts if cut.block in outline(cut.backbone).cuts]
    if found:
        return found
    if len(backbones) == 1:
        known = ", ".join(outline(backbones[0]).cuts)
        raise OptionError(f"--cut: {backbones[0]} has no cut {text!r}; choose from {known}")
    raise OptionError(f"--cut: none of {', '.join(backbones)} has a cut {text!r}")
