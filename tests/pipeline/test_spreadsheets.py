import csv
from pathlib import Path

import pytest
from headstart.features.images.scan import Reject
from headstart.pipeline.rejects import write_rejects
from headstart.pipeline.runs import read_csv, write_csv
from headstart.pipeline.spreadsheets import original_text, spreadsheet_safe
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("text", ["=1+1", "+cmd|'/c calc'!A1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1"])
def test_a_formula_becomes_text(text: str) -> None:
    assert spreadsheet_safe(text) == f"'{text}"


@pytest.mark.parametrize("text", ["cat", "-0.5", "+3", "1e-7", "'tis", "a=b", "/data/=x.jpg", "", "-inf"])
def test_other_text_stays(text: str) -> None:
    assert spreadsheet_safe(text) == original_text(text) == text


@given(st.text(alphabet="'=+-@\t\r\n a1.e", max_size=6))
def test_the_text_is_found_again(text: str) -> None:
    assert original_text(spreadsheet_safe(text)) == text
    assert spreadsheet_safe(text)[:1] not in ("=", "@", "\t", "\r")


def test_files_are_safe_and_read_back(tmp_path: Path) -> None:
    rows = [["=cat", "'=cat", -0.5], ["cat", "-dog", 2]]
    write_csv(tmp_path / "a.csv", ["path", "=label", "n"], rows)
    assert (tmp_path / "a.csv").read_text() == "path,'=label,n\n'=cat,''=cat,-0.5\ncat,'-dog,2\n"
    assert [[*row.values()] for row in read_csv(tmp_path / "a.csv")] == [[*map(str, row)] for row in rows]
    assert list(read_csv(tmp_path / "a.csv")[0]) == ["path", "=label", "n"]


def test_line_ends_within_names_are_read_back(tmp_path: Path) -> None:
    rows = [["c\rat.jpg", "a"], ["d\nog.jpg", "b"], ["e\r\nel.jpg", "c"]]
    write_csv(tmp_path / "a.csv", ["path", "label"], rows)
    assert [[*row.values()] for row in read_csv(tmp_path / "a.csv")] == rows


def test_rejects_are_safe_and_dropped_by_their_names(tmp_path: Path) -> None:
    write_rejects(tmp_path, [Reject("=a.jpg", "corrupt", "@x"), Reject("b.jpg", "corrupt", "")])
    with (tmp_path / "rejects.csv").open(newline="") as file:
        assert list(csv.reader(file))[1:] == [["'=a.jpg", "corrupt", "'@x"], ["b.jpg", "corrupt", ""]]
    write_rejects(tmp_path, [Reject("c.jpg", "corrupt", "")], keep_other_than=["b.jpg"])
    assert "'=a.jpg" in (tmp_path / "rejects.csv").read_text()
    write_rejects(tmp_path, [], keep_other_than=["=a.jpg"])
    assert [row["path"] for row in read_csv(tmp_path / "rejects.csv")] == ["c.jpg"]
