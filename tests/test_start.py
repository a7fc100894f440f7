"""Commands that have nothing to compute, and errors, start neither TensorFlow nor Keras."""

import subprocess
import sys
from pathlib import Path

import pytest
from headstart.features.config import ExtractionConfig
from headstart.tests.conftest import SMALL_FLAGS

_HEAVY = "tensorflow keras sklearn scipy optuna"
_RUN = """
import sys
from headstart.cli import app
try:
    app(sys.argv[2:])
finally:
    print("loaded:", *(name for name in sys.argv[1].split() if name in sys.modules), file=sys.stderr)
"""
_FEATURES = (*SMALL_FLAGS, "--max-rejects=1")


def started(*arguments: object, heavy: str = _HEAVY) -> tuple[int, str, list[str]]:
    """Run a command. Returns its exit code, what it told on standard error, and which of `heavy` it imported."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, heavy, *map(str, arguments)], check=False, capture_output=True, text=True
    )
    told, _, loaded = done.stderr.partition("loaded:")
    return done.returncode, told, loaded.split()


@pytest.fixture
def whole(prepared: Path, extraction: ExtractionConfig, tmp_path: Path) -> Path:
    """A data folder whose images all have features in the store of `extraction`."""
    data = tmp_path / "data"
    for file in sorted(prepared.rglob("*.jpg")):
        if "broken" not in file.name:
            (data / file.relative_to(prepared)).parent.mkdir(parents=True, exist_ok=True)
            (data / file.relative_to(prepared)).write_bytes(file.read_bytes())
    return data


@pytest.mark.slow
def test_an_extraction_starts_tensorflow_and_tells_the_device_once(whole: Path, tmp_path: Path) -> None:
    code, told, loaded = started("features", whole, f"--store={tmp_path / 'new'}", *_FEATURES, "--views=1")
    assert (code, loaded[:2], told.count("device: ")) == (0, ["tensorflow", "keras"], 1)
    first, *others = told.splitlines()
    assert "read as split folders" in first
    known = ("device: ", "extracting features of ")
    assert all(line.startswith(known) or "images/s" in line for line in others), told  # the libraries are silent


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_features_that_are_all_there(whole: Path, extraction: ExtractionConfig, precision: str) -> None:
    (extraction.store / "precision.json").write_text('{"auto": "float32"}')
    code, told, loaded = started(
        "features", whole, f"--store={extraction.store}", *_FEATURES, f"--precision={precision}"
    )
    assert (code, loaded) == (0, [])
    assert told.endswith("read as split folders (test/, train/, val/) with 2 classes\n")


def test_store_explain(prepared: Path, extraction: ExtractionConfig) -> None:
    (extraction.store / "precision.json").write_text('{"auto": "float32"}')
    code, told, loaded = started("store", "explain", extraction.store, prepared, *SMALL_FLAGS[:-1], "--precision=auto")
    assert (code, loaded) == (0, [])
    assert told.endswith("read as split folders (test/, train/, val/) with 2 classes\n")


@pytest.mark.slow
def test_check_of_images_with_features(whole: Path, extraction: ExtractionConfig) -> None:
    given = (whole, f"--store={extraction.store}", "--similarity=1")  # no pair is similar enough to be decoded
    code, told, loaded = started("check", *given, heavy="tensorflow keras optuna")
    assert (code, told, loaded) == (0, "", [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--help", ""),
        ("features DATA --backbone=none", "--backbone"),
        ("features DATA --cut=none", "--cut"),
        ("features DATA --image-size=7", "--image-size"),
        ("features DATA --max-rejects=2", "--max-rejects"),
        ("features DATA --weights=absent.h5", "absent.h5: no such file"),
        ("features absent", "absent: no such folder"),
        ("features EMPTY", "no images"),
        ("store explain STORE absent", "absent: no such folder"),
        ("store explain EMPTY DATA", "EMPTY"),
        ("store explain STORE DATA --precision=auto", "damaged"),
        ("head DATA --run=RUN", "exists"),
        ("head DATA --run=new --cut=top_activation:map --backbone=mobilenet_v3_small", "--cut"),
        ("head DATA --run=new --optimizer=magic", "magic"),
        ("head EMPTY --run=new", "no class folders"),
        ("sweep DATA --study=new.db --run=RUN", "exists"),
        ("sweep DATA --study=new.db --run=new --space=absent.toml", "absent.toml"),
        ("finetune absent", "absent: not a run folder"),
        ("finetune RUN --data=absent", "absent: no such folder"),
        ("finetune RUN --learning-rate=-1", "--learning-rate"),
        ("evaluate absent", "absent: not a run folder"),
        ("evaluate RUN --data=absent", "absent: no such folder"),
        ("predict absent DATA", "absent: not a run folder"),
        ("predict RUN absent", "absent: no such file"),
        ("serve absent", "absent: not a run folder"),
        ("serve RUN --host=nowhere.invalid", "--host nowhere.invalid"),
        ("compare absent RUN", "absent: not a run folder"),
        ("check absent", "absent: no such folder"),
        ("check DATA --similarity=2", "--similarity"),
        ("labels absent", "absent: no such folder"),
        ("labels DATA --undo=absent --csv=x", "--apply and --undo"),
        ("labels DATA --apply=absent.csv", "absent.csv: can't be read"),
        ("store verify absent", "absent"),
        ("store verify STORE --data=absent --recompute=3", "absent: no such folder"),
        ("sweep DATA --study=new.db --run=new --precision=int8", "--precision int8"),
    ],
)
def test_errors(
    arguments: str, said: str, prepared: Path, extraction: ExtractionConfig, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (extraction.store / "precision.json").write_text("damaged")
    places = {"DATA": prepared, "RUN": run, "STORE": extraction.store, "EMPTY": tmp_path / "empty"}
    given = arguments.split()
    for name, place in places.items():
        given = [word.replace(name, str(place)) for word in given]
        said = said.replace(name, str(place))
    heavy = "tensorflow keras sklearn scipy" if given[0] == "sweep" else _HEAVY
    code, told, loaded = started(*given, heavy=heavy)
    assert (code == 0, loaded) == (arguments == "--help", [])
    assert said in told
    assert "Traceback" not in told
