"""What headstart raises for bad input. A bug raises anything else and keeps its traceback.

HeadstartError            told to a person in one line; the command exits with 1
├── OptionError           a setting that can't be used            (also a ValueError)
├── DataError             images, class folders, archives         (also a ValueError)
├── WeightsError          a weights file or download              (also a ValueError)
├── StoreError            a shard or the store's folder           (also an OSError)
├── RunError              a run folder                            (also a ValueError)
└── DivergedError         a training without a finite loss
"""


class HeadstartError(Exception):
    """Base of every error that a person can mend: the message names the file, option or field and what to do."""


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
    """Refuse settings that are out of range.

    Args:
        options: flag, value, whether the value is in range, and the range in words.

    Raises:
        OptionError: one is not.
    """
    for name, value, valid, wanted in options:
        if not valid:
            raise OptionError(f"{name} must be {wanted}. Received: {value}")
