"""Checks of a `.keras` file before Keras reads it. They cover the archive's files, `config.json` and the weights."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headstart.features.backbones.hdf5 import RATIO, require_sound_hdf5
from headstart.features.errors import WeightsError

_JSON_BYTES = 64 << 20
_WEIGHTS_BYTES = 16 << 30
_WEIGHTS = "model.weights.h5"
# Some layers, such as lookups of words, have further files in `assets/`, which Keras would unpack to the disk.
_MOST_BYTES = {"metadata.json": _JSON_BYTES, "config.json": _JSON_BYTES, _WEIGHTS: _WEIGHTS_BYTES}
_MOST_RANK = 1024  # the largest `lora_rank` of a layer
_FUNCTIONS = ("keras.activations", "keras.ops")  # modules whose functions only compute


def require_file(path: str, shown: str) -> None:
    """Raise a WeightsError unless `path` is a regular file. Opening a pipe or a device might never end.

    `shown` is the file's name in the error.
    """
    if not Path(path).exists():
        raise WeightsError(f"{shown}: no such file")
    if not Path(path).is_file():
        raise WeightsError(f"{shown}: not a regular file; give a file as model.save writes it")


def require_sound_archive(path: str, shown: str, remedy: str) -> None:
    """Raise a WeightsError unless the file at `path` is a `.keras` archive that is safe to load.

    A safe archive meets these conditions:

    - Its files are `config.json`, `model.weights.h5` and perhaps `metadata.json`, each once and of plausible size.
    - No layer is quantised.
    - No layer has a `lora_rank` over 1024.
    - No layer calls a function outside `keras.activations` and `keras.ops`.
    - Its HDF5 file of weights is sound; see `require_sound_hdf5`.

    Args:
        shown: the name of the file in errors.
        remedy: the advice in the error about a damaged file.
    """
    require_file(path, shown)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _require_members(members, shown)
            config = json.loads(archive.read("config.json"))
            with archive.open(_WEIGHTS) as weights:
                require_sound_hdf5(weights, archive.getinfo(_WEIGHTS).compress_size, f"{shown}: {_WEIGHTS}")
    except WeightsError:
        raise
    except Exception as error:  # zipfile, zlib and json raise half a dozen kinds
        said = " ".join(str(error).split())[:160]
        raise WeightsError(f"{shown}: not a .keras file ({said}); {remedy}") from error
    for part in _dictionaries(config):
        _require_computed(part, shown)


def _require_members(members: list[zipfile.ZipInfo], shown: str) -> None:
    names = [member.filename for member in members]
    if "config.json" not in names or _WEIGHTS not in names:
        raise WeightsError(f"{shown}: not a .keras file: it lacks config.json or model.weights.h5")
    for member in members:
        name = repr(member.filename[:80])
        if member.filename not in _MOST_BYTES or names.count(member.filename) > 1:
            raise WeightsError(
                f"{shown}: holds {name} beside one each of {', '.join(_MOST_BYTES)}; save the network "
                "without layers that need other files"
            )
        most = min(_MOST_BYTES[member.filename], RATIO * max(member.compress_size, 1 << 16))
        if member.file_size > most:
            raise WeightsError(f"{shown}: {name} would unpack to {member.file_size} bytes; refused")


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all dictionaries within `value`, at any depth, and `value` itself if it is a dictionary."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
        if isinstance(part, dict | list):
            waiting.extend(part.values() if isinstance(part, dict) else part)


def _require_computed(part: dict[str, Any], shown: str) -> None:
    kind, policy = str(part.get("class_name")), part.get("dtype")
    quantised = kind.endswith("DTypePolicy") and kind not in ("DTypePolicy", "FloatDTypePolicy")
    if quantised or (isinstance(policy, str) and "_from_" in policy):
        raise WeightsError(f"{shown}: has quantised layers; save the model before quantize(), and use --precision int8")
    rank = part.get("lora_rank")
    if isinstance(rank, int) and rank > _MOST_RANK:  # Keras fills such weights with zeros, which are in no file
        raise WeightsError(f"{shown}: a layer has lora_rank {rank}; at most {_MOST_RANK} are taken")
    module = str(part.get("module"))
    if kind == "function" and not module.startswith(_FUNCTIONS):
        function = repr(f"{module}.{part.get('config')}"[:80])
        raise WeightsError(f"{shown}: a layer calls {function}, which is no activation of Keras; no other code is run")
