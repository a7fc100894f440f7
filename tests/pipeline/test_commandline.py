"""The machinery of commands, on commands of its own."""

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import typer
from click.testing import Result as Outcome
from headstart.features.config import ExtractionConfig
from headstart.features.errors import DataError, HeadstartError
from headstart.pipeline.commandline import Result, StoreArgument, command
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner


@dataclass(frozen=True)
class Shown:
    text: str = "done"
    error: HeadstartError | None = None

    def fields(self) -> dict[str, Any]:
        return {"text": self.text}

    def lines(self) -> Iterator[Any]:
        table = Table("name")
        table.add_row(Text(self.text))
        yield from (self.text, table)

    def failure(self) -> HeadstartError | None:
        return self.error


def invoke(function: Callable[..., Result], *arguments: Any) -> Outcome:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    command(app)(function)
    name = function.__name__
    return CliRunner().invoke(app, [name, *map(str, arguments)])


def raising(error: Exception) -> Outcome:
    def fails() -> Result:
        raise error

    return invoke(fails)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')"),
        RuntimeError("Can't close file (errno = 28)"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device")]),
    ],
)
def test_a_full_disk_is_told_in_one_line(error: Exception) -> None:
    outcome = raising(error)
    assert outcome.exit_code == 1
    assert outcome.stderr.startswith("error: the disk is full (")


def test_errors_of_tensorflow_are_told_like_those_of_the_system() -> None:
    import tensorflow as tf  # here, because processes of other tests import this module

    for kind, text in (("ResourceExhausted", "x; No space left on device"), ("Unknown", "x; Disk quota exceeded")):
        outcome = raising(getattr(tf.errors, f"{kind}Error")(None, None, text))
        assert outcome.stderr.startswith("error: the disk is full (")
    outcome = raising(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"))
    assert "out of memory: lower --batch-size" in outcome.stderr


@pytest.mark.parametrize("error", [KeyError("quota"), KeyError("No space left on device"), ValueError("errno = 28,")])
def test_a_bug_is_not_taken_for_a_full_disk(error: Exception) -> None:
    outcome = raising(error)
    assert outcome.exception is error
    assert outcome.stderr == ""


def test_running_out_of_memory_names_the_options_to_lower() -> None:
    assert "out of memory: lower --batch-size" in raising(MemoryError("7 GiB")).stderr


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    for name in ("[old]", "[/b]", "a[bold]b", "[link=x]", ":cat:"):

        def names() -> Result:
            return Shown(name)  # noqa: B023

        assert invoke(names).stdout.count(name) == 2
        outcome = raising(DataError(f"{name}: no such folder"))
        assert outcome.stderr == f"error: {name}: no such folder\n"


def test_a_failing_result_is_shown_first() -> None:
    def finds() -> Result:
        return Shown("found", DataError("too much was found"))

    outcome = invoke(finds, "--json")
    assert json.loads(outcome.stdout) == {"text": "found"}
    assert (outcome.exit_code, outcome.stderr) == (1, "error: too much was found\n")


def test_every_command_takes_json_and_a_seed() -> None:
    @dataclass(frozen=True)
    class Config:
        mode: Literal["a", "b"] = "a"

    def seeded(config: Config, seed: int = 0) -> Result:
        return Shown(f"{config.mode} {seed}")

    def unseeded() -> Result:
        return Shown("none")

    assert json.loads(invoke(seeded, "--seed", 3, "--mode", "b", "--json").stdout) == {"text": "b 3"}
    assert json.loads(invoke(unseeded, "--seed", 3, "--json").stdout) == {"text": "none"}
    assert invoke(unseeded, "--seed", -1).exit_code == 2
    assert invoke(seeded, "--mode", "c").exit_code == 2


def test_an_option_that_an_argument_gives_already_may_only_repeat_it(monkeypatch) -> None:
    def shows(store: StoreArgument, extraction: ExtractionConfig) -> Result:
        return Shown(f"{store} {extraction.store}")

    monkeypatch.setenv("HEADSTART_STORE", "elsewhere")
    assert "one one" in invoke(shows, "one").stdout
    assert "one one" in invoke(shows, "one", "--store", "./one").stdout
    outcome = invoke(shows, "one", "--store", "two")
    assert (outcome.exit_code, "--store two" in outcome.stderr) == (2, True)


def test_ctrl_c_says_what_is_kept() -> None:
    def stops() -> Result:
        raise KeyboardInterrupt

    outcome = invoke(stops)
    assert (outcome.exit_code, outcome.stderr) == (130, "interrupted; nothing was changed\n")


def test_sigterm_stops_a_command_as_ctrl_c_does(tmp_path: Path) -> None:
    code = f"""
import os, signal, time
from headstart.features.files import scratch_folder
from headstart.tests.pipeline.test_commandline import Shown, invoke
from pathlib import Path
def stops() -> Shown:
    with scratch_folder(Path({str(tmp_path)!r})):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    return Shown()
outcome = invoke(stops)
print(outcome.exit_code, outcome.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=100)
    assert ended.stdout == "143 interrupted; nothing was changed\n\n"
    assert not list(tmp_path.iterdir())


_LOST = """
    try:
        os.kill(os.getpid(), signal.{})
        time.sleep(10)
    except KeyboardInterrupt:
        pass
    raise RuntimeError("Converting input model KeyboardInterrupt: <EMPTY MESSAGE>")
"""
_DISK_FULL_AFTER_IT = """
    try:
        os.kill(os.getpid(), signal.{})
        time.sleep(10)
    finally:
        raise OSError(errno.ENOSPC, "No space left on device")
"""
_NOT_WRITTEN_AFTER_IT = """
    def write():
        try:
            raise OSError(errno.EROFS, "read-only")
        except OSError as error:
            raise HeadstartError("the store can't be written to") from error
    try:
        os.kill(os.getpid(), signal.{})
        time.sleep(10)
    finally:
        ThreadPoolExecutor(1).submit(write).result()
"""


@pytest.mark.parametrize(
    ("number", "body", "end"),
    [
        ("SIGINT", _LOST, "130 interrupted; nothing was changed"),
        ("SIGTERM", _LOST, "143 interrupted; nothing was changed"),
        ("SIGINT", _DISK_FULL_AFTER_IT, "1 error: the disk is full"),
        ("SIGINT", _NOT_WRITTEN_AFTER_IT, "1 error: the store can't be written to"),
    ],
)
def test_an_interrupt_that_a_library_turned_into_an_error_is_told_from_an_error_after_it(
    number: str, body: str, end: str
) -> None:
    """A library in C++ that calls Python loses the `KeyboardInterrupt`, and raises an error of its own."""
    code = f"""
import errno, os, signal, time
from concurrent.futures import ThreadPoolExecutor
from headstart.features.errors import HeadstartError
from headstart.tests.pipeline.test_commandline import Shown, invoke
signal.signal(signal.SIGINT, signal.default_int_handler)
def stops() -> Shown:{body.format(number)}
outcome = invoke(stops)
print(outcome.exit_code, outcome.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=100)
    assert ended.stdout.startswith(end), ended


def test_sigterm_ends_a_forked_process_at_once(tmp_path: Path) -> None:
    code = f"""
import os, signal, time
from headstart.features.files import scratch_folder
from headstart.features.signals import stop_at_signals
from pathlib import Path
stop_at_signals()
with scratch_folder(Path({str(tmp_path)!r})) as folder:
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        os.write(tell, b".")  # Python drops a signal that comes while it forks
        time.sleep(60)
        os._exit(1)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert folder.is_dir()
"""
    subprocess.run([sys.executable, "-c", code], check=True, start_new_session=True, timeout=50)
