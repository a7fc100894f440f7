"""README.md and docs/ tell the truth: each command in them is run, each link leads somewhere, the front page is short.

A comment `<!-- not run: REASON -->` before a block says that the slow test can't run it. The quick one parses it.
"""

import os
import re
import shlex
import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import headstart
import pytest
from headstart.cli import app
from headstart.pipeline.demo.drawing import draw_demo
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.prepare import prepare
from headstart.tests.conftest import tiny_network
from typer.main import get_command
from typer.testing import CliRunner

ROOT = Path(headstart.__file__).resolve().parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]
README_LINES = 130
LONG = {"training.md", "store.md", "runs.md"}  # their blocks take a minute or more
LANGUAGES = {"sh", "python", "toml", "text"}
NOT_RUN = {
    "README.md": 2,
    "data.md": 6,
    "backbones.md": 1,
    "speed.md": 3,
    "runs.md": 1,
    "store.md": 1,
    "measurements.md": 2,
    "scale.md": 2,
    "ray.md": 2,
    "serve.md": 1,
    "export.md": 1,
}
# of pip, TensorBoard, Docker and the benchmarks
FOREIGN_OPTIONS = {"--group", "--narrow", "--logdir", "--only", "--photos", "--shm-size"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int  # of the fence, from 1
    language: str
    text: str
    not_run: str  # the reason in the comment before it, or nothing

    def commands(self) -> list[list[str]]:
        """The words of each command of a block in `sh`."""
        lines = [shlex.split(line, comments=True) for line in self.text.splitlines()]
        return [words for words in lines if words]


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page. A marker without a block after it, or an open fence, fails the test."""
    found: list[Block] = []
    language, marker, opened, text = "", "", 0, list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = re.fullmatch(r" *```(\w*)", line)
        if opened and fence:
            found.append(Block(page, opened, language, "\n".join(text) + "\n", marker))
            marker, opened, text = "", 0, []
        elif opened:
            text.append(line)
        elif fence:
            opened, language = number, fence[1]
        elif asked := re.fullmatch(r"<!-- not run: (.+) -->", line):
            assert not marker, f"{page.name}:{number}: a marker follows a marker"
            marker = asked[1]
        else:
            assert not marker, f"{page.name}:{number}: no block follows the marker"
            assert "<!--" not in line, f"{page.name}:{number}: an unknown comment"
    assert not opened, f"{page.name}:{opened}: the block has no end"
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def _commands() -> Iterator[Any]:
    for block in BLOCKS:
        for words in block.commands() if block.language == "sh" else []:
            name = f"{block.page.name}:{block.line}:{' '.join(words)}"
            yield pytest.param(words, id=name)


def made_by(words: list[str]) -> list[list[str]]:
    """The commands that a `make` in `words` would run, once the environment is there."""
    command = ["make", "--dry-run", "--old-file=.venv/.ready", *words[1:]]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("HEADSTART_", "MAKE", "ARGS"))}
    told = subprocess.run(command, cwd=ROOT, env=plain, check=True, capture_output=True, text=True)
    lines = [shlex.split(line) for line in told.stdout.splitlines() if "/headstart " in line]
    return [words[1:] if "=" in words[0] else words for words in lines]  # without a variable that is set for it


def require_headstart(words: list[str]) -> None:
    """Parse the words after `headstart` by the real command line, which raises where it can't run them."""
    command: Any = get_command(app)
    name, context = "headstart", None
    while hasattr(command, "resolve_command"):
        context = command.make_context(name, list(words), parent=context)
        name, command, words = command.resolve_command(context, list(words))
    command.make_context(name, list(words), parent=context)


@pytest.mark.parametrize("words", list(_commands()))
def test_each_command_can_be_parsed(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    match words:
        case ["headstart", *rest]:
            require_headstart(rest)
        case ["make", *rest]:
            targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
            variables = set(re.findall(r"^([A-Z]+) +\?=", (ROOT / "Makefile").read_text(), re.MULTILINE))
            assert {word for word in rest if "=" not in word} <= targets
            assert {word.split("=")[0] for word in rest if "=" in word} <= variables
            for made in made_by(words):
                require_headstart(made[1:])
        case ["pip", "install", package]:
            assert package in {".", *(f".[{extra}]" for extra in extras)}
        case ["python", "-m", module, *rest]:
            assert ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file()
            sources = "".join(file.read_text() for file in ROOT.glob("benchmarks/*.py"))
            assert all(f'"{word}"' in sources for word in rest if word.startswith("--"))
        case ["python", script, *_] if script.endswith("/example.py"):
            pass
        case ["tensorboard", "--logdir", "runs"] | ["export", _]:
            pass
        case _:
            pytest.fail(f"an unknown command: {words}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_text_exist(page: Path) -> None:
    def walk(command: Any) -> Iterator[str]:
        for parameter in command.params:
            yield from (*parameter.opts, *parameter.secondary_opts)
        for child in getattr(command, "commands", {}).values():
            yield from walk(child)

    top: Any = get_command(app)
    known = {*walk(top), "--help"} | FOREIGN_OPTIONS
    fenceless = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`]+)`", fenceless):
        words = code.split()
        assert set(re.findall(r"--[a-z][a-z-]*", code)) <= known, code
        if words[0] == "headstart" and len(words) > 1 and words[1] != "COMMAND":
            child = top.commands[words[1]]
            if words[1] == "store":
                child = child.commands[words[2]] if len(words) > 2 else child
            assert {word for word in words if word.startswith("--")} <= {*walk(child), "--help"}, code


def test_blocks_that_are_not_run_are_counted() -> None:
    counts: dict[str, int] = {}
    for block in BLOCKS:
        assert block.language in LANGUAGES, f"{block.page.name}:{block.line}: ```{block.language}"
        if block.not_run:
            assert block.language in ("sh", "python")
            counts[block.page.name] = counts.get(block.page.name, 0) + 1
    assert counts == NOT_RUN


def test_python_and_toml_blocks_can_be_parsed() -> None:
    for block in BLOCKS:
        if block.language == "python":
            compile(block.text, f"{block.page.name}:{block.line}", "exec")
        if block.language == "toml":
            tomllib.loads(block.text)


def test_no_figure_is_left_open() -> None:
    assert not [page.name for page in PAGES if "@@" in page.read_text()]


def test_the_front_page_is_short_and_leads_to_all_pages() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= README_LINES
    for page in PAGES[1:]:
        assert f"(docs/{page.name})" in text


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    missing = set()
    for page in LINKING:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, anchor = link.partition("#")
            if "://" in path:
                continue
            target = (page.parent / path).resolve() if path else page
            if not target.exists():
                missing.add(str(target.relative_to(ROOT)))
            elif anchor:
                assert anchor in _anchors(target), f"{page.name}: {link}"
    assert not missing


_HEAD = """
import keras

def wide(features, classes):
    return keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(1 if classes == 2 else classes)])

def biased(features, classes):
    units = 1 if classes == 2 else classes
    return keras.Sequential([keras.layers.Dense(units, bias_initializer=keras.initializers.RandomUniform(3, 4))])
"""


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages expect a reader to have: photographs, split or not, zipped, and a network of their own."""
    folder = tmp_path_factory.mktemp("wanted")
    draw_demo(folder / "photos", images=120)
    for broken in folder.glob("photos/*/broken.*"):
        broken.unlink()
    prepare(folder / "photos", folder / "data", PrepareConfig())
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        for file in folder.glob("photos/*/*.jpg"):
            archive.write(file, f"train/{file.name}")
    (folder / "new").mkdir()
    (folder / "heads.py").write_text(_HEAD)
    shutil.copy(folder / "photos" / "cat" / "cat.0.jpg", folder / "my-photo.jpg")
    shutil.copy(folder / "my-photo.jpg", folder / "new")
    Path(tiny_network(folder)).rename(folder / "my-network.keras")
    return folder


# Where a page is not about networks, a tiny one takes the place of those that it names: others are traced for minutes.
ANY_NETWORK = {"training.md", "runs.md", "data.md"}
TINY = ["--backbone=my-network.keras", "--rescale=unit"]
LITE = ["--backbone=efficientnet_lite0", "--image-size=64"]


def substitutes(words: list[str], page: str) -> list[list[str]]:
    """Small commands that take the place of `words` after `headstart`: few pixels, epochs and trials, no downloads."""
    epochs = "--epochs=2" if words[0] == "head" or "--epochs" in words else "--epochs=1"
    few = {"head": [epochs], "sweep": ["--trials=3"], "finetune": [epochs, "--patience=0"]}.get(words[0], [])
    if page in ANY_NETWORK and words[0] == "finetune":
        return [[*words, *few, "--learning-rate=1e-2"]]
    if words == ["demo"]:  # the demo has a test of its own
        return [["head", "photos", "--run=demo/run", "--store=demo/store", *LITE, "--epochs=2"]]
    if words[0] not in ("features", "head", "study", "sweep", "labels") and words[:2] != ["store", "explain"]:
        return [[*words, *few]]
    if page in ANY_NETWORK:
        for option in {"--backbone", "--weights"} & set(words):
            at = words.index(option)
            words = words[:at] + words[at + 2 :]
        if words[0] == "head" and not {"--units", "--head"} & set(words):
            few += ["--head=heads.py:biased", "--learning-rate=1e-6"]  # fine-tuning gains, and its classifier is scored
        return [[*words, *few, *TINY]]
    if not {"--backbone", "--weights", "--cut"} & set(words):  # the default backbone is a large one
        return [[*words, *few, *LITE]]
    backbone = words[words.index("--backbone") + 1] if "--backbone" in words else "inception_v3"
    if not backbone.endswith(".keras"):
        few += ["--image-size=64"] if backbone == "efficientnet_lite0" else ["--weights=random", "--image-size=96"]
    return [[*words, *few]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.soak] if page.name in LONG else [], id=page.name) for page in PAGES],
)
def test_each_block_runs(page: Path, wanted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(wanted, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("HEADSTART_STORE", "HEADSTART_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    session: dict[str, Any] = {}  # blocks of a page follow one another, as in a notebook
    for block in blocks_of(page):
        if block.not_run:
            continue
        if block.language == "python":
            exec(compile(block.text, f"{page.name}:{block.line}", "exec"), session)
        for words in block.commands() if block.language == "sh" else []:
            for command in made_by(words) if words[0] == "make" else [words]:
                assert Path(command[0]).name == "headstart", f"{page.name}:{block.line}: {command}"
                for small in substitutes(command[1:], page.name):
                    result = CliRunner().invoke(app, small, catch_exceptions=False)
                    assert result.exit_code == 0, f"{page.name}:{block.line}: {shlex.join(small)}: {result.output}"
