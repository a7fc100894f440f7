"""Paths in a run's `config.json`. Most of them are relative to the run's folder, so that a project can be moved.

A path is written as relative if the path and the run's folder lie in a common folder that is not the root of the file
system. Some fields hold either a path or a name, such as `imagenet`, `random` or the name of a backbone. A relative
path begins with `./` or `../`, so it can't be mistaken for a name.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headstart.features.backbones.cuts import renamed, split_names
from headstart.features.backbones.outlines import is_own
from headstart.features.paths import absolute_path, relative_path


def with_relative_paths(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a copy of a run's configuration in which paths are relative to the run's folder.

    `config` is the content of `config.json`, and `folder` is the run's folder. A path that can't be relative stays as
    it is.
    """
    return _changed(config, lambda path: relative_path(path, folder))


def with_absolute_paths(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a copy of a run's configuration in which all paths are absolute.

    `config` is the content of `config.json`, and `folder` is the run's folder.
    """
    return _changed(config, lambda path: absolute_path(path, folder))


def _changed(config: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return a copy of a run's `config` in which each path is replaced by `change(path)`."""
    features = {"backbone": "inception_v3", "weights": "imagenet", **config["features"]}
    names = split_names(features["backbone"])
    own = {name: change(name) for name in names if is_own(name)}

    taking = len(names) - len(own) or 1  # networks with weights of their own do not take `--weights`
    files = features["weights"].split("+")
    files = files if len(files) == taking else [features["weights"]]
    changed = [change(file) for file in files]
    if any("+" in file for file in changed) and taking > 1:
        changed = files  # a relative path with a `+` could not be split off again
    sweep = config.get("sweep")
    return {
        **config,
        **({"sweep": {**sweep, "study": change(sweep["study"])}} if sweep else {}),
        "data": change(config["data"]),
        "features": {
            **features,
            "backbone": "+".join(own.get(name, name) for name in names),
            "cut": [renamed(cut, own) for cut in features["cut"]],
            "weights": "+".join(changed),
            "store": change(features["store"]),
        },
        "fingerprints": {renamed(name, own): key for name, key in config["fingerprints"].items()},
    }
