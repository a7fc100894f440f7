import json
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from headstart import cli
from headstart.cli import app
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.tests.conftest import SMALL_FLAGS
from typer.testing import CliRunner

HEAD_FLAGS = ("--units=16", "--epochs=2")


def test_version_is_that_of_the_package() -> None:
    told = CliRunner().invoke(app, ["--version"])
    assert (told.exit_code, told.stdout) == (0, f"headstart {version('headstart')}\n")


def test_all_commands_in_a_row(headstart, tmp_path: Path) -> None:
    drawn, data, store, run = (tmp_path / name for name in ("drawn", "data", "store", "run"))
    flags = (*SMALL_FLAGS, f"--store={store}")
    assert headstart("demo", drawn, "--images=40") == {"images": 40, "broken": 6, "path": str(drawn)}
    counts = headstart("prepare", drawn, data, "--val=0.25", "--test=0.25", "--max-rejects=1")
    assert set(counts) == {"train", "val", "test", "rejected", "dropped", "moved", "added", "ignored"}
    assert counts["train"] + counts["val"] + counts["test"] == 42
    first = headstart("features", data, *flags)
    assert set(first) == {
        "examples", "extracted", "cached", "rejected", "ignored", "seconds", "images_per_second", "store",
        "fingerprint", "views_extracted",
    }  # fmt: skip
    assert (first["examples"], first["extracted"], first["cached"], first["rejected"]) == (40, 40, 0, 2)
    again = headstart("features", data, *flags)
    assert (again["extracted"], again["cached"], again["fingerprint"]) == (0, 40, first["fingerprint"])
    trained = headstart("head", data, f"--run={run}", *flags, *HEAD_FLAGS)
    beside = {"largest_class", "largest_class_share", "logistic_regression"}
    assert set(trained) == {
        "run", "epochs", "best_epoch", "seconds", "val", "choose_by", "val_images", "accuracy_interval",
        "better_than_largest_class", *beside,
    }  # fmt: skip
    assert set(trained["val"]) == {"accuracy", "loss"}
    tuned = headstart("finetune", run, "--epochs=1")
    assert set(tuned) == {
        "run", "before", "after", "best_epoch", "epochs", "epochs_done", "stopped_early", "choose_by",
        "images_per_second", "seconds",
    }  # fmt: skip
    assert tuned["before"] == pytest.approx(trained["val"], rel=1e-3)
    scored = headstart("evaluate", run)
    assert set(scored) - {"finetuned"} == {  # which is there if the epoch was better than the head
        "split", "scored", "n", "duplicates_in_train", "near_duplicates_in_train", "positive", "head", "better",
        "answering", "mcnemar", "predictions_file", "confusion_file", *beside,
    }  # fmt: skip
    assert counts["test"] - 2 <= scored["n"] <= counts["test"]  # of the two broken files that prepare can't tell
    keys = {
        "accuracy", "accuracy_interval", "balanced_accuracy", "macro_f1", "top5", "loss", "auc", "confusion",
        "per_class", "precision", "better_than_largest_class", "threshold", "sensitivity", "sensitivity_interval",
        "specificity", "specificity_interval", "temperature", "calibration_error", "at_coverage", "conformal",
    }  # fmt: skip
    assert set(scored["head"]) == keys
    predicted = headstart("predict", run, drawn / "cat" / "cat.0.jpg", drawn / "dog", "--max-rejects=1")
    assert set(predicted) == {"predictions", "rejects", "model", "reason", "threshold"}
    assert set(predicted["predictions"][0]) == {"path", "label", "probability", "probabilities", "unlike", "distance"}
    assert {Path(reject["path"]).name for reject in predicted["rejects"]} == {
        "broken.text.jpg", "broken.header.jpg", "broken.tail.jpg",
    }  # fmt: skip


def test_head_extracts_what_is_missing_and_says_so(headstart, prepared: Path, tmp_path: Path, capfd) -> None:
    flags = (*SMALL_FLAGS, f"--store={tmp_path / 's'}", f"--run={tmp_path / 'r'}", *HEAD_FLAGS)
    from typer.testing import CliRunner

    result = CliRunner().invoke(cli.app, ["head", str(prepared), *flags])
    assert result.exit_code == 0
    assert "extracting features of 42 images that have none yet" in result.stderr + capfd.readouterr().err
    assert headstart("features", prepared, *flags[:-3])["extracted"] == 0


def test_summaries_for_people(
    headstart, prepared: Path, run: Path, small: FeatureConfig, extraction: ExtractionConfig
) -> None:
    text = headstart.text("features", prepared, *SMALL_FLAGS, f"--store={extraction.store}")
    assert "40 examples in 2 classes: 0 extracted" in text
    assert "2 images rejected" in text
    assert "accuracy" in headstart.text("evaluate", run)
    assert "cat.0.jpg: " in headstart.text("predict", run, *sorted(prepared.glob("*/cat/cat.0.jpg")))


def test_a_linear_head(
    headstart, prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    flags = (*SMALL_FLAGS, f"--store={extraction.store}", f"--run={tmp_path / 'r'}")
    headstart("head", prepared, *flags, "--units=none", "--epochs=1")
    assert json.loads((tmp_path / "r" / "config.json").read_text())["head"]["units"] == []


def test_a_run_that_exists_is_kept_unless_it_may_go(
    headstart, prepared, small, extraction, run: Path, tmp_path: Path
) -> None:
    flags = (*SMALL_FLAGS, f"--store={extraction.store}", *HEAD_FLAGS)
    before = (run / "head.keras").read_bytes()
    assert "--overwrite" in headstart.error("head", prepared, f"--run={run}", *flags)
    assert "--learning-rate" in headstart.error(
        "head", prepared, f"--run={run}", *flags, "--overwrite", "--optimizer=sgd", "--learning-rate=1e18", "--units=8",
        "--units=8", "--units=8",
    )  # fmt: skip
    assert (run / "head.keras").read_bytes() == before
    headstart("head", prepared, f"--run={run}", *flags, "--overwrite")
    assert (run / "head.keras").read_bytes() != before
    (tmp_path / "mine").mkdir()
    assert "not a run folder" in headstart.error("head", prepared, f"--run={tmp_path / 'mine'}", *flags, "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "run", "store"]


def test_bad_data_is_told_in_one_line(headstart, prepared: Path, small, extraction, tmp_path: Path) -> None:
    flags = (*SMALL_FLAGS, f"--store={extraction.store}", f"--run={tmp_path / 'r'}", *HEAD_FLAGS, "--max-rejects=1")

    def changed(name: str, *removed: str) -> Path:
        data = tmp_path / name
        shutil.copytree(prepared, data)
        for folder in removed:
            shutil.rmtree(data / folder)
        return data

    assert "no such folder" in headstart.error("head", tmp_path / "gone", *flags)
    (tmp_path / "empty").mkdir()
    assert "no class folders" in headstart.error("head", tmp_path / "empty", *flags)
    one_class = changed("one", "train/dog", "val/dog", "test/dog")
    assert "one class only, 'cat'" in headstart.error("head", one_class, *flags)
    assert "val split has no usable images of class 'dog'" in headstart.error("head", changed("v", "val/dog"), *flags)
    unknown = headstart.error("head", changed("t", "train/dog"), *flags)
    assert "train split has no usable images of class 'dog'" in unknown
    headstart("head", changed("notest", "test"), *flags)
    assert "test split has no usable images" in headstart.error("evaluate", tmp_path / "r")


def test_too_many_rejects_are_told_with_the_first(headstart, drawn: Path, tmp_path: Path) -> None:
    flags = (*SMALL_FLAGS, f"--store={tmp_path / 's'}")
    line = headstart.error("features", drawn, *flags)
    assert "4 of 46 images can't be used, over --max-rejects 0.05" in line
    assert "broken.empty.jpg (empty)" in line
    counts = headstart("features", drawn, *flags, "--max-rejects=1")
    assert (counts["examples"], counts["rejected"]) == (40, 6)
    reasons = [row.split(",")[1] for row in (tmp_path / "s" / "rejects.csv").read_text().splitlines()[1:]]
    assert sorted(reasons) == ["empty", "not-an-image", "not-an-image", "truncated", "truncated", "truncated"]


@pytest.mark.parametrize(
    ("flags", "message", "code"),
    [
        (["--cut=mixed10"], "--cut: mobilenet_v3_small has no cut", 2),
        (["--backbone=alexnet"], "--backbone: there is no 'alexnet'", 2),
        (["--weights=gone.h5"], "--weights gone.h5: no such file", 1),
        (["--batch-size=-1"], "--batch-size must be from 0 to 1048576. Received: -1", 2),
        (["--max-rejects=1.5"], "--max-rejects must be from 0 to 1. Received: 1.5", 2),
        (["--image-size=10"], "--image-size must be from 32 to 4096, or 0. Received: 10", 2),
    ],
)
def test_bad_options_are_told_in_one_line(headstart, prepared, tmp_path: Path, flags, message: str, code: int) -> None:
    line = headstart.error("features", prepared, *SMALL_FLAGS, f"--store={tmp_path / 's'}", *flags, code=code)
    assert message in line


def test_wrong_usage_exits_with_2(headstart) -> None:
    from typer.testing import CliRunner

    for arguments in (["head"], ["features", "x", "--precision=int4"], ["nothing"], ["features", "x", "--seed=-1"]):
        assert CliRunner().invoke(cli.app, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["features", ""], "argument 1"),
        (["prepare", "SOURCE", ""], "argument 2"),
        (["features", "DATA", "--store", ""], "--store"),
        (["head", "DATA", "--run="], "--run"),
    ],
)
def test_an_empty_name_is_not_the_current_folder(
    arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert f"Invalid value for {named}: is empty" in refused.stderr
    assert not list(tmp_path.iterdir())


def test_a_store_that_can_not_be_written_is_told_in_one_line(headstart, prepared, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "--store" in headstart.error("features", prepared, *SMALL_FLAGS, f"--store={tmp_path / 'file'}")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("Can't close (errno = 28)")])
def test_a_full_disk_is_told_in_one_line(headstart, prepared, tmp_path: Path, monkeypatch, error: Exception) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("headstart.features.files.flush_to_disk", full)
    line = headstart.error("features", prepared, *SMALL_FLAGS, f"--store={tmp_path / 's'}")
    assert "the disk is full" in line
    assert not list((tmp_path / "s").rglob("*.partial*"))


def test_a_path_below_a_file_is_told_in_one_line(
    headstart, prepared, small, extraction, drawn: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    flags = (*SMALL_FLAGS, f"--store={extraction.store}", *HEAD_FLAGS)
    assert "Not a directory" in headstart.error("head", prepared, f"--run={tmp_path / 'file' / 'x'}", *flags)
    assert "Not a directory" in headstart.error("demo", tmp_path / "file" / "x")
    assert "Not a directory" in headstart.error("prepare", drawn, tmp_path / "file" / "x", "--val=0.25", "--test=0.25")


def test_a_damaged_model_is_told_in_one_line(headstart, run: Path, drawn: Path) -> None:
    (run / "head.keras").write_bytes((run / "head.keras").read_bytes()[:500])
    for command in (("evaluate", run), ("finetune", run), ("predict", run, drawn / "cat" / "cat.0.jpg")):
        assert "head.keras: not a .keras file" in headstart.error(*command)


def test_running_out_of_memory_says_what_to_lower(headstart, prepared, tmp_path: Path, monkeypatch) -> None:
    def starve(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("headstart.features.frozen.frozen.FrozenBackbone.__call__", starve)
    line = headstart.error("features", prepared, *SMALL_FLAGS, f"--store={tmp_path / 's'}")
    assert "lower --batch-size" in line


def test_a_bug_keeps_its_traceback(headstart, prepared, tmp_path: Path, monkeypatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("headstart.features.frozen.frozen.FrozenBackbone.__call__", bug)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        headstart("features", prepared, *SMALL_FLAGS, f"--store={tmp_path / 's'}")


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_keeps_what_is_finished(start_headstart, drawn: Path, tmp_path: Path) -> None:
    flags = ("--backbone=resnet50_v2", "--weights=random", "--batch-size=2", "--max-rejects=1", "--views=9")
    process = start_headstart("features", drawn, f"--store={tmp_path / 's'}", *flags)
    output = tmp_path / "output"
    end = time.monotonic() + 120
    while "of view 1" not in output.read_text():  # the features of the images themselves are there
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, output.read_text()
    assert "interrupted" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert list((tmp_path / "s").glob("*/shard-*.h5"))


def test_help_does_not_wait_for_tensorflow() -> None:
    heavy = "{'tensorflow', 'keras', 'numpy', 'h5py', 'PIL', 'psutil'}"
    code = f"import headstart.cli, sys; assert not {heavy} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
