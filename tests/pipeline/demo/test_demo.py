"""The whole demo, with the small stand-in for its network."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError
from headstart.pipeline.demo import network
from headstart.pipeline.demo.demo import DemoRunResult, run_demo
from headstart.pipeline.demo.network import choose_network
from headstart.pipeline.demo.picture import Guess, draw_picture, read_guesses
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run
from headstart.tests.conftest import SMALL
from PIL import Image

TUNING = FinetuneConfig(epochs=1)
FIELDS = {
    "images", "broken", "path", "backbone", "weights", "extracted", "test_images", "head", "finetuned", "val", "run",
    "picture", "report", "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def result(folder: Path) -> DemoRunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_demo(60, network=FeatureConfig(**SMALL), finetuning=TUNING)


@pytest.fixture
def choose_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the command run on the small network, for one epoch of phase 2."""
    monkeypatch.setattr("headstart.pipeline.demo.demo.FINETUNING", TUNING)
    monkeypatch.setattr("headstart.pipeline.demo.demo.choose_network", lambda: FeatureConfig(**SMALL))


@pytest.fixture
def attempt(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replaces the code that tries to load InceptionV3's weights."""
    monkeypatch.delenv("HEADSTART_WEIGHTS", raising=False)
    return lambda code: monkeypatch.setattr(network, "_TRY", code)


def test_weights_at_hand_give_inception(attempt, capfd: pytest.CaptureFixture[str]) -> None:
    attempt("assert {seconds} == 10")
    assert choose_network() == FeatureConfig()
    assert capfd.readouterr().err == "network: inception_v3 with its ImageNet weights\n"


def test_weights_that_take_too_long_give_lite0_in_a_line(attempt, capfd: pytest.CaptureFixture[str]) -> None:
    attempt("import signal, time; signal.alarm({seconds}); time.sleep(60)")
    assert choose_network(seconds=1) == FeatureConfig(backbone="efficientnet_lite0")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "efficientnet_lite0" in lines[0]
    assert "within 1 s" in lines[0]


def test_without_a_network_the_demo_takes_lite0(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HEADSTART_WEIGHTS", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    assert choose_network(seconds=1) == FeatureConfig(backbone="efficientnet_lite0")


def test_weights_of_a_persons_own_are_used_and_random_ones_never(monkeypatch: pytest.MonkeyPatch, attempt) -> None:
    attempt("raise SystemExit(1)")
    monkeypatch.setenv("HEADSTART_WEIGHTS", "mine.weights.h5")
    assert choose_network() == FeatureConfig(weights="mine.weights.h5")
    monkeypatch.setenv("HEADSTART_WEIGHTS", "random")
    with pytest.raises(OptionError, match="HEADSTART_WEIGHTS=random"):
        choose_network()


def test_random_weights_are_refused_before_anything_is_written(
    headstart, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_WEIGHTS", "random")
    assert "HEADSTART_WEIGHTS=random" in headstart.error("demo", code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_demo_tells_what_was_learnt(folder: Path, result: DemoRunResult) -> None:
    fields = json.loads(json.dumps(result.fields()))
    assert set(fields) == FIELDS
    assert (fields["images"], fields["broken"], fields["path"], fields["extracted"]) == (60, 6, "demo/drawn", 60)
    assert (fields["backbone"], fields["run"]) == ("mobilenet_v3_small", "demo/run")
    first, second, third = (line for line in result.lines() if line)
    scored = Run(folder / "demo" / "run").metrics()
    assert f"{scored['evaluate']['test']['head']['accuracy']:.1%} of {fields['test_images']} unseen" in first
    assert f"{scored['finetune']['val']['loss']:.4f}" in second
    assert "demo/demo.png, and open demo/report.html" in third
    assert "Report of" in (folder / "demo" / "report.html").read_text()
    with Image.open(folder / "demo" / "demo.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > 1000


@pytest.mark.slow
def test_a_second_time_extracts_nothing_and_its_lines_can_be_typed(
    headstart, folder: Path, result: DemoRunResult, choose_small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    code, out, err = headstart.whole("demo", "--images=60")
    again = json.loads(out)
    assert (code, set(again), again["images"], again["extracted"]) == (0, FIELDS, 60, 0)
    assert again["head"] == result.tested.head
    typed = [shlex.split(line)[2:] for line in err.splitlines() if line.startswith("$ headstart ")]
    assert [words[0] for words in typed] == ["demo", "prepare", "features", "head", "finetune", "evaluate", "report"]
    calls: list[tuple[Any, ...]] = []
    for stage in ("head.run.train_run", "finetune.finetune.finetune"):
        monkeypatch.setattr(f"headstart.pipeline.{stage}", lambda *given, **_: calls.append(given) or result)
    said = {words[0]: headstart(*words) for words in typed}
    assert (said["features"]["extracted"], said["features"]["cached"]) == (0, 60)
    assert said["evaluate"]["head"] == result.tested.head
    run = Path("demo/run")
    extraction = ExtractionConfig(store=Path("demo/store"))
    typed_network = replace(calls[0][2], cut=())  # the command line gives a list
    assert (*calls[0][:2], typed_network, *calls[0][3:]) == (
        Path("demo/data"),
        run,
        FeatureConfig(**SMALL),
        extraction,
        HeadConfig(),
        True,
        0,
    )
    assert calls[1] == (run, TUNING, True, 0, Places())


def test_a_folder_that_is_no_demo_is_left_alone(headstart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "demo" / "data" / "mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"x")
    assert "demo: exists and is no earlier demo" in headstart.error("demo")
    assert mine.read_bytes() == b"x"
    with pytest.raises(DataError):
        run_demo(10, folder=tmp_path)


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_what_is_no_folder_is_left_alone(tmp_path: Path, kind: str) -> None:
    demo = tmp_path / "demo"
    demo.write_text("mine") if kind == "file" else demo.symlink_to("nowhere")
    with pytest.raises(DataError, match="demo: exists and is no folder; move it away"):
        run_demo(10, folder=demo)
    assert demo.is_symlink() or demo.read_text() == "mine"


def test_ctrl_c_says_what_is_kept_and_another_seed_leaves_no_drawing_of_the_first(
    headstart, tmp_path: Path, choose_small, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("headstart.pipeline.demo.demo.cache_features", interrupted)
    code, out, err = headstart.whole("demo", "--images=70")
    assert (code, out) == (130, "")
    assert err.splitlines()[-1].startswith("interrupted; the images drawn and the features so far are kept")
    assert len(list((tmp_path / "demo" / "drawn").glob("*/*.jpg"))) == 76
    code, _, err = headstart.whole("demo", "--images=60", "--seed=1")
    assert code == 130
    assert "$ headstart prepare demo/drawn demo/data --seed=1" in err
    for folder in ("drawn", "data"):
        assert len(list((tmp_path / "demo" / folder).rglob("???.*.jpg"))) == 60


def test_wrong_images_come_first_and_the_least_certain_before_others(tmp_path: Path) -> None:
    run = Run(tmp_path)
    features = {"cut": ["x"], "store": "store"}
    others = {"data": "data", "seed": 0, "head": {}, "weights_digest": "", "fingerprints": {}, "examples": {}}
    run.config_file.write_text(json.dumps({"class_names": ["cat", "dog"], "features": features, **others}))
    rows = ["right,d,dog,9,9", "unsure,d,cat,-1,-1", "mended,d,cat,2,-3", "wrong,d,dog,3,-4", "spoilt,d,dog,3,-1"]
    run.predictions_file("test").write_text("\n".join(["path,digest,label,head:dog,finetuned:dog", *rows]))
    guesses = read_guesses(run)
    assert [guess.path for guess in guesses] == ["spoilt", "wrong", "mended", "unsure", "right"]
    assert [(guess.predicted, guess.head) for guess in guesses] == [(0, 1), (0, 1), (0, 1), (0, 0), (1, 1)]
    assert guesses[0].probability == pytest.approx(0.731, abs=0.001)


def test_the_picture_marks_wrong_and_mended_images(drawn: Path, tmp_path: Path) -> None:
    path = str(drawn / "cat" / "cat.0.jpg")
    guesses = [Guess(path, 0, 0, 1, 0.6), Guess(path, 0, 1, 0, 0.7), Guess(path, 0, 0, 0, 0.8)]
    draw_picture(tmp_path / "p.png", guesses, ["cat", "dog"], ["heading"])
    with Image.open(tmp_path / "p.png") as picture:
        frames = [picture.getpixel((32 + 3 + 216 * number, 32 + 128 + 100)) for number in range(3)]
    assert frames[:2] == [(200, 50, 43), (199, 119, 0)]
    assert frames[2] not in frames[:2]


@pytest.mark.slow
@pytest.mark.soak
def test_lite0_tells_the_drawings_apart_and_fine_tuning_gains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fields = run_demo(400, network=FeatureConfig(backbone="efficientnet_lite0")).fields()
    assert fields["head"]["accuracy"] >= 0.98
    assert fields["finetuned"]["accuracy"] >= fields["head"]["accuracy"]
    assert fields["val"]["finetuned"]["loss"] < 0.9 * fields["val"]["head"]["loss"]
