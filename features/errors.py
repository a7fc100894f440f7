"""Errors that a person can mend. A command tells them in one line and exits with 1; a bug keeps its traceback."""


class HeadstartError(Exception):
    """Base of them all. The message names the file, option or field, and what to do."""


class OptionError(HeadstartError, ValueError):
    """A setting that can't be used."""


class DataError(HeadstartError, ValueError):
    """Images, class folders or archives that can't be used."""


class WeightsError(HeadstartError, ValueError):
    """Weights that are missing, corrupt or another network's."""


class StoreError(HeadstartError, OSError):
    """A store or shard that can't be used."""


class RunError(HeadstartError, ValueError):
    """A folder that is not a run, or a run that does not fit what is asked of it."""


class DivergedError(HeadstartError):
    """A training in which no loss was finite."""


def require_options(*options: tuple[str, object, bool, str]) -> None:
    """Raise an OptionError if one of (flag, value, whether it is in range, the range in words) is out of range."""
    for name, value, valid, wanted in options:
        if not valid:
            raise OptionError(f"{name} must be {wanted}. Received: {value}")
