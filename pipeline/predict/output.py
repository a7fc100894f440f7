"""The file of predictions. The ending of its name decides its format: CSV, JSON lines or Parquet."""

import os
from contextlib import AbstractContextManager
from tempfile import TemporaryFile

from headstart.features.errors import DataError, OptionError
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.done import Output
from headstart.pipeline.predict.items import Layout
from headstart.pipeline.predict.lines import open_lines
from headstart.pipeline.predict.parquet import open_parquet, parts_folder, require_pyarrow


def require_output(config: PredictConfig) -> None:
    """Raise an error if predictions can't be written to `config.output`. Commands call this before they load a model.

    Raises OptionError if no file can be written at that place, and DataError if a file exists and `--append` is absent.
    """
    output = config.output
    if not output:
        return
    if output.is_dir() or not output.parent.is_dir():
        why = "is a folder; name a file in it" if output.is_dir() else f"there is no folder {output.parent}"
        raise OptionError(f"--output {output}: {why}")
    if os.path.lexists(output) and not output.is_file():
        raise OptionError(f"--output {output}: is no regular file; name another")
    try:
        with TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise OptionError(f"--output {output}: no file can be written there ({error.strerror})") from error
    if output.suffix.lower() == ".parquet":
        require_pyarrow()
        begun = next((path for path in (output, parts_folder(output)) if path.exists()), None)
    else:
        begun = output if output.exists() else None
    if begun and not config.append:
        raise DataError(f"--output {begun}: exists; --append goes on with it, or name another file")


def open_output(config: PredictConfig, layout: Layout) -> AbstractContextManager[Output]:
    """Open the file that `config` names, to append the rows of `layout`. The file need not exist.

    Raises DataError if an existing file was not written by `predict`, or if it has other columns or the answers of
    another model.
    """
    assert config.output
    kind = open_parquet if config.output.suffix.lower() == ".parquet" else open_lines
    return kind(config.output, layout)
