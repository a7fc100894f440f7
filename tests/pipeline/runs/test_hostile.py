"""Runs, models and weights from elsewhere: each ends in one line, runs no code, and writes nowhere else."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from headstart import cli
from headstart.features.backbones.weights import build_backbone
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import HeadstartError
from headstart.pipeline.evaluate.evaluate import evaluate
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import train_run
from headstart.tests.conftest import QUICK, SMALL
from headstart.tests.pipeline.runs.hostile_models import CLASSIFIERS, HEADS, WEIGHTS
from headstart.tests.pipeline.runs.hostile_runs import RUNS
from typer.testing import CliRunner

FINETUNE = ("--epochs=1", "--batch-size=8")
# What is harmless may end well: the field is not used, or the file only lies elsewhere.
HARMLESS = {
    "config lies outside", "head lies outside", "metrics are gone", "without versions", "head is a list of lists",
    "without reading", "reading is null", "images of another size", "finetune is a list", "no cut",
    "a later version with a new field", "seed of 400 digits",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a store, one picture, and an evaluated run. Tests only read it."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(prepared, folder / "data")
    (folder / "elsewhere").mkdir()
    store = ExtractionConfig(store=folder / "store", **QUICK)
    train_run(folder / "data", folder / "run", FeatureConfig(**SMALL), store, HeadConfig(units=(), epochs=1))
    evaluate(folder / "run")
    shutil.copy(next((folder / "data" / "test" / "cat").glob("cat*.jpg")), folder / "cat.jpg")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "project")
    return tmp_path / "project"


def listing(folder: Path) -> set[str]:
    """The files of a folder, without those of its run and its store."""
    inner = {path.relative_to(folder) for path in folder.rglob("*")}
    return {str(path) for path in inner if path.parts[0] not in ("run", "store", "outside.config.json")}


def ended(*arguments: Any) -> tuple[int, str]:
    """The exit code of a command, and its last line of errors. Any traceback fails."""
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{arguments}: {result.exception!r}") from result.exception
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == (result.exit_code != 0), result.stderr
    assert all(len(line) < 1000 for line in lines), lines
    if result.exit_code == 0:
        json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{arguments}: {name} is not JSON"))
    return result.exit_code, (lines or [""])[0]


def all_commands(folder: Path, name: str) -> dict[str, tuple[int, str]]:
    """Run the commands that read the file that `name` begins with; for other names, all."""
    run, file = folder / "run", name.split(maxsplit=1)[0]
    commands: dict[str, tuple[Any, ...]] = {
        "evaluate": (run,),
        "predict": (run, folder / "cat.jpg"),
        "compare": (run, folder / "other"),
    }
    reading = {"predictions": ["compare"], "examples": ["evaluate"], "classifier": ["predict"], "history": []}
    found = {command: ended(command, *commands[command]) for command in reading.get(file, commands)}
    if file == "history" or (file not in reading and all(code for code, _ in found.values())):
        found["finetune"] = ended("finetune", run, *FINETUNE)
    return found


def attack_run(folder: Path, name: str) -> dict[str, tuple[int, str]]:
    if not (folder / "other").exists():
        shutil.copytree(folder / "run", folder / "other")
    RUNS[name](folder / "run")
    before = listing(folder)
    try:
        found = all_commands(folder, name)
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error
    assert listing(folder) == before, name
    return found


WORST = (
    "without class_names", "features is null", "numbers as class names", "config is deep", "config with NaN",
    "config is a pipe", "a later version without data", "store elsewhere", "metrics with text", "a new option",
    "examples with a field of 1 MB", "predictions with NaN",
)  # fmt: skip


@pytest.mark.parametrize("name", WORST)
def test_the_worst_runs(folder: Path, name: str) -> None:
    found = attack_run(folder, name)
    assert any(code for code, _ in found.values()), name


@pytest.mark.slow
@pytest.mark.soak
def test_hostile_runs(made: Path, tmp_path: Path) -> None:
    assert len(RUNS) >= 90
    harmless = set()
    for number, name in enumerate(RUNS):
        folder = tmp_path / str(number)
        shutil.copytree(made, folder, symlinks=True)
        if not any(code for code, _ in attack_run(folder, name).values()):
            harmless.add(name)
        shutil.rmtree(folder)
    assert harmless <= HARMLESS


def attack_model(folder: Path, file: str, name: str, commands: Sequence[Sequence[Any]]) -> list[tuple[int, str]]:
    canary = folder / "canary"
    width = json.loads((folder / "run" / "width").read_text())
    makes = HEADS if file == "head.keras" else CLASSIFIERS
    makes[name](folder / "run" / file, canary, width)
    before = listing(folder)
    try:
        found = [ended(*command) for command in commands]
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error
    assert listing(folder) == before, name
    return found


def with_width(folder: Path) -> Path:
    import keras

    head = keras.models.load_model(folder / "run" / "head.keras")
    (folder / "run" / "width").write_text(str(head.input_shape[1]))
    return folder


WORST_HEADS = ("weights that are NaN", "three outputs", "two units for two classes", "a billion units", "a Lambda")


@pytest.mark.parametrize("name", WORST_HEADS)
def test_the_worst_heads(folder: Path, name: str) -> None:
    ((code, line),) = attack_model(with_width(folder), "head.keras", name, [("evaluate", folder / "run")])
    assert code == 1
    assert "head.keras" in line


@pytest.mark.parametrize("name", ["of three classes", "that is text", "with two outputs"])
def test_the_worst_classifiers(folder: Path, name: str) -> None:
    picture = folder / "cat.jpg"
    command = ("predict", folder / "run", picture, "--model=finetuned")
    ((code, line),) = attack_model(with_width(folder), "classifier.keras", name, [command])
    assert code == 1
    assert "classifier.keras" in line


@pytest.mark.slow
@pytest.mark.soak
def test_hostile_heads_and_classifiers(made: Path, tmp_path: Path) -> None:
    assert len(HEADS) + len(CLASSIFIERS) >= 30
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    with_width(folder)
    run = folder / "run"
    commands = [("evaluate", run), ("predict", run, folder / "cat.jpg"), ("finetune", run, *FINETUNE)]
    for name in HEADS:
        some = commands if name in WORST_HEADS else commands[:1]  # all read a head in the same way
        assert {code for code, _ in attack_model(folder, "head.keras", name, some)} == {1}, name
        shutil.rmtree(run / "finetune.partial", ignore_errors=True)
    shutil.copy(made / "run" / "head.keras", run / "head.keras")
    for name in CLASSIFIERS:
        ((code, _),) = attack_model(folder, "classifier.keras", name, [commands[len(name) % 2]])
        assert code == 1, name


def refusal(file: Path, backbone: str) -> str:
    """The line with which weights are refused; "" if they are taken."""
    try:
        build_backbone(backbone, str(file), image_size=64)
    except HeadstartError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_hostile_weights(tmp_path: Path) -> None:
    assert len(WEIGHTS) >= 20
    good = FeatureConfig(**SMALL)
    sound = tmp_path / "sound.weights.h5"
    build_backbone(good.backbone, "random", image_size=64).model.save_weights(sound)
    build_backbone(good.backbone, str(sound), image_size=64)
    for name, change in WEIGHTS.items():
        file = tmp_path / "net.weights.h5"
        shutil.copy(sound, file)
        change(file)
        before = listing(tmp_path)
        said = refusal(file, good.backbone)
        assert bool(said) != (
            name in ("a group in itself", "deep groups", "old layer names", "old layer names of numbers")
        ), name
        assert len(said) < 1000, name
        assert str(file) in said or not said, name
        assert listing(tmp_path) == before, name
