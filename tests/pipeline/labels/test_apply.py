"""Changing labels by an edited CSV file, and taking the changes back."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from headstart.features import outputs
from headstart.features.errors import DataError, OptionError
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.reading import read_data
from headstart.pipeline.labels.apply import apply, undo
from headstart.pipeline.labels.log import log_of
from headstart.pipeline.spreadsheets import csv_line
from headstart.tests.conftest import Cli

Change = tuple[str, str, str]  # path, label, action


def fill(data: Path, names: Sequence[str]) -> Path:
    """Files with these names in `data`, each with its own name as content."""
    for name in names:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(os.fsencode(name))
    return data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    names = [f"{split}/{name}/{at}.jpg" for split in ("train", "test") for name in ("cat", "dog") for at in range(4)]
    return fill(tmp_path / "data", [*names, "train/cat/only-cat.jpg", "train/=own/x.jpg", "test/=own/x.jpg"])


def table(folder: Path, *changes: Change, suggested: str = "cat") -> Path:
    lines = [("path", "label", "suggested", "score", "action")]
    lines += [(path, label, suggested, "0.1", action) for path, label, action in changes]
    (folder / "labels.csv").write_text("".join(map(csv_line, lines)))
    return folder / "labels.csv"


def state(folder: Path) -> dict[str, bytes]:
    """The content of each file in `folder`; folders are keys, too."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else b"" for name, path in found.items()}


def labels_of(data: Path, **config: Any) -> dict[str, str | None]:
    files = read_data(data, DataConfig(**config))
    root = f"{data if data.is_dir() else data.parent}/"
    return dict(zip([path.removeprefix(root) for path in files.paths], files.reading.labels, strict=True))


def test_images_change_their_class_or_go_aside(data: Path, tmp_path: Path, headstart: Cli) -> None:
    before = state(data)
    changes = [
        ("train/dog/0.jpg", "dog", "suggested"),
        ("train/cat/1.jpg", "cat", "=own"),
        ("train/cat/2.jpg", "cat", "aside"),
    ]
    file = table(tmp_path, *changes, ("train/cat/3.jpg", "cat", ""), ("train/dog/3.jpg", "dog", "dog"))
    done = headstart("labels", data, f"--apply={file}")
    assert {name: done[name] for name in ("examples", "issues", "applied")} == {
        "examples": 18,
        "issues": [],
        "applied": 3,
    }
    after = state(data)
    assert after["train/cat/0-2.jpg"] == b"train/dog/0.jpg"  # 0.jpg was taken
    assert after["train/cat/0.jpg"] == b"train/cat/0.jpg"
    assert after["train/=own/1.jpg"] == b"train/cat/1.jpg"
    assert after[".aside/train/cat/2.jpg"] == b"train/cat/2.jpg"
    assert sorted(after.values()) == sorted([*before.values(), b"", b"", b""])  # nothing is lost; three new folders
    assert "train/cat/2.jpg" not in labels_of(data)
    assert not any("aside" in name for name in labels_of(data))
    assert headstart("labels", data, f"--apply={file}")["applied"] == 0  # a second time there is nothing to do
    taken_back = headstart("labels", data, f"--undo={done['log']}")
    assert (taken_back["undone"], taken_back["log"]) == (3, None)
    assert state(data) == before
    assert not Path(done["log"]).exists()


def test_an_edited_file_goes_on(data: Path, tmp_path: Path) -> None:
    before = state(data)
    first, second = ("train/dog/0.jpg", "dog", "cat"), ("train/dog/1.jpg", "dog", "aside")
    apply(data, table(tmp_path, first))
    done = apply(data, table(tmp_path, first, second))
    assert (done.applied, done.told) == (1, f"{data}: 1 labels changed, 1 were changed before")
    with pytest.raises(DataError, match="was moved before"):
        apply(data, table(tmp_path, (*first[:2], "=own")))
    assert done.log
    assert undo(data, done.log).undone == 2
    assert state(data) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("../outside.jpg", "dog", "cat"), "not an image of"),
        (("train/dog/../dog/0.jpg", "dog", "cat"), "not an image of"),
        (("/etc/passwd", "dog", "cat"), "not an image of"),
        (("train/dog/gone.jpg", "dog", "aside"), "not an image of"),
        (("train/dog/0.jpg", "dog", "../../x"), "no class of"),
        (("train/dog/0.jpg", "dog", "Cat"), "no class of"),
        (("train/dog/0.jpg", "cat", "dog"), "is 'dog' now, and was 'cat'"),
        (("test/dog/0.jpg", "dog", "cat"), "of the test split"),
        (("train/dog/link.jpg", "dog", "cat"), "is a link"),
        (("train/dog/linked/0.jpg", "dog", "cat"), "lies in a linked folder"),
    ],
)
def test_a_wrong_row_changes_nothing(change: Change, said: str, data: Path, tmp_path: Path, headstart: Cli) -> None:
    fill(tmp_path / "elsewhere", ["0.jpg"])
    (data / "train/dog/link.jpg").symlink_to(tmp_path / "elsewhere/0.jpg")
    reading = []
    if "linked" in change[0]:
        (data / "train/dog/linked").symlink_to(tmp_path / "elsewhere")
        reading = ["--layout=outer"]
    before = state(tmp_path)
    file = table(tmp_path, ("train/dog/1.jpg", "dog", "cat"), change)
    assert said in headstart.error("labels", data, f"--apply={file}", *reading)
    file.unlink()
    assert state(tmp_path) == before


def test_a_link_does_not_lead_images_aside_out_of_the_folder(data: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (data / ".aside").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="linked folder"):
        apply(data, table(tmp_path, ("train/dog/1.jpg", "dog", "aside")))
    assert state(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,label,action\ntrain/dog/0.jpg,dog,cat\ntrain/dog/0.jpg,dog,aside\n", "an earlier row has another"),
        ("path,label\ntrain/dog/0.jpg,dog\n", "has no column action"),
        ("path,label,action\ntrain/dog/0.jpg,dog,cat,more\n", "more cells than the header"),
        ('path,label,action\n"train/dog/0.jpg,dog,cat\n', "can't be read as CSV"),
        ("path,label,suggested,action\ntrain/dog/0.jpg,dog,,suggested\n", "the column suggested is empty"),
        ("", "has no column path"),
    ],
)
def test_a_wrong_file_changes_nothing(content: str, said: str, data: Path, tmp_path: Path) -> None:
    before = state(data)
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(DataError, match=said):
        apply(data, tmp_path / "labels.csv")
    assert state(data) == before
    with pytest.raises(DataError, match=r"absent.csv: can't be read"):
        apply(data, tmp_path / "absent.csv")


def test_names_are_read_back_exactly(data: Path, tmp_path: Path) -> None:
    odd = ["=1+1.jpg", "-5.jpg", "'=x.jpg", 'a,b\n"c.jpg', os.fsdecode(b"\xff.jpg"), "@.jpg"]
    fill(data, [f"train/dog/{name}" for name in odd])
    before = state(data)
    file = tmp_path / "labels.csv"
    rows = [("path", "label", "action"), *((f"train/dog/{name}", "dog", "=own") for name in odd)]
    file.write_bytes("".join(map(csv_line, rows)).encode(errors="surrogateescape"))
    done = apply(data, file)
    assert {name for name in odd if (data / "train/=own" / name).is_file()} == set(odd)
    assert done.log
    undo(data, done.log)
    assert state(data) == before


def test_a_spreadsheet_may_write_semicolons_and_a_mark(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("\ufeffpath;label;suggested;score;action\r\ntrain/dog/0.jpg;dog;cat;0,1; suggested \r\n")
    assert apply(data, file).applied == 1


@pytest.mark.parametrize("stopped_at", [1, 3])
@pytest.mark.parametrize("step", ["link", "unlink", "mkdir"])
@pytest.mark.parametrize("then", ["apply", "undo"])
def test_a_kill_in_the_middle(
    step: str, stopped_at: int, then: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(data)
    changes = [(f"train/dog/{at}.jpg", "dog", action) for at, action in enumerate(("cat", "aside", "=own"))]
    file, log = table(tmp_path, *changes), tmp_path / "labels.csv.undo.json"
    left, real = [stopped_at], getattr(os, step)

    def dying(path: Any, *others: Any, **named: Any) -> None:
        if str(path).startswith(str(data)) and ("dog" in str(path) or step == "mkdir"):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        real(path, *others, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, dying)
        with pytest.raises(KeyboardInterrupt):
            apply(data, file)
    assert sorted(set(state(data).values())) == sorted(set(before.values()))  # no image is lost
    if then == "apply":
        apply(data, file)
        assert (data / "train/cat/0-2.jpg").read_text() == "train/dog/0.jpg"
        assert (data / ".aside/train/dog/1.jpg").read_text() == "train/dog/1.jpg"
        assert (data / "train/=own/2.jpg").read_text() == "train/dog/2.jpg"
    undo(data, log)
    assert state(data) == before


def test_undo_overwrites_nothing_and_can_be_repeated(data: Path, tmp_path: Path) -> None:
    before = state(data)
    done = apply(data, table(tmp_path, ("train/dog/0.jpg", "dog", "cat"), ("train/dog/1.jpg", "dog", "aside")))
    assert done.log
    (data / "train/dog/1.jpg").write_text("new")
    changed = state(data)
    with pytest.raises(DataError, match="another file is there"):
        undo(data, done.log)
    assert state(data) == changed
    (data / "train/dog/1.jpg").unlink()
    undo(data, done.log)
    assert state(data) == before


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, link = state(data), os.link

    def late(source: str, target: str) -> None:
        Path(target).write_text("new")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(DataError, match="another file came there meanwhile"):
        apply(data, table(tmp_path, ("train/dog/0.jpg", "dog", "cat")))
    assert state(data) == {**before, "train/cat/0-2.jpg": b"new"}


def test_a_disk_without_hard_links(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    before = state(data)
    monkeypatch.setattr(os, "link", refuse)
    done = apply(data, table(tmp_path, ("train/dog/0.jpg", "dog", "cat")))
    assert (data / "train/cat/0-2.jpg").read_text() == "train/dog/0.jpg"
    assert done.log
    undo(data, done.log)
    assert state(data) == before


@pytest.mark.parametrize(
    "move",
    [
        {"source": "../out.jpg", "target": "train/dog/9.jpg"},
        {"source": "train/dog/0.jpg", "target": "/tmp/out.jpg"},
        {"source": "train/dog/0.jpg", "target": "linked/0.jpg"},
        {"source": "train/dog/0.jpg", "target": "train/dog/\0.jpg"},
        {"source": "train/dog/0.jpg", "target": "train/dog/\ud800.jpg"},
        {"source": 5, "target": "x"},
    ],
)
def test_a_hostile_log_is_refused(move: dict[str, Any], data: Path, tmp_path: Path, headstart: Cli) -> None:
    fill(tmp_path, ["out.jpg", "elsewhere/0.jpg"])
    (data / "linked").symlink_to(tmp_path / "elsewhere")
    log = tmp_path / "x.undo.json"
    written = {"kind": "log of headstart labels", "data": str(data), "moves": [{**move, "action": "cat"}]}
    log.write_text(json.dumps(written))
    before = state(tmp_path)
    headstart.error("labels", data, f"--undo={log}")
    assert state(tmp_path) == before
    (tmp_path / "empty").mkdir()
    for folder in ("../empty", str(tmp_path / "empty")):
        harmless = {"source": "train/dog/0.jpg", "target": "train/cat/9.jpg", "action": "cat"}
        log.write_text(json.dumps({**written, "moves": [harmless], "folders": [folder]}))
        assert "not the path of a file" in headstart.error("labels", data, f"--undo={log}")
        assert (tmp_path / "empty").is_dir()
    for text in ("[]", "not json", '{"moves": [{}]}'):
        log.write_text(text)
        assert "not a log" in headstart.error("labels", data, f"--undo={log}")


def test_flat_names_are_renamed(tmp_path: Path) -> None:
    data = fill(tmp_path / "data", [f"{name}.{at}.jpg" for name in ("cat", "dog") for at in range(20)])
    before = state(data)
    done = apply(data, table(tmp_path, ("cat.3.jpg", "cat", "dog"), ("cat.4.jpg", "cat", "aside")))
    assert (data / "dog.20.jpg").read_text() == "cat.3.jpg"
    assert (data / ".aside/cat.4.jpg").read_text() == "cat.4.jpg"
    assert labels_of(data)["dog.20.jpg"] == "dog"
    assert done.log
    undo(data, done.log)
    assert state(data) == before


def test_names_that_a_regular_expression_reads_are_renamed(tmp_path: Path) -> None:
    data = fill(tmp_path / "data", [f"x_{name}_{at}.jpg" for name in ("pug", "boxer") for at in (1, 2, 3)])
    reading = DataConfig(label_from=r"x_(?P<label>.+)_\d+\.jpg")
    apply(data, table(tmp_path, ("x_pug_1.jpg", "pug", "boxer")), reading)
    assert (data / "x_boxer_4.jpg").read_text() == "x_pug_1.jpg"


@pytest.mark.parametrize("config", [{}, {"layout": "outer"}, {"classes": "cat,dog"}])
def test_deep_and_wrapped_class_folders(config: dict[str, Any], tmp_path: Path) -> None:
    names = [f"photos/{name}/images/{at}.jpg" for name in ("cat", "dog") for at in range(5)]
    data = fill(tmp_path / "data", names)
    apply(data, table(tmp_path, ("photos/cat/images/1.jpg", "cat", "dog")), DataConfig(**config))
    assert labels_of(data, **config)["photos/dog/images/1-2.jpg"] == "dog"


def test_moves_that_would_be_read_in_another_way_are_refused(tmp_path: Path) -> None:
    """The classes are in the names, but the folder is called like one of them."""
    data = fill(tmp_path / "data", [f"cat/{name}.{at}.jpg" for name in ("cat", "dog") for at in range(20)])
    before = state(data)
    with pytest.raises(DataError, match="after these moves"):
        apply(data, table(tmp_path, ("cat/cat.3.jpg", "cat", "dog")))
    assert state(data) == before


def test_a_class_keeps_an_image(tmp_path: Path) -> None:
    data = fill(tmp_path / "data", ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"])
    with pytest.raises(DataError, match="class 'cat' would have no image left"):
        apply(data, table(tmp_path, ("cat/1.jpg", "cat", "aside")))


def test_a_class_called_like_an_action(tmp_path: Path) -> None:
    data = fill(tmp_path / "data", [f"{name}/{at}.jpg" for name in ("aside", "dog") for at in range(3)])
    with pytest.raises(DataError, match="its class aside is called like an action"):
        apply(data, table(tmp_path, ("dog/1.jpg", "dog", "aside")))


def test_two_commands_at_once(data: Path, tmp_path: Path) -> None:
    from headstart.features.locks import folder_locked

    with folder_locked(data), pytest.raises(DataError, match="another command"):
        apply(data, table(tmp_path, ("train/dog/1.jpg", "dog", "aside")))


def test_what_cannot_be_done(data: Path, tmp_path: Path, headstart: Cli) -> None:
    file = table(tmp_path, ("train/dog/1.jpg", "dog", "aside"))
    with pytest.raises(OptionError, match="--layout v1"):
        apply(data, file, DataConfig(layout="v1"))
    assert "--apply and --undo" in headstart.error("labels", data, f"--apply={file}", "--csv=x.csv", code=2)


LISTS: dict[str, Callable[[list[tuple[str, str, str]]], str]] = {
    "list.csv": lambda rows: "path,label,note\r\n" + "".join(f'"{a}",{b},"{c}"\r\n' for a, b, c in rows),
    "list.tsv": lambda rows: "note\tlabel\tpath\n\n" + "".join(f"{c}\t{b}\t{a}\n" for a, b, c in rows),
    "list.jsonl": lambda rows: "".join(json.dumps({"path": a, "label": b, "note": c}) + "\n" for a, b, c in rows),
}
ROWS = [(f"{at}.jpg", ("cat", "dog")[at % 2], f"note; {at}") for at in range(8)]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_keeps_its_other_rows_and_columns(name: str, tmp_path: Path, headstart: Cli) -> None:
    fill(tmp_path, [row[0] for row in ROWS])
    file = tmp_path / name
    file.write_bytes(LISTS[name](ROWS).encode())
    before = file.read_bytes()
    file.chmod(0o640)
    changes = table(tmp_path, ("1.jpg", "dog", "suggested"), ("4.jpg", "cat", "aside"))
    done = headstart("labels", file, f"--apply={changes}")
    assert (done["applied"], done["examples"]) == (2, 7)
    new = [("1.jpg", "cat", ROWS[1][2]) if row[0] == "1.jpg" else row for row in ROWS if row[0] != "4.jpg"]
    assert labels_of(file) == {row[0]: row[1] for row in new}
    kept = before.splitlines(keepends=True)
    for at, line in enumerate(file.read_bytes().splitlines(keepends=True)):
        assert line in kept or b"1.jpg" in line, (at, line)
    assert b"note; 1" in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o640
    assert headstart("labels", file, f"--apply={changes}")["applied"] == 0
    assert headstart("labels", file, f"--undo={done['log']}")["undone"] == 2
    assert file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {row[0] for row in ROWS} | {name, "labels.csv"}


def test_a_parquet_list(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    fill(tmp_path, [row[0] for row in ROWS])
    columns = {
        "path": [row[0] for row in ROWS],
        "label": [len(row[1]) + (row[1] == "dog") for row in ROWS],
        "n": range(8),
    }
    parquet.write_table(pyarrow.table({name: list(values) for name, values in columns.items()}), tmp_path / "x.parquet")
    before = (tmp_path / "x.parquet").read_bytes()
    done = apply(tmp_path / "x.parquet", table(tmp_path, ("1.jpg", "4", "3"), ("4.jpg", "3", "aside")))
    rows = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert rows[1] == {"path": "1.jpg", "label": 3, "n": 1}
    assert [row["n"] for row in rows] == [0, 1, 2, 3, 5, 6, 7]
    assert done.log
    undo(tmp_path / "x.parquet", done.log)
    assert (tmp_path / "x.parquet").read_bytes() == before


def test_a_list_that_changed_is_not_restored(tmp_path: Path) -> None:
    fill(tmp_path, [row[0] for row in ROWS])
    file = tmp_path / "list.csv"
    file.symlink_to(tmp_path / "target.csv")
    file.write_text(LISTS["list.csv"](ROWS))
    first, second = ("1.jpg", "dog", "cat"), ("3.jpg", "dog", "cat")
    apply(file, table(tmp_path, first))
    log = apply(file, table(tmp_path, first, second)).log
    assert log
    after = file.read_bytes()
    file.write_bytes(after + b"new.jpg,cat,x\r\n")
    with pytest.raises(DataError, match="was changed by something else since"):
        undo(file, log)
    file.write_bytes(after)
    assert undo(file, log).undone == 2
    assert file.is_symlink()
    with pytest.raises(OptionError, match="--label-from"):
        apply(file, table(tmp_path, first), DataConfig(label_from=r"(?P<label>\d)\.jpg"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("../x.jpg", "dog", "cat"), "has no row in"),
        (("1.jpg", "cat", "dog"), ""),  # has the label already
        (("1.jpg", "cat", "aside"), "is 'dog' now"),
        (("1.jpg", "dog", "bird"), "no class of"),
    ],
)
def test_a_wrong_row_leaves_a_list_alone(change: Change, said: str, tmp_path: Path) -> None:
    fill(tmp_path, [row[0] for row in ROWS])
    file = tmp_path / "list.csv"
    file.write_text(LISTS["list.csv"](ROWS))
    before = file.read_bytes()
    if said:
        with pytest.raises(DataError, match=said):
            apply(file, table(tmp_path, ("3.jpg", "dog", "cat"), change))
    else:
        assert apply(file, table(tmp_path, change)).applied == 0
    assert file.read_bytes() == before


def test_a_log_is_of_one_folder(data: Path, tmp_path: Path, headstart: Cli) -> None:
    other = tmp_path / "other"
    shutil.copytree(data, other)
    log = apply(data, table(tmp_path, ("train/dog/0.jpg", "dog", "cat"))).log
    assert log
    before = state(tmp_path)
    assert f"is the log of {data}" in headstart.error("labels", other, f"--undo={log}")
    assert f"is the log of {data}" in headstart.error("labels", other, f"--apply={tmp_path / 'labels.csv'}")
    assert state(tmp_path) == before
    (tmp_path / "labels.csv").rename(tmp_path / "labels.txt")
    assert apply(other, tmp_path / "labels.txt").log != log  # files of another ending have another log


def test_a_log_is_of_one_list(tmp_path: Path) -> None:
    fill(tmp_path, [row[0] for row in ROWS])
    first, second = tmp_path / "la.csv", tmp_path / "lb.csv"
    for file in (first, second):
        file.write_text(LISTS["list.csv"](ROWS))
    log = apply(first, table(tmp_path, ("1.jpg", "dog", "cat"))).log
    assert log
    second.write_bytes(first.read_bytes())
    with pytest.raises(DataError, match=r"is the log of .*la.csv"):
        undo(second, log)
    first.unlink()
    fill(tmp_path, ["la.csv/cat/1.jpg", "la.csv/dog/1.jpg"])
    with pytest.raises(DataError, match=r"is the log of a list of images, and .* is a folder"):
        undo(first, log)


def test_other_files_are_no_logs(data: Path, tmp_path: Path, headstart: Cli) -> None:
    done = apply(data, table(tmp_path, ("train/dog/0.jpg", "dog", "cat")))
    assert done.log
    written = json.loads(done.log.read_text())
    copy = tmp_path / "settings.json"
    copy.write_bytes(done.log.read_bytes())
    assert "does not end with .undo.json" in headstart.error("labels", data, f"--undo={copy}")
    assert copy.exists()
    other, move = tmp_path / "x.undo.json", written["moves"][0]
    chain = {**move, "source": "train/cat/1.jpg", "target": move["target"] + "/1.jpg"}
    for content, said in [
        ({}, "missing required field `kind`"),
        ({**written, "more": 1}, "unknown field `more`"),
        ({**written, "moves": []}, "neither moves nor states"),
        ({**written, "moves": [move, {**move, "source": "train/dog/1.jpg"}]}, "occurs twice"),
        ({**written, "moves": [move, chain]}, "a file and a folder"),
    ]:
        other.write_text(json.dumps(content))
        assert said in headstart.error("labels", data, f"--undo={other}")
        assert other.exists()
    before = state(data)
    for source in ("train/cat/3.jpg", "train/cat"):
        moves = [{"source": "elsewhere", "target": source, "action": "cat"}]
        if source != "train/cat":
            (data / source).unlink()
            os.mkfifo(data / source)
        other.write_text(json.dumps({**written, "moves": moves}))
        assert "is no regular file" in headstart.error("labels", data, f"--undo={other}")
    assert set(state_names(data)) == set(before)


def state_names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*")]


def test_edits_by_hand_between_two_calls_are_kept(tmp_path: Path) -> None:
    fill(tmp_path, [row[0] for row in ROWS])
    file = tmp_path / "list.csv"
    file.write_text(LISTS["list.csv"](ROWS))
    before, first, second = file.read_bytes(), ("1.jpg", "dog", "cat"), ("3.jpg", "dog", "cat")
    log = apply(file, table(tmp_path, first)).log
    assert log
    after = file.read_bytes()
    edited = after.replace(b"note; 7", b"by hand")
    file.write_bytes(edited)
    with pytest.raises(DataError, match=r"changed by something else since .*move both of these files elsewhere"):
        apply(file, table(tmp_path, first, second))
    assert file.read_bytes() == edited
    file.write_bytes(before)
    assert apply(file, table(tmp_path, first)).applied == 1  # as after a kill before the list was replaced
    file.write_bytes(before)
    assert undo(file, log).undone == 0


def test_counts_after_a_kill_are_of_this_call(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = table(tmp_path, *((f"train/dog/{at}.jpg", "dog", "aside") for at in range(3)))
    real, left = os.unlink, [2]

    def dying(path: Any, **named: Any) -> None:
        if "dog" in str(path):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
        real(path, **named)

    def killed(change: Callable[[Path, Path], Any], given: Path) -> None:
        left[0] = 2
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", dying)
            with pytest.raises(KeyboardInterrupt):
                change(data, given)

    killed(apply, file)
    done = apply(data, file)
    assert (done.applied, done.examples) == (2, 16)
    assert "2 labels changed, 1 were changed before" in done.told
    killed(undo, log_of(file))
    assert undo(data, log_of(file)).undone == 2


@pytest.mark.parametrize("place", [".aside", ".aside/train"])
def test_a_file_in_place_of_a_folder_is_found_before_the_log(place: str, data: Path, tmp_path: Path) -> None:
    fill(data, [place])
    before = state(tmp_path)
    with pytest.raises(DataError, match=rf"row 2: .*{place} is no folder"):
        apply(data, table(tmp_path, ("train/dog/0.jpg", "dog", "aside")))
    (tmp_path / "labels.csv").unlink()
    assert state(tmp_path) == before


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_data_that_cannot_be_written_leave_no_log(
    kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Any) -> None:
        assert str(dir).startswith(str(data))
        raise OSError(30, "Read-only file system")

    file, row = data, ("train/dog/0.jpg", "dog", "aside")
    if kind == "list":
        file = data / "list.csv"
        file.write_text("path,label\ntrain/dog/0.jpg,dog\ntrain/dog/1.jpg,dog\ntrain/cat/1.jpg,cat\n")
    before = state(data)
    monkeypatch.setattr(outputs, "TemporaryFile", refuse)
    with pytest.raises(DataError, match="Read-only"):
        apply(file, table(tmp_path, row))
    assert state(data) == before
    assert not list(tmp_path.glob("*undo*"))


def test_copies_do_not_exchange_their_labels(data: Path, tmp_path: Path) -> None:
    lines = "path,label,suggested,score,conflict,action\ntrain/dog/0.jpg,dog,cat,0.1,{},cat\n\n"
    lines += "train/cat/0.jpg,cat,,0.1,{}, dog \n"
    (tmp_path / "labels.csv").write_text(lines.format(1, 1))
    with pytest.raises(DataError, match=r"row 4: .* would exchange their labels"):
        apply(data, tmp_path / "labels.csv")
    lines += "train/cat/1.jpg,cat,,0.9,3,suggested\n"  # stays a cat
    (tmp_path / "labels.csv").write_text(lines.format(1, 2))
    assert apply(data, tmp_path / "labels.csv").applied == 2
