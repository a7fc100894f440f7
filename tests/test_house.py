"""The shape of the code: folders, modules and functions stay small, and `import headstart` stays instant."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import headstart
import pytest

ROOT = Path(headstart.__file__).parent
FOLDERS = [ROOT, *(path for name in ("features", "pipeline") for path in (ROOT / name, *(ROOT / name).rglob("*/")))]
PRODUCT = [file for folder in FOLDERS for file in sorted(folder.glob("*.py")) if "__pycache__" not in str(folder)]
MODULES_PER_FOLDER, LINES_PER_MODULE, LINES_PER_FUNCTION = 15, 300, 50


def test_folders_are_small() -> None:
    counts = {folder: len([file for file in PRODUCT if file.parent == folder]) - 1 for folder in FOLDERS}
    assert {folder: count for folder, count in counts.items() if count > MODULES_PER_FOLDER} == {}


def test_the_wheel_holds_every_folder() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {".".join(["headstart", *file.parent.relative_to(ROOT).parts]) for file in PRODUCT}
    assert folders == set(settings["packages"])


def test_modules_are_short() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in PRODUCT}
    assert lengths.pop("cli.py") < 400  # it lists the commands, and grows with them
    assert {name: length for name, length in lengths.items() if length > LINES_PER_MODULE} == {}


def test_functions_are_short() -> None:
    lengths = {
        f"{file.relative_to(ROOT)}:{node.name}": node.end_lineno - node.lineno + 1
        for file in PRODUCT
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno
    }
    assert len(lengths) > 400
    assert {name: length for name, length in lengths.items() if length > LINES_PER_FUNCTION} == {}


def test_only_the_command_line_knows_typer() -> None:
    users = {str(file.relative_to(ROOT)) for file in PRODUCT if "import typer" in file.read_text()}
    assert users == {"cli.py", "pipeline/commandline.py"}


def test_public_names_are_loaded_when_they_are_used() -> None:
    heavy = "{'tensorflow', 'keras', 'numpy', 'typer', 'rich'}"
    code = f"import headstart, sys; assert not {heavy} & set(sys.modules); headstart.HeadConfig(epochs=3)"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in headstart.__all__:
        assert getattr(headstart, name).__module__.startswith("headstart.")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = headstart.nothing


def test_a_persons_own_modules_do_not_get_in_the_way(tmp_path: Path) -> None:
    for name in ("cli", "features", "pipeline"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    command = [sys.executable, "-c", "from headstart import command_line; command_line()", "--version"]
    shown = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert shown.stdout.startswith("headstart ")
