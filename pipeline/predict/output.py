"""The file of predictions: CSV, JSON lines or Parquet, by its name."""

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
    """Raise the errors of `config.output` that can be found before a model answers.

    An OptionError tells of a place that can't hold the file, a DataError of a file that is there without `--append`.
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
    """Open the file that `config` names, for the rows of `layout`. With `--append`, go on with what is there.

    A file that `predict` has not written, or that holds other columns or the answers of another model, raises a
    DataError.
    """
    assert config.output
    kind = open_parquet if config.output.suffix.lower() == ".parquet" else open_lines
    return kind(config.output, layout)
