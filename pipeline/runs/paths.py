"""Paths in a run's `config.json`. On disk they are relative to the run's folder, so that a project can be moved.

A path is relative if it and the run's folder lie in a common folder that is not the root of the file system. A relative
path begins with `./` or `../`, which tells it from `imagenet`, `random`, and the names of backbones.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headstart.features.backbones.cuts import split_names
from headstart.features.backbones.outlines import is_own


def with_relative_paths(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a copy of the content of `config.json` with its paths relative to the run's `folder` where they can be."""
    return _changed(config, lambda path: _relative(path, folder))


def with_absolute_paths(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a copy of the content of the `config.json` in `folder`, with absolute paths."""
    return _changed(config, lambda path: _absolute(path, folder))


def _changed(config: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return a copy of `config` with `change` applied to each path: data, store, weights and `.keras` files."""
    features = {"backbone": "inception_v3", "weights": "imagenet", **config["features"]}
    names = split_names(features["backbone"])
    own = {name: change(name) for name in names if is_own(name)}

    def cut(text: str) -> str:  # of several backbones, a cut is `backbone/cut`
        old = next((name for name in own if text.startswith(f"{name}/")), None)
        return text if old is None else own[old] + text.removeprefix(old)

    taking = len(names) - len(own) or 1  # networks with weights of their own do not take `--weights`
    files = features["weights"].split("+")
    files = files if len(files) == taking else [features["weights"]]
    changed = [change(file) for file in files]
    if any("+" in file for file in changed) and taking > 1:
        changed = files  # relative paths with `+` could not be told apart again
    sweep = config.get("sweep")
    return {
        **config,
        **({"sweep": {**sweep, "study": change(sweep["study"])}} if sweep else {}),
        "data": change(config["data"]),
        "features": {
            **features,
            "backbone": "+".join(own.get(name, name) for name in names),
            "cut": [cut(text) for text in features["cut"]],
            "weights": "+".join(changed),
            "store": change(features["store"]),
        },
        "fingerprints": {cut(name): key for name, key in config["fingerprints"].items()},
    }


def _relative(path: str, folder: Path) -> str:
    if not os.path.isabs(path):
        return path
    there, here = plain_path(path), plain_path(folder)
    if os.path.commonpath([there, here]) == os.sep:
        return path
    relative = os.path.relpath(there, here)
    return relative if relative.split(os.sep)[0] == os.pardir else os.path.join(os.curdir, relative)


def _absolute(path: str, folder: Path) -> str:
    if path.split(os.sep, maxsplit=1)[0] not in (os.curdir, os.pardir):
        return path
    # The run's folder may be a symlink: then the path may be meant from the link, or from the folder that it names.
    found = [os.path.normpath(os.path.join(here, path)) for here in (plain_path(folder), os.path.realpath(folder))]
    return next((one for one in found if os.path.lexists(one)), found[0])


def plain_path(path: str | Path) -> str:
    """Return the absolute path without `..`. Symlinks stay, unless a `..` may go up from the target of one."""
    return os.path.realpath(path) if os.pardir in Path(path).parts else os.path.abspath(path)
