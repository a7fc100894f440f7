"""Errors that the user can fix. A command prints such an error in one line, without a traceback.

The command then exits with status 2 for an OptionError, and with status 1 for all other errors of this module.
"""

import math

_LARGEST = 10**18  # with larger numbers, the arithmetic of NumPy and of clocks overflows


class HeadstartError(Exception):
    """The base class of errors that the user can fix. Each message names the file, option or field, and the remedy."""


class OptionError(HeadstartError, ValueError):
    """A setting that can't be used."""


class DataError(HeadstartError, ValueError):
    """Images, class folders or archives that can't be used."""


class WeightsError(HeadstartError, ValueError):
    """Weights that are missing, corrupt, or of another network."""


class StoreError(HeadstartError, OSError):
    """A store or shard that can't be used."""


class RunError(HeadstartError, ValueError):
    """A folder that is not a run, or a run that the command can't use."""


class ExportError(HeadstartError):
    """An export that can't be made or used.

    For example, a format can't hold the model, or the answers of the export and of the run differ too much.
    """


class DivergedError(HeadstartError):
    """Training that diverged: no loss on val was finite."""


def require_options(*options: tuple[str, object, bool, str]) -> None:
    """Raise an OptionError for the first invalid option.

    Each option is a tuple: its flag, its value, whether the value is valid, and a description of valid values. A number
    is always invalid if it is infinite, NaN or larger than 10^18.
    """
    for name, value, valid, wanted in options:
        finite = not isinstance(value, float) or math.isfinite(value)
        if not (valid and finite):
            raise OptionError(f"{name} must be {wanted if finite else 'a finite number'}. Received: {value}")
        if isinstance(value, (int, float)) and value > _LARGEST:
            raise OptionError(f"{name} must be at most {_LARGEST:.0e}. Received: {value}")
