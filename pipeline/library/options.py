"""Make configs from keyword arguments.

A keyword is the name of a command's option, without the leading `--` and with `_` in place of `-`.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, TypeVar

from headstart.features.backbones.cuts import alternative_cuts, chosen_weights
from headstart.features.backbones.facts import require_weights_file
from headstart.features.backbones.used import with_used_weights
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import OptionError
from headstart.pipeline.library.arguments import without_numpy
from headstart.pipeline.runs.config import converted

_Config = TypeVar("_Config")


def keyword(field: Field[Any]) -> str:
    """Return the keyword that sets `field` in Python, such as `head_batch_size` for `--head-batch-size`."""
    flag: str = field.metadata.get("flag", field.name)
    return flag.partition("/")[0].lstrip("-").replace("-", "_")


def require_known(given: Mapping[str, Any], *kinds: Any) -> None:
    """Raise an OptionError if a name in `given` is not the keyword of any field of the dataclasses `kinds`."""
    known = [keyword(field) for kind in kinds for field in fields(kind)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            raise OptionError(f"{name}: there is no such option" + (f"; did you mean {near[0]}?" if near else ""))


def made(kind: type[_Config], given: Mapping[str, Any]) -> _Config:
    """Make a config of the class `kind` from the options in `given`. Options of other configs are ignored.

    An option that is missing or None takes the value of its environment variable, as on the command line. Without such
    a variable, the option takes the default of its field. Raises OptionError for a value of the wrong type, for an
    empty text that is not the option's default, and for a value that can't be used.
    """
    config: Any = kind
    values = {}
    for field in fields(config):
        value = given.get(keyword(field))
        if value is None:
            value = _from_environment(field)
        if isinstance(value, str) and value == "" != field.default:
            raise OptionError(f"{keyword(field)}: is empty; give a value, or leave the option out")
        if value is not None:
            values[field.name] = _plain(value, field)
    try:
        return converted(values, kind)
    except ValueError as error:
        raise OptionError(" ".join(str(error).split())) from error


def require_no_rejects(given: Mapping[str, Any]) -> None:
    """Raise an OptionError if `given` has the option `max_rejects`, which has no effect on a sequence of files."""
    if given.get("max_rejects") is not None:
        raise OptionError("max_rejects: each file of a sequence must be usable; leave max_rejects out")


def feature_configs(given: Mapping[str, Any]) -> tuple[FeatureConfig, ExtractionConfig]:
    """Use the options in `given` to make the two configs that feature extraction needs.

    If the store was used before, the backbone, weights and rescaling of that use may replace the defaults; see
    `with_used_weights`. Raises OptionError or WeightsError for a network, a cut or weights that can't be used.
    """
    named = [keyword(one) for one in fields(FeatureConfig) if _named(one, given)]
    config, extraction = made(FeatureConfig, given), made(ExtractionConfig, given)
    alternative_cuts(config)
    for weights in chosen_weights(config).values():
        require_weights_file(weights)
    return with_used_weights(config, extraction.store, named), extraction


def _named(field: Field[Any], given: Mapping[str, Any]) -> bool:
    return given.get(keyword(field)) is not None or _from_environment(field) is not None


def _from_environment(field: Field[Any]) -> Any:
    text = os.environ.get(field.metadata.get("env", "")) or None
    if text is None or not isinstance(field.default, int | float):
        return text
    try:
        return type(field.default)(text)
    except ValueError as error:
        raise OptionError(f"{field.metadata['env']} must be a number. Received: {text}") from error


def _plain(value: Any, field: Field[Any]) -> Any:
    """Return `value`, the value for a config's `field`, in a form that JSON can hold."""
    value = without_numpy(value)
    if isinstance(field.default, tuple) and isinstance(value, str | int):  # the option takes several values
        value = [value]
    if isinstance(value, Path):
        return str(value)
    return os.fspath(value) if isinstance(value, os.PathLike) and field.default is not MISSING else value
