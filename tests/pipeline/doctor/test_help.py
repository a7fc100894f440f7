"""`-h` works everywhere, and the shell can complete commands."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from headstart.cli import app
from typer.main import get_command
from typer.testing import CliRunner


def _commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, (*words, name))


@pytest.mark.parametrize("words", list(_commands(get_command(app))), ids=" ".join)
def test_short_help(words: tuple[str, ...]) -> None:
    short, long = (CliRunner().invoke(app, [*words, flag]) for flag in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.output == long.output
    assert "Usage" in short.output


def test_completion_is_shown_for_the_shell_that_asks() -> None:
    code = "from headstart.cli import app; app(prog_name='headstart')"
    command = f"{shlex.join([sys.executable, '-c', code])} --show-completion; exit $?"  # bash stays its parent
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True, start_new_session=True)
    assert done.returncode == 0, done.stderr
    assert "_HEADSTART_COMPLETE=complete_bash" in done.stdout
