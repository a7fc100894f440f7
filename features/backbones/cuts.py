"""Cuts: where features are taken from a backbone. The strings of `--backbone`, `--cut` and `--weights` end here.

This module imports no Keras, so that a wrong name is told before anything is scanned.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path

from headstart.features.backbones.zoo import backbone_spec
from headstart.features.config import FeatureConfig
from headstart.features.errors import OptionError

ALL = "all"
KNOWN_WEIGHTS = ("imagenet", "random")
_MAP = ":map"


@dataclass(frozen=True)
class Cut:
    """The end of one block of a backbone, where features are taken."""

    backbone: str  # a name in `BACKBONES`
    block: str  # a name in that backbone's `cuts`
    map: bool = False  # features keep their places, `[H, W, D]`; else they are averaged over space, `[D]`

    @classmethod
    def parse(cls, backbone: str, text: str) -> "Cut":
        """The cut of `backbone` that is written as `mixed8` or `mixed8:map`. The block may be unknown."""
        return cls(backbone, text.removesuffix(_MAP), text.endswith(_MAP))

    @property
    def name(self) -> str:
        """The name within its backbone: `mixed8`, or `mixed8:map`."""
        return f"{self.block}{_MAP * self.map}"


def cut_names(cuts: Sequence[Cut]) -> list[str]:
    """The name of each cut as a person knows it: `mixed8`, or `backbone/mixed8` where there are several backbones."""
    alone = len({cut.backbone for cut in cuts}) == 1
    return [cut.name if alone else f"{cut.backbone}/{cut.name}" for cut in cuts]


def chosen_backbones(config: FeatureConfig) -> list[str]:
    """The names that `--backbone` joins by `+`. One that is unknown, or is named twice, raises an OptionError."""
    names = config.backbone.split("+")
    for name in names:
        backbone_spec(name)
    if len(set(names)) < len(names):
        raise OptionError(f"--backbone: names a backbone twice. Received: {config.backbone}")
    return names


def chosen_cuts(config: FeatureConfig) -> tuple[Cut, ...]:
    """The cuts that a configuration means, by backbone, and within a backbone in the order given.

    A cut that several backbones have is meant of all of them, unless it is written as `backbone/cut`. A backbone
    without any is cut at its default. An unknown backbone or cut, or one that is named twice, raises an OptionError.
    """
    backbones = chosen_backbones(config)
    found: dict[str, list[Cut]] = {name: [] for name in backbones}
    for text in _separate(config.cut):
        for cut in _meant(text, backbones):
            found[cut.backbone].append(cut)
    for cuts in found.values():
        if len(set(cuts)) < len(cuts):
            raise OptionError(f"--cut: names a cut twice. Received: {'+'.join(cut.name for cut in cuts)}")
    return tuple(cut for name, cuts in found.items() for cut in cuts or [Cut(name, list(backbone_spec(name).cuts)[-1])])


def alternative_cuts(config: FeatureConfig) -> tuple[tuple[tuple[Cut, ...], ...], bool]:
    """The combinations of cuts among which a search chooses, and whether it may join single cuts freely.

    Each `--cut` is one combination. With `all` the single cuts are joined freely. Without a `--cut`, several backbones
    are tried at their defaults, each alone and all together. A backbone that has none of the cuts of a combination
    joins it at its default, as in `chosen_cuts`, but not where the combination names a backbone.
    """
    if not config.cut:
        cuts = chosen_cuts(config)
        return tuple(dict.fromkeys([*((cut,) for cut in cuts), cuts])), False
    if any(text.rpartition("/")[2] == ALL for text in _separate(config.cut)):
        single = dict.fromkeys(cut for text in _separate(config.cut) for cut in _combination(config, text))
        return tuple((cut,) for cut in single), True
    return tuple(dict.fromkeys(_combination(config, text) for text in config.cut)), False


def _combination(config: FeatureConfig, text: str) -> tuple[Cut, ...]:
    named = {part.rpartition("/")[0] for part in _separate((text,))}
    return tuple(cut for cut in chosen_cuts(replace(config, cut=(text,))) if "" in named or cut.backbone in named)


def restricted(config: FeatureConfig, cuts: Sequence[Cut]) -> FeatureConfig:
    """`config` with the given cuts and their backbones alone."""
    wanted = {cut.backbone for cut in cuts}
    weights = {name: file for name, file in chosen_weights(config).items() if name in wanted}
    files = config.weights if config.weights in weights.values() else "+".join(weights.values())
    return replace(config, backbone="+".join(weights), weights=files, cut=tuple(cut_names(cuts)))


def require_averaged(cuts: Sequence[Cut]) -> None:
    """Raise an OptionError if a cut is a map, which a head can't take."""
    for cut in cuts:
        if cut.map:
            averaged = repr(cut.block)
            raise OptionError(f"--cut: a head takes features averaged over space, {averaged}. Received: {cut.name!r}")


def chosen_weights(config: FeatureConfig) -> dict[str, str]:
    """The `--weights` of each backbone: one for all, or one for each, joined by `+`, else an OptionError.

    A `+` within the path of a file that exists joins nothing.
    """
    names, text = chosen_backbones(config), config.weights
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


def _separate(texts: Sequence[str]) -> list[str]:
    return [part for text in texts for part in text.split("+")]


def _meant(text: str, backbones: Sequence[str]) -> list[Cut]:
    """The cuts of `backbones` that one text means."""
    named, _, inner = text.rpartition("/")
    among = [name for name in backbones if named in ("", name)]
    if inner == ALL:
        found = [Cut(name, block) for name in among for block in backbone_spec(name).cuts]
    else:
        cuts = [Cut.parse(name, inner) for name in among]
        found = [cut for cut in cuts if cut.block in backbone_spec(cut.backbone).cuts]
    if found:
        return found
    if len(backbones) == 1:
        known = ", ".join(backbone_spec(backbones[0]).cuts)
        raise OptionError(f"--cut: {backbones[0]} has no cut {text!r}; choose from {known}")
    raise OptionError(f"--cut: none of {', '.join(backbones)} has a cut {text!r}")
