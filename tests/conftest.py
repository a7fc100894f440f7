"""Small, fast stand-ins: forty drawn images, and the smallest backbone at 64 pixels with random weights."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from headstart import cli
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.pipeline.demo.drawing import draw_demo
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.prepare import prepare
from typer.testing import CliRunner

if TYPE_CHECKING:
    from headstart.features.backbones.backbone import Backbone
    from headstart.features.backbones.cuts import Cut


def _stray(*_: Any) -> None:
    """Let a test fail that sends SIGTERM to its own process. By default, the process ends without a word."""
    raise RuntimeError("SIGTERM came to the process of the tests")


def pytest_configure(config: pytest.Config) -> None:
    """Give each process of the quick suite its own cores: threads that wait for a core spin, and slow others down.

    Slow tests start processes of their own, and the last of them run alone.
    """
    if hasattr(os, "sched_setaffinity") and "not slow" in config.option.markexpr:
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
        mine = sorted(os.sched_getaffinity(0))[worker :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]
        if mine:
            os.sched_setaffinity(0, mine)
    if "PYTEST_XDIST_WORKER" in os.environ:
        signal.signal(signal.SIGTERM, _stray)
    hypothesis.settings.load_profile("headstart")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # read when TensorFlow starts, here and in other processes
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default, workers of Ray wait for the tests beside them
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # a test may import OpenVINO itself


hypothesis.settings.register_profile("headstart", deadline=None)  # other load is no fault
SMALL = {
    "backbone": "mobilenet_v3_small",
    "weights": "random",
    "image_size": 64,
    "precision": "float32",
}
QUICK = {"batch_size": 8, "max_rejects": 1.0}
# A suite that a script started with `&` ignores Ctrl-C, and its processes would too.
COMMAND_LINE = (
    "import signal as s; s.signal(s.SIGINT, s.default_int_handler); from headstart import command_line; command_line()"
)
SMALL_FLAGS = (
    "--backbone=mobilenet_v3_small",
    "--weights=random",
    "--image-size=64",
    "--batch-size=8",
    "--precision=float32",
)


@pytest.fixture(autouse=True, scope="module")
def _without_old_models() -> Iterator[None]:
    """Free the models of each module. They hold themselves, and `headstart.cli` has Python seldom look for such."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`{cat,dog}/` with 40 images and 6 broken files. Tests only read it."""
    folder = tmp_path_factory.mktemp("drawn") / "demo"
    draw_demo(folder, images=40, seed=2)  # with it phase 2 has something to gain
    return folder


@pytest.fixture(scope="session")
def prepared(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn images in `{train,val,test}/{cat,dog}/`. Tests only read it."""
    data = tmp_path_factory.mktemp("prepared") / "data"
    prepare(drawn, data, PrepareConfig(val=0.25, test=0.25, max_rejects=1.0))
    return data


@pytest.fixture(scope="session")
def filled_store(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the features of `prepared`. Tests that add to it use a copy."""
    from headstart.pipeline.featured import cache_features

    store = tmp_path_factory.mktemp("store") / "store"
    cache_features(prepared, FeatureConfig(**SMALL), ExtractionConfig(store=store, **QUICK))
    return store


class Shared:
    """What was built last, up to a number of parameters: a test process with all networks of the zoo needs 13 GB."""

    MOST = 60_000_000

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[Any, int]] = {}

    def get(self, key: Any, build: Callable[[], tuple[Any, int]]) -> Any:
        """Return what is kept for `key`, or what `build` returns, together with its number of parameters."""
        found, size = self._kept.pop(key, None) or build()
        if size > self.MOST:
            return found
        while self._kept and size + sum(other for _, other in self._kept.values()) > self.MOST:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = found, size
        return found


@pytest.fixture(scope="session", autouse=True)
def own_standard_error() -> Iterator[None]:
    """Standard error belongs to pytest, not to the commands that tests run in this process."""
    patch = pytest.MonkeyPatch()
    patch.setattr("headstart.cli.own_standard_error", lambda: None)
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def fast_forms() -> Iterator[None]:
    """Equal backbones share one fast form in a test process: nothing changes it, and building one takes seconds."""
    from headstart.features.frozen import frozen

    shared, build = Shared(), frozen.freeze

    def freeze(
        backbone: "Backbone", cuts: "Sequence[Cut]", batch_size: int = 0, engine: str | None = None, keep: Any = None
    ) -> frozen.FrozenBackbone:
        arithmetic = (
            backbone.name,
            backbone.weights_digest,
            backbone.rescaling,
            backbone.image_size,
            backbone.precision,
            backbone.tokens,
        )
        key = (*arithmetic, tuple(cuts), batch_size, engine)
        return shared.get(key, lambda: (build(backbone, cuts, batch_size, engine, keep), backbone.model.count_params()))

    with pytest.MonkeyPatch.context() as patch:
        for user in ("features.frozen.frozen", "pipeline.upkeep.recompute"):
            patch.setattr(f"headstart.{user}.freeze", freeze)
        yield


@pytest.fixture(scope="session", autouse=True)
def keras_models() -> Iterator[None]:
    """Equal models with random weights share one in a test process, as it was built: building one takes a second."""
    from headstart.features.backbones import models

    shared, build = Shared(), models.filled

    def filled(spec: Any, weights: str, *settings: Any) -> Any:
        if weights != "random":
            return build(spec, weights, *settings)

        def built() -> tuple[tuple[Any, list[Any]], int]:
            model = build(spec, weights, *settings)
            size = model.count_params()
            return (model, model.get_weights() if size <= Shared.MOST else []), size

        model, values = shared.get((spec.builder, *settings), built)
        if values:
            model.trainable = True
            model.set_weights(values)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "filled", filled)
        yield


@pytest.fixture
def small() -> FeatureConfig:
    """The small backbone."""
    return FeatureConfig(**SMALL)


@pytest.fixture
def extraction(filled_store: Path, tmp_path: Path) -> ExtractionConfig:
    """A store of its own that holds the features of `prepared` at `small`."""
    store = tmp_path / "store"
    shutil.copytree(filled_store, store)
    return ExtractionConfig(store=store, **QUICK)


@pytest.fixture(scope="session")
def trained_run(prepared: Path, filled_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of phase 1. Tests only read it, and its store."""
    from headstart.pipeline.head.config import HeadConfig
    from headstart.pipeline.head.run import train_run

    path = tmp_path_factory.mktemp("runs") / "run"
    extraction = ExtractionConfig(store=filled_store, **QUICK)
    train_run(prepared, path, FeatureConfig(**SMALL), extraction, HeadConfig(units=(16,), epochs=3, learning_rate=1e-3))
    return path


@pytest.fixture
def run(trained_run: Path, extraction: ExtractionConfig, tmp_path: Path) -> Path:
    """A copy of `trained_run` to change, with the store of `extraction`."""
    path = tmp_path / "run"
    shutil.copytree(trained_run, path)
    config = json.loads((path / "config.json").read_text())
    config["features"]["store"] = str(extraction.store)
    (path / "config.json").write_text(json.dumps(config))
    return path


def tiny_network(folder: Path) -> str:
    """Save a network of four convolutions that takes 64 pixels, `tiny.keras`. Its last two lie above a sum."""
    from headstart.features.tensorflow import keras

    layers = keras.layers
    keras.utils.set_random_seed(3)
    image = keras.Input((64, 64, 3))
    x = stem = layers.Conv2D(8, 3, 4, padding="same", activation="relu", name="stem")(image)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="inner")(x)
    x = layers.ReLU(name="inner_act")(layers.BatchNormalization(name="inner_bn")(x))
    x = layers.Add(name="sum")([stem, x])
    x = layers.Conv2D(16, 3, 2, padding="same", use_bias=False, name="down")(x)
    x = layers.ReLU(name="down_act")(layers.BatchNormalization(name="down_bn")(x))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="end")(x)
    keras.Model(image, x, name="tiny").save(folder / "tiny.keras")
    return str(folder / "tiny.keras")


class Cli:
    """Runs commands in this process."""

    def __call__(self, *arguments: Any) -> dict[str, Any]:
        """The JSON object of a command that must succeed."""
        result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        value: dict[str, Any] = json.loads(result.stdout)
        return value

    def text(self, *arguments: Any) -> str:
        """What a command that must succeed tells a person."""
        result = CliRunner().invoke(cli.app, [*map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def whole(self, *arguments: Any) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a command with `--json`."""
        result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"], catch_exceptions=False)
        return result.exit_code, result.stdout, result.stderr

    def error(self, *arguments: Any, code: int = 1) -> str:
        """The line of a command that must fail with `code`, and print nothing else."""
        result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"], catch_exceptions=False)
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, result.stderr
        assert "Traceback" not in result.stderr
        return lines[0]


@pytest.fixture
def headstart() -> Cli:
    """The command line, in this process."""
    return Cli()


@pytest.fixture
def start_headstart(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts a command in a process of its own, its output in `tmp_path/output`."""

    def start(*arguments: Any) -> subprocess.Popen[bytes]:
        with (tmp_path / "output").open("ab") as output:
            command = [sys.executable, "-c", COMMAND_LINE, *map(str, arguments)]
            root = Path(cli.__file__).parent
            return subprocess.Popen(command, stdout=output, stderr=output, cwd=root, env={**os.environ})

    return start


@pytest.fixture
def shared() -> Path:
    """The folder of real photographs and weights."""
    return shared_folder()


def shared_folder() -> Path:
    """Return the folder of real photographs and weights. The test is skipped if there is none."""
    folder = Path(os.environ.get("HEADSTART_SHARED", Path(cli.__file__).parent.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real photographs: HEADSTART_SHARED={folder}")
    return folder
