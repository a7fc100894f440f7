"""The file of predictions. The ending of its name decides its format: CSV, JSON lines or Parquet."""

from contextlib import AbstractContextManager

from headstart.features.errors import DataError
from headstart.features.outputs import require_place
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.done import Output
from headstart.pipeline.predict.items import Layout
from headstart.pipeline.predict.lines import open_lines
from headstart.pipeline.predict.parquet import open_parquet, parts_folder, require_pyarrow


def require_output(config: PredictConfig) -> None:
    """Raise an error if predictions can't be written to `config.output`. Nothing is loaded or written.

    Raises OptionError if no file can be written to that path, or if the extra `parquet` is needed and missing. Raises
    DataError if the file or its Parquet parts exist and `config.append` is false.
    """
    output = config.output
    if not output:
        return
    require_place("--output", output)
    if output.suffix.lower() == ".parquet":
        require_pyarrow()
        begun = next((path for path in (output, parts_folder(output)) if path.exists()), None)
    else:
        begun = output if output.exists() else None
    if begun and not config.append:
        raise DataError(f"--output {begun}: exists; --append goes on with it, or name another file")


def open_output(config: PredictConfig, layout: Layout) -> AbstractContextManager[Output]:
    """Open the file `config.output`, to append the rows of `layout`. The file need not exist.

    Raises DataError in these cases:

    - Another process writes to the file.
    - `predict` did not write the file, or the file is damaged.
    - The columns of the file are not the columns of `layout`.
    - The file holds the answers of another model.
    """
    assert config.output
    kind = open_parquet if config.output.suffix.lower() == ".parquet" else open_lines
    return kind(config.output, layout)
