"""The line that a run from elsewhere, or of another version, ends in."""

import json
import shutil
import socket
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headstart.features import processes
from headstart.features.errors import RunError
from headstart.pipeline.runs import Run, read_csv, require_finite
from headstart.pipeline.runs import run as run_module
from headstart.pipeline.runs.choice import choose_model
from headstart.tests.conftest import Cli
from headstart.tests.pipeline.runs.hostile_models import rewrite
from headstart.tests.pipeline.runs.hostile_runs import RUNS, config, edited, feature
from headstart.tests.pipeline.runs.hostile_runs import text as holding
from headstart.tests.pipeline.test_runs import dead_process


def refused(run: Path) -> str:
    with pytest.raises(RunError) as raised:
        Run.open(run)
    return str(raised.value).removeprefix(f"{run}/")


def test_the_line_names_the_field_and_the_version(run: Path) -> None:
    here = Run.open(run).config()["versions"]["headstart"]
    config(class_names=["cat", 1])(run)
    said = refused(run)
    assert said.startswith("config.json: class_names[")
    assert f"Expected `str`, got `int`; written by headstart {here}, this is {here}: copy the run anew" in said
    config(class_names=["cat", "\ud800"])(run)
    assert r"class_names holds '\ud800', which is no text" in refused(run)
    config(class_names=["cat", "dog"], versions={"headstart": "9.1"}, data=...)(run)
    assert "field `data`; written by headstart 9.1, this is" in refused(run)
    assert refused(run).endswith("upgrade headstart")
    config(data="x")(run)
    feature(new_option=1)(run)
    assert refused(run).startswith("config.json: features.new_option: is unknown; written by headstart 9.1")


def test_a_new_field_that_decides_no_feature_is_named(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config(versions={"headstart": "9.1"}, new_field=1)(run)
    Run.open(run)
    assert "config.json: new_field not used: written by headstart 9.1" in capfd.readouterr().err


def test_runs_of_earlier_versions_are_read(run: Path) -> None:
    config(reading=...)(run)
    feature(bits=..., pages=..., tokens=...)(run)
    opened = Run.open(run)
    assert opened.read_as().layout == "v1"
    assert opened.feature_config().bits == "16"


LINKS = {
    "logs": "logs lie elsewhere",
    "logs/finetune": "logs of fine-tuning lie elsewhere",
    "finetune.state": "a state lies elsewhere",
    "finetune.partial": "an unfinished state lies elsewhere",
}


@pytest.mark.parametrize("name", LINKS)
def test_a_folder_elsewhere_is_neither_written_nor_deleted(run: Path, headstart: Cli, name: str) -> None:
    elsewhere = run.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "start.json").touch()
    RUNS[LINKS[name]](run)
    line = headstart.error("finetune", run, "--overwrite")
    assert f"{run}/{name}: is a symlink to another place" in line
    assert [path.name for path in elsewhere.iterdir()] == ["start.json"]


def test_what_is_no_regular_file_or_folder_is_refused(run: Path) -> None:
    RUNS["predictions of val are a pipe"](run)
    assert refused(run).startswith("predictions-val.csv: is no regular file")
    (run / "predictions-val.csv").unlink()
    RUNS["a state is a file"](run)
    assert refused(run) == "finetune.partial: is no folder; remove it"


def test_null_stands_for_a_field_that_is_left_out(run: Path, headstart: Cli) -> None:
    config(finetune=None, sweep=None, reading=None)(run)
    figures = {"loss": 0.5, "accuracy": 0.8, "auc": None}
    told = {"head": None, "finetune": {"best_epoch": 1, "before": figures, "val": {**figures, "loss": 0.4}}}
    holding("metrics.json", json.dumps(told))(run)
    opened = Run.open(run)
    assert not {"finetune", "sweep", "reading"} & set(opened.config())
    opened.classifier_file.touch()
    assert choose_model(opened, "auto").model == "finetuned"
    for name in ("head", "finetune"):
        holding("metrics.json", json.dumps({name: None}))(run)
        assert opened.metrics() == {}
    opened.classifier_file.unlink()
    headstart("evaluate", run)
    shutil.copytree(run, run.parent / "other")
    assert len(headstart("compare", run, run.parent / "other")["runs"]) == 2


def test_a_fine_tuning_without_figures_that_gained_nothing_leaves_the_answer_to_the_head(run: Path) -> None:
    holding("metrics.json", json.dumps({"finetune": {"best_epoch": 0}}))(run)
    opened = Run.open(run)
    opened.classifier_file.touch()
    choice = choose_model(opened, "auto")
    assert (choice.model, choice.alike) == ("head", True)


def test_fields_of_a_later_version_may_be_of_any_kind(run: Path) -> None:
    later = {"note": 3, "cross_validation": {"val": 3, "before": [None]}, "list": [{"val": None}]}
    holding("metrics.json", json.dumps(later))(run)
    assert Run.open(run).metrics() == later


def test_a_runs_settings_are_read_once_and_again_when_they_change(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, found = run_module.read_json, []
    monkeypatch.setattr(run_module, "read_json", lambda file: found.append(file.name) or read(file))
    opened = Run.open(run)
    for _ in range(3):
        opened.feature_config()
        opened.class_names()
        opened.metrics()
    assert found == ["config.json", "metrics.json"]
    other = Run.open(run)  # such as of another process
    other.update(other.metrics_file, evaluate={"val": {"n": 1}})
    assert opened.metrics()["evaluate"] == {"val": {"n": 1}}
    opened.write_config(**{**opened.config(), "seed": 7})
    assert opened.config()["seed"] == 7


def test_nan_is_no_json(run: Path) -> None:
    edited("config.json", '"seed": 0', '"seed": NaN')(run)
    assert "NaN is no number" in refused(run)


def test_rows_of_another_form_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    for text, said in {
        "a,b\n1\n": "line 2 has another",
        "a\n1\n": "has no column 'b'",
        "": "has no column 'a'",
    }.items():
        file.write_text(text)
        with pytest.raises(RunError, match=said):
            read_csv(file, ("a", "b"))
    with pytest.raises(RunError, match="is missing"):
        read_csv(tmp_path / "gone.csv")


def test_a_model_of_a_newer_keras_is_called_that(run: Path) -> None:
    with zipfile.ZipFile(run / "head.keras") as archive:
        settings = json.loads(archive.read("config.json"))
        meta: dict[str, Any] = json.loads(archive.read("metadata.json"))
    settings["config"]["layers"][-1]["config"]["of_the_future"] = None
    rewrite(run / "head.keras", {"config.json": json.dumps(settings).encode()})
    opened = Run.open(run)
    with pytest.raises(RunError, match="copy the run anew, or train it again"):
        opened.load_model(opened.head_file)
    rewrite(run / "head.keras", {"metadata.json": json.dumps(meta | {"keras_version": "4.0.0"}).encode()})
    with pytest.raises(RunError, match=r"saved by Keras 4\.0\.0, this is 3.*: upgrade keras") as raised:
        opened.load_model(opened.head_file)
    assert "train it again" not in str(raised.value)


def test_outputs_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    logits = np.array([[1.0], [np.nan], [np.inf]])
    with pytest.raises(RunError, match="outputs for 2 of 3 images are not finite"):
        require_finite(logits, tmp_path / "head.keras")
    assert len(require_finite(logits[:1], tmp_path)) == 1


def test_half_written_files_are_cleared_when_a_run_is_opened(run: Path) -> None:
    host = processes.host()
    assert socket.gethostname() in host
    left = run / f".{host}-{dead_process()}-1.partial.metrics.json"
    left.write_text("{")
    beside = run.parent / f".{host}-{dead_process()}-1.partial.run"
    (beside / "new").mkdir(parents=True)
    Run.open(run)
    assert not left.exists()
    assert not beside.exists()
