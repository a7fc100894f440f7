"""The places of the files that commands write are checked before the work."""

import os
from pathlib import Path

import pytest
from headstart.pipeline.pages.html import write_html
from headstart.tests.conftest import Cli
from headstart.tests.pipeline.labels.test_apply import fill

COMMANDS = {
    "check": ("check", "data", "--html"),
    "compare": ("compare", "data", "elsewhere", "--html"),
    "labels": ("labels", "data", "--html"),
    "report": ("report", "data", "--output"),
    "labels --csv": ("labels", "data", "--csv"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_only_files_of_headstart_are_replaced(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headstart: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, ["data/a/1.jpg", "data/b/1.jpg", "elsewhere/x"])
    (tmp_path / "letter").write_text("path,label,action\n1.jpg,cat,\n")
    write_html(tmp_path / "page.html", "A page", [])
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("page.html")
    (tmp_path / "dangling").symlink_to("nowhere")
    places = {
        "letter": "exists and ",
        "pipe": "is no regular file",
        "link": "is a link",
        "dangling": "is no regular file",
        "data": "is a folder" if command in ("check", "compare", "report") else "is DATA",
        "elsewhere": "is a folder",
        "absent/x": "there is no folder absent",
        "letter/x": "there is no folder letter",
        "/proc/x": "no file can be written there",
    }
    for place, said in places.items():
        assert said in headstart.error(*COMMANDS[command], place, code=2)
    assert (tmp_path / "letter").read_text() == "path,label,action\n1.jpg,cat,\n"
    assert not (tmp_path / "store").exists()


def test_the_files_of_labels_are_two_and_not_data(tmp_path: Path, headstart: Cli) -> None:
    file = tmp_path / "list.csv"
    file.write_text("path,label,suggested,score,conflict,action\n1.jpg,cat,,,,\n")
    before = file.read_text()
    assert "is DATA" in headstart.error("labels", file, "--csv", tmp_path / "data" / ".." / "list.csv", code=2)
    given = ("labels", file, "--csv", tmp_path / "x", "--html", tmp_path / "." / "x")
    assert "is the file of --csv" in headstart.error(*given, code=2)
    assert file.read_text() == before
    assert "leave --views out" in headstart.error("labels", file, "--views", 2, code=2)
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in headstart.error("labels", file, "--apply", tmp_path / "pipe")
