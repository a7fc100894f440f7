"""Load `.keras` files that may come from elsewhere.

No code from a file is run, and a small file can't fill the memory.
"""

import json
import math
import warnings
import zipfile
from contextlib import suppress
from typing import Any

import numpy as np
from headstart.features.backbones.archive import require_sound_archive
from headstart.features.errors import WeightsError
from headstart.features.tensorflow import keras
from packaging.version import InvalidVersion, Version

_SEEDS = 1 << 10  # values; the file may lack a variable of at most this size, such as a random seed
_CODE = ("lambda", "could not locate", "not registered")  # words of Keras's errors about layers that are code


def load_keras(path: str, shown: str, remedy: str) -> Any:
    """Load the Keras model in the `.keras` file at `path`. The inputs and outputs of the model are not checked.

    Keras's safe mode refuses layers that would run code: Lambda layers, and classes that are not part of Keras. Raises
    WeightsError if the file is damaged or refused, if Keras can't load it, or if it has weights that are not finite.

    Args:
        shown: the file's name in errors.
        remedy: the advice in the error about a damaged file.
    """
    require_sound_archive(path, shown, remedy)
    try:
        with warnings.catch_warnings(action="ignore"):
            model = _loaded(path)
    except MemoryError:
        raise
    except Exception as error:  # Keras, h5py and json raise a dozen kinds
        if newer := _newer_keras(path):
            raise WeightsError(
                f"{shown}: saved by Keras {newer}, this is {keras.__version__}: upgrade keras, or save the model with "
                "this version"
            ) from error
        if any(sign in str(error).lower() for sign in _CODE):
            raise WeightsError(
                f"{shown}: has a Lambda or another layer that is code, and Keras's safe mode runs no code from a file; "
                f"build the model from Keras's own layers ({said(error).split('. ')[0]})"
            ) from error
        raise WeightsError(f"{shown}: Keras can't load it ({said(error)}); {remedy}") from error
    if not all(np.isfinite(variable.numpy()).all() for variable in getattr(model, "weights", ())):
        raise WeightsError(f"{shown}: has weights that are not finite; {remedy}")
    return model


def said(error: Exception) -> str:
    """Return the message of `error` in one line of at most 200 characters, without control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(error)).split())[:200]


def _loaded(path: str) -> Any:
    """Load a model. Allocate weights only after a check that the file holds them: a file may declare huge weights."""
    try:
        with keras.StatelessScope(initialize_variables=False) as scope:  # in it, weights have shapes but no values
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
            found = [(variable, scope.get_current_value(variable)) for variable in model.variables]
            for variable, value in found:
                if value is None and math.prod(variable.shape) > _SEEDS:
                    raise ValueError(f"the file lacks the weights {variable.path[-80:]!r}")
        with keras.StatelessScope():
            pass  # the end of this scope allocates the weights
    except Exception:
        keras.utils.clear_session()  # otherwise the next such scope would allocate the weights
        raise
    for variable, value in found:
        if value is not None:
            variable.assign(value)
    return model


def _newer_keras(path: str) -> str | None:
    """Return the version of Keras that saved the file at `path`, if this version is newer than the installed Keras.

    Otherwise, return None.
    """
    with suppress(KeyError, ValueError, AttributeError, TypeError, RecursionError, InvalidVersion, zipfile.BadZipFile):
        with zipfile.ZipFile(path) as archive:
            version = json.loads(archive.read("metadata.json"))["keras_version"]
        if Version(version) > Version(keras.__version__):
            return str(Version(version))
    return None
