import os
import subprocess
import sys
from pathlib import Path

import pytest
from headstart.features.errors import RunError
from headstart.features.images.scan import ImageFile
from headstart.pipeline.data.examples import Example
from headstart.pipeline.runs import HISTORY_COLUMNS, Run, example_digests, new_run


def example(number: int, label: int = 0, split: str = "train") -> Example:
    return Example(ImageFile(f"{number}.jpg", f"{number:064x}", 1, 1, 1, 1, 1, "JPEG"), label, split)


def test_a_run_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail() -> None:
        with new_run(tmp_path / "r", overwrite=False) as run:
            run.config_file.write_text("{}")
            assert not (tmp_path / "r").exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with new_run(tmp_path / "r", overwrite=False) as run:
        run.config_file.write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_run_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    for content in ("1", "2"):
        with new_run(tmp_path / "r", overwrite=True) as run:
            run.config_file.write_text(content)
            run.head_file.write_text("")
    with pytest.raises(ZeroDivisionError), new_run(tmp_path / "r", overwrite=True):
        raise ZeroDivisionError
    assert Run.existing(tmp_path / "r").config_file.read_text() == "2"
    with pytest.raises(RunError, match="--overwrite"), new_run(tmp_path / "r", overwrite=False):
        pass


def test_the_history_has_further_figures(tmp_path: Path) -> None:
    run = Run(tmp_path)
    plain = {"phase": "head", "epoch": 1, "loss": 1.0, "accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.25}
    run.write_history([plain])
    assert run.history_file.read_text().splitlines()[0] == "phase,epoch,loss,accuracy,val_loss,val_accuracy"
    run.write_history([{**plain, "val_f1": 0.75}, {**plain, "phase": "finetune", "learning_rate": 0.1}])
    header, *rows = run.history_file.read_text().splitlines()
    assert header.endswith("val_loss,val_accuracy,val_f1")
    assert rows == ["head,1,1.0,0.5,2.0,0.25,0.75", "finetune,1,1.0,0.5,2.0,0.25,"]
    run.write_history(run.history())
    assert run.history_file.read_text().splitlines()[1:] == rows


def make_run(path: Path, content: str) -> None:
    path.mkdir()
    (path / "config.json").write_text(content)
    (path / "head.keras").touch()


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


KILLED = """if True:
    import os, sys
    from pathlib import Path
    from headstart.pipeline.runs import new_run
    rename = Path.rename
    Path.rename = lambda self, target: (rename(self, target), os._exit(9))
    with new_run(Path(sys.argv[1]), overwrite=True) as run:
        run.config_file.write_text("new")
"""


def test_a_kill_between_two_renames_leaves_the_old_run(tmp_path: Path) -> None:
    make_run(tmp_path / "r", "old")
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path / "r"], check=False).returncode == 9
    assert not (tmp_path / "r").exists()
    assert Run.existing(tmp_path / "r").config_file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "r"]


def test_left_overs_of_earlier_versions_are_cleared(tmp_path: Path) -> None:
    dead = dead_process()
    make_run(tmp_path / f".r.{dead}.replaced", "old")
    make_run(tmp_path / f".r.{dead}.partial", "half")
    mine = tmp_path / f".r.{os.getpid()}.partial"
    make_run(mine, "half")
    make_run(tmp_path / f".other.{dead}.partial", "another run's")
    with pytest.raises(RunError, match="--overwrite"), new_run(tmp_path / "r", overwrite=False):
        pass
    assert Run.existing(tmp_path / "r").config_file.read_text() == "old"
    make_run(tmp_path / f".r.{dead}.replaced", "older")
    with new_run(tmp_path / "r", overwrite=True) as run:
        run.config_file.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"r", mine.name, f".other.{dead}.partial"}
    assert (tmp_path / "r" / "config.json").read_text() == "new"


def test_a_run_that_another_process_made_meanwhile_stays(tmp_path: Path) -> None:
    def race() -> None:
        with new_run(tmp_path / "r", overwrite=False) as run:
            run.config_file.write_text("late")
            make_run(tmp_path / "r", "early")

    with pytest.raises(RunError, match="meanwhile"):
        race()
    assert (tmp_path / "r" / "config.json").read_text() == "early"
    assert list(tmp_path.iterdir()) == [tmp_path / "r"]


def test_digests_of_the_example_list_ignore_names_and_order() -> None:
    names = ["cat", "dog"]
    digests = example_digests([example(1), example(2, 1), example(3, 1, "val")], names)
    assert set(digests) == {"classes", "train", "val"}
    assert example_digests([example(3, 1, "val"), example(2, 1), example(1)], names) == digests
    assert example_digests([example(1), example(2, 0), example(3, 1, "val")], names)["train"] != digests["train"]
    assert example_digests([example(1), example(3, 1, "val")], names)["train"] != digests["train"]
    assert example_digests([example(1)], ["cat", "fox"])["classes"] != digests["classes"]


def test_what_training_needs_to_be_repeated_is_recorded(trained_run: Path) -> None:
    config = Run.open(trained_run).config()
    assert set(config) == {
        "data", "seed", "class_names", "features", "head", "weights_digest", "fingerprints", "examples",
        "reading", "versions",
    }  # fmt: skip
    assert config["features"]["precision"] == "float32"
    assert config["features"]["cut"] == ["top_activation"]
    assert set(config["versions"]) >= {"headstart", "tensorflow", "keras", "numpy", "python"}
    assert len(Run.open(trained_run).digests("train")) > 10


def test_further_columns_of_the_history_follow_the_fixed_ones(tmp_path: Path) -> None:
    row = dict(zip(HISTORY_COLUMNS, ("head", 1, 0.5, 0.75, 0.25, 1.0), strict=True))
    run = Run(tmp_path)
    run.write_history(iter([row, {"val_f1": 0.1, **row, "phase": "finetune"}]))
    header, first, second = run.history_file.read_text().splitlines()
    assert header == ",".join((*HISTORY_COLUMNS, "val_f1"))
    assert (first, second) == ("head,1,0.5,0.75,0.25,1.0,", "finetune,1,0.5,0.75,0.25,1.0,0.1")


def test_class_names_that_are_not_utf_8(trained_run: Path, tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9"), "tea"]
    assert set(example_digests([example(1)], names)) == {"classes", "train"}
    with new_run(tmp_path / "r", overwrite=False) as run:
        run.write_config(**Run.open(trained_run).config() | {"class_names": names})
        run.write_examples([example(1)], names)
        run.head_file.touch()
    assert Run.open(tmp_path / "r").config()["class_names"] == names
    assert Run.open(tmp_path / "r").digests("train") == {f"{1:064x}"}
