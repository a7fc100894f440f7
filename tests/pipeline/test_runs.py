import os
import subprocess
import sys
from pathlib import Path

import pytest
from headstart.features.errors import RunError
from headstart.features.files import folder_written_atomically
from headstart.features.images.scan import ImageFile
from headstart.pipeline.data.examples import Example
from headstart.pipeline.finetune.state import FinetuneState
from headstart.pipeline.runs import Run, list_digests, new_run


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
    digests = list_digests([example(1), example(2, 1), example(3, 1, "val")], names)
    assert set(digests) == {"classes", "train", "val"}
    assert list_digests([example(3, 1, "val"), example(2, 1), example(1)], names) == digests
    assert list_digests([example(1), example(2, 0), example(3, 1, "val")], names)["train"] != digests["train"]
    assert list_digests([example(1), example(3, 1, "val")], names)["train"] != digests["train"]
    assert list_digests([example(1)], ["cat", "fox"])["classes"] != digests["classes"]


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


def test_a_state_is_kept_whole(tmp_path: Path) -> None:
    state = FinetuneState(tmp_path / "s")
    assert state.resume() is None
    state.begin({"settings": {}, "before": 1})
    (tmp_path / "s" / "work" / "x").write_text("0")
    state.keep(0)
    (tmp_path / "s" / "work" / "x").write_text("1")
    state.keep(1)
    (tmp_path / "s" / "work" / "x").write_text("half of epoch 2")
    again = FinetuneState(tmp_path / "s")
    assert again.resume() == 1
    assert (tmp_path / "s" / "work" / "x").read_text() == "1"
    assert again.start() == {"settings": {}, "before": 1}
    assert [path.name for path in (tmp_path / "s").glob("epoch-*")] == ["epoch-0001"]


def test_a_kill_while_a_state_is_copied_leaves_the_one_before(tmp_path: Path) -> None:
    state = FinetuneState(tmp_path / "s")
    state.begin({"settings": {}})
    state.keep(0)
    with pytest.raises(ZeroDivisionError), folder_written_atomically(tmp_path / "s" / "epoch-0001"):
        raise ZeroDivisionError
    (tmp_path / "s" / "copy.partial").mkdir()  # as earlier versions left it
    assert FinetuneState(tmp_path / "s").resume() == 0
    state.keep(1)
    assert FinetuneState(tmp_path / "s").resume() == 1


def test_class_names_that_are_not_utf_8(trained_run: Path, tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9"), "tea"]
    assert set(list_digests([example(1)], names)) == {"classes", "train"}
    with new_run(tmp_path / "r", overwrite=False) as run:
        run.write_config(**Run.open(trained_run).config() | {"class_names": names})
        run.write_examples([example(1)], names)
        run.head_file.touch()
    assert Run.open(tmp_path / "r").config()["class_names"] == names
    assert Run.open(tmp_path / "r").digests("train") == {f"{1:064x}"}
