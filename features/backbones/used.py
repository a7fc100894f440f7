"""The weights that were used with a store. The store lists them in `used.json`, so a user names them only once."""

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

from headstart.features.backbones.cuts import KNOWN_WEIGHTS, chosen_backbones, chosen_weights
from headstart.features.backbones.outlines import is_own, place_of_weights
from headstart.features.backbones.zoo import BACKBONES
from headstart.features.config import FeatureConfig, Rescale
from headstart.features.errors import OptionError, require_options
from headstart.features.files import read_json, sha256_of, write_json
from headstart.features.paths import absolute_path, relative_path
from headstart.features.terminal import console

_MOST, _MOST_BYTES = 100, 1 << 20  # entries, and bytes of the file
_LARGEST = 16 << 30  # bytes of a file of weights


@dataclass(frozen=True)
class Used:
    """A backbone and its weights, as they were used to make features in a store."""

    backbone: str  # a name in `BACKBONES`, or the absolute path of a `.keras` file
    weights: str  # `imagenet`, `random`, or the absolute path of a file
    weights_seed: int
    rescale: str  # the value of `--rescale`: `auto`, or a key of `RESCALINGS`
    digest: str  # the field `weights` of the fingerprint
    file_digest: str = ""  # SHA-256 of the file's bytes; empty without a file

    @property
    def file(self) -> str:
        """The path of the file that holds the weights; empty for ImageNet weights and random weights."""
        if is_own(self.backbone):
            return self.backbone
        return "" if self.weights in KNOWN_WEIGHTS else self.weights

    @property
    def options(self) -> str:
        """The command-line options that ask for these weights."""
        seed = f" --weights-seed {self.weights_seed}" if self.weights == "random" and self.weights_seed else ""
        rescale = "" if self.rescale == "auto" else f" --rescale {self.rescale}"
        return f"--weights {self.weights}{seed}{rescale}"

    def is_at_hand(self) -> bool:
        """Return whether the file `self.file` still has the same bytes as when it was used.

        If `self.file` is empty, return True.
        """
        return not self.file or (bool(self.file_digest) and file_digest(self.file) == self.file_digest)


def used_with(store: Path) -> list[Used]:
    """Return the entries of `used.json`: the backbones and weights that were used with `store`.

    The entry that was added last comes last. If `used.json` can't be read, a line is printed, and the result is empty.

    The file paths in the entries are absolute, and may come from another machine. Call `Used.is_at_hand` before you use
    such a path.
    """
    if (found := _read(_file(store))) is None:
        _tell_unreadable(_file(store))
        return []
    return [
        replace(one, backbone=absolute_path(one.backbone, store), weights=absolute_path(one.weights, store))
        for one in found
    ]


def _read(file: Path) -> list[Used] | None:
    """Return the entries of `file`: an empty list if the file is missing, and None if the file can't be read."""
    try:
        entries = read_json(file, _MOST_BYTES)
        found = [Used(**values) for values in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, TypeError):
        return None
    return found if isinstance(entries, list) and all(map(_is_sound, found)) else None


@cache
def _tell_unreadable(file: Path) -> None:
    console.print(f"{file}: can't be read, and is ignored; a command that fills the store writes it anew")


def remember(store: Path, used: Sequence[Used]) -> None:
    """Add entries to `used.json` in `store`, and fill in their field `file_digest`. A failure to write is ignored."""
    before = used_with(store)
    known = {(one.file, one.digest): one.file_digest for one in before}
    now = [replace(one, file_digest=known.get((one.file, one.digest)) or file_digest(one.file)) for one in used]
    names = [_settings(one) for one in now]
    kept = [one for one in before if _settings(one) not in names] + now
    if set(kept) != set(before):
        with suppress(OSError):
            write_json(_file(store), [_on_disk(one, store) for one in kept[-_MOST:]])


def with_used_weights(config: FeatureConfig, store: Path, given: Collection[str], needed: bool = True) -> FeatureConfig:
    """Return `config` with the backbone, weights and rescaling that were used with `store`, in place of the defaults.

    `given` names the fields of `config` that the user set. `needed` says whether the command reads the weights. A line
    on the console says which options are changed.

    The user's own choice of a backbone, of weights or of a rescaling stays. If the user set the weights, the rescaling
    or a cut, the backbone stays, too. If `config` names several backbones, nothing is changed. If the ImageNet weights
    are on this machine or were used with `store`, the ImageNet weights stay.

    Raises OptionError if these three conditions hold together: `needed` is true, the ImageNet weights have to be
    replaced, and several choices of weights and rescaling can replace them. Also raises OptionError if `config` has a
    seed, but no backbone with random weights.
    """
    random, seed = "random" in chosen_weights(config).values(), config.weights_seed
    require_options(("--weights-seed", seed, random or not seed, "0 without --weights random"))
    if not {"backbone", "weights", "rescale", "cut"} & set(given):
        config = _with_used_backbone(config, store)
    names = chosen_backbones(config)
    known = [one for one in used_with(store) if [one.backbone] == names]
    if not known:
        return config
    if "weights" in given or is_own(names[0]):
        return config if "rescale" in given else _with_used_rescaling(config, known, store)
    if any(one.weights == "imagenet" for one in known):  # the store has features of the ImageNet weights, too
        return config
    if place_of_weights(names[0]) in ("shipped", "cached"):
        console.print(f"{store} has features of {names[0]} with {_listed(known)}; --weights imagenet is used")
        return config
    return _with_only(config, known, store, "rescale" in given, needed)


def _with_used_backbone(config: FeatureConfig, store: Path) -> FeatureConfig:
    """Return `config` with the backbone that was used with `store`, or return `config` unchanged.

    The backbone is changed if exactly one backbone was used with `store`, and the default backbone's weights aren't on
    this machine.
    """
    used = sorted({one.backbone for one in used_with(store)})
    if not used or config.backbone in used:
        return config
    if len(used) == 1 and place_of_weights(config.backbone) not in ("shipped", "cached"):
        console.print(f"--backbone {used[0]}, as in the features of {store}")
        return replace(config, backbone=used[0])
    console.print(f"{store} has features of {', '.join(used)}; --backbone {config.backbone} is used")
    return config


def _with_only(
    config: FeatureConfig, known: Sequence[Used], store: Path, rescaled: bool, needed: bool
) -> FeatureConfig:
    """If exactly one entry of `known` can be used, return `config` with the entry's weights and rescaling."""
    options = [replace(one, rescale=config.rescale) for one in known] if rescaled else known  # the user set it
    usable = list({(one.digest, one.rescale): one for one in options if one.is_at_hand()}.values())
    if not usable:
        console.print(
            f"{store} has features of {known[0].backbone} with {_listed(known)}, but the file is gone or has changed"
        )
        return config
    if len(usable) > 1 and needed:
        raise OptionError(
            f"--weights: the ImageNet weights of {known[0].backbone} are not on this machine, and {store} has features "
            f"with several others; say which: {_listed(usable)}"
        )
    if len(usable) > 1:
        return config
    console.print(f"{usable[0].options}, as in the features of {store}")
    chosen: Any = usable[0]
    return replace(config, weights=chosen.weights, weights_seed=chosen.weights_seed, rescale=chosen.rescale)


def _with_used_rescaling(config: FeatureConfig, known: Sequence[Used], store: Path) -> FeatureConfig:
    """Look up the weights file of `config` in `known`. Return `config` with the rescaling that the file's entries name.

    If the file has no entry, or if its entries name several rescalings, return `config` unchanged.
    """
    file = known[0].backbone if is_own(known[0].backbone) else config.weights
    if file in KNOWN_WEIGHTS or all(one.rescale == "auto" for one in known):
        return config
    digest = file_digest(file)
    path = os.path.abspath(file)
    same = [one for one in known if (one.file_digest == digest if digest else one.file == path)]
    rescalings: list[Any] = sorted({one.rescale for one in same if one.file})
    if len(rescalings) != 1 or rescalings == ["auto"]:
        return config
    console.print(f"--rescale {rescalings[0]}, as in the features of {store} with {file}")
    return replace(config, rescale=rescalings[0])


def weights_by_digest(store: Path) -> dict[str, str]:
    """Return a dict from the digest of weights to the value of `--weights`, for all weights used with `store`."""
    return {one.digest: one.weights for one in used_with(store)}


def digest_in_store(store: Path, backbone: str, weights: str, weights_seed: int) -> str | None:
    """Return the digest of a backbone's weights without building the backbone.

    Return None if these weights were not used with `store`.
    """
    known = [one for one in used_with(store) if one.backbone == backbone]
    if weights in KNOWN_WEIGHTS:
        seed = weights_seed if weights == "random" else 0
        return next((one.digest for one in known if (one.weights, one.weights_seed) == (weights, seed)), None)
    digest = file_digest(weights) if known else ""
    if not digest:  # the file is gone
        return next((one.digest for one in known if one.weights == os.path.abspath(weights)), None)
    return next((one.digest for one in known if one.file_digest == digest), None)


def file_digest(path: str) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes.

    Return an empty text if the file is not a regular file, can't be read, or has more than 16 GiB.
    """
    try:
        if not Path(path).is_file() or Path(path).stat().st_size > _LARGEST:
            return ""
        return sha256_of(path)
    except (OSError, ValueError):
        return ""


def _on_disk(one: Used, store: Path) -> dict[str, Any]:
    paths = {"backbone": relative_path(one.backbone, store), "weights": relative_path(one.weights, store)}
    return asdict(one) | paths


def _settings(one: Used) -> tuple[str, str, int, str]:
    return one.backbone, one.weights, one.weights_seed, one.rescale


def _listed(used: Sequence[Used]) -> str:
    return "; ".join(dict.fromkeys(one.options for one in used))


def _is_sound(one: Used) -> bool:
    texts = (one.backbone, one.weights, one.rescale, one.digest, one.file_digest)
    if not all(isinstance(text, str) for text in texts) or type(one.weights_seed) is not int:
        return False
    return one.rescale in get_args(Rescale) and (is_own(one.backbone) or one.backbone in BACKBONES)


def _file(store: Path) -> Path:
    return store / "used.json"
