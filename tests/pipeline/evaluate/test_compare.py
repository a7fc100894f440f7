import csv
import json
import re
from pathlib import Path

import pytest
from headstart.features.errors import OptionError, RunError
from headstart.pipeline.evaluate.compare import compare
from scipy.stats import binomtest


def make_run(folder: Path, logits: list[float], labels: str, learning_rate: float = 0.1, column: str = "head") -> Path:
    """A run that was evaluated: label `a` or `b` of each example, and its logit for `b`."""
    folder.mkdir()
    (folder / "head.keras").touch()
    config = {
        "class_names": ["a", "b"], "seed": 0, "head": {"learning_rate": learning_rate, "epochs": 3},
        "features": {"cut": ["x"], "store": str(folder)}, "examples": {"train": "0" * 64},
        "data": str(folder), "weights_digest": "0" * 64, "fingerprints": {"x": "0" * 64},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.json").write_text(json.dumps({"head": {"seconds": 1.5}, "finetune": {"seconds": 60.0}}))
    with (folder / "predictions-test.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "digest", "label", f"{column}:b"])
        writer.writerows(
            [f"{n}.jpg", f"{n // 2}", label, z] for n, (label, z) in enumerate(zip(labels, logits, strict=True))
        )
    return folder


LABELS = "aabb" * 10


def right(wrong: set[int]) -> list[float]:
    """Logits that are right but for the examples numbered."""
    return [(1 if label == "b" else -1) * (-1 if n in wrong else 1) for n, label in enumerate(LABELS)]


def test_the_best_two_are_tested_on_the_same_examples(tmp_path: Path) -> None:
    worst = make_run(tmp_path / "worst", right(set(range(20))), LABELS)
    best = make_run(tmp_path / "best", right({0}), LABELS, learning_rate=0.2)
    second = make_run(tmp_path / "second", right({1, 2, 3, 4, 5, 6, 7, 8}), LABELS)
    result = compare([worst, best, second])
    rows, test = result.rows, result.test
    assert [Path(row.run).name for row in rows] == ["best", "second", "worst"]
    assert [row.accuracy for row in rows] == [39 / 40, 32 / 40, 20 / 40]
    assert rows[0].accuracy_interval[0] < 39 / 40 < rows[0].accuracy_interval[1]
    assert rows[0].settings == {"head.learning_rate": 0.2}
    assert rows[0].seconds == 1.5
    assert (test.first, test.second, test.n) == (f"{best} (head)", f"{second} (head)", 40)
    assert (test.only_first, test.only_second) == (8, 1)
    assert test.p == pytest.approx(binomtest(8, 9).pvalue)


def test_examples_are_matched_whatever_their_order(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", right({0}), LABELS)
    other = make_run(tmp_path / "other", right({0}), LABELS)
    file = other / "predictions-test.csv"
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *lines[::-1]]))
    test = compare([one, other]).test
    # Copies of one image with one label can't be told apart, and stand in for each other.
    assert test.only_first + test.only_second <= 2


def test_no_difference_is_no_difference(tmp_path: Path) -> None:
    one, other = (make_run(tmp_path / name, right({5}), LABELS) for name in ("one", "other"))
    assert compare([one, other]).test.p == 1.0


def test_what_can_not_be_compared_is_named(headstart, tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", right(set()), LABELS)
    shorter = make_run(tmp_path / "shorter", right(set())[:8], LABELS[:8])
    with pytest.raises(RunError, match=r"shorter: was evaluated on other examples .* with the same --data"):
        compare([one, shorter])
    with pytest.raises(RunError, match=r"^\S+one: has no predictions-val\.csv; `headstart evaluate"):
        compare([one, shorter], "val")
    with pytest.raises(OptionError, match="names a run twice"):
        compare([one, one])
    assert "nothing to be compared with" in headstart.error("compare", one, code=2)
    damaged = make_run(tmp_path / "damaged", right(set()), LABELS)
    file = damaged / "predictions-test.csv"
    for content in (
        file.read_text().replace(",a,", ",c,"),
        "path,digest,label,head:b\n",
        "nothing",
        file.read_text() + "x,",
        file.read_text().replace("head:b", "other:b"),
        re.sub(r",-?1$", ",1e308", file.read_text(), flags=re.MULTILINE),
    ):
        file.write_text(content)
        with pytest.raises(RunError, match=r"predictions-test\.csv: .*writes it anew"):
            compare([one, damaged])
    other = make_run(tmp_path / "[b]other", right({1}), LABELS, learning_rate=0.3)
    result = headstart("compare", one, other)
    assert result["test"]["only_first"] == 1
    assert [row["accuracy"] for row in result["runs"]] == [1.0, 39 / 40]
    text = headstart.text("compare", one, other)
    assert "may be chance" in text
    assert "[b]other" in text.replace("\n", "")


def test_settings_without_effect_are_left_out(headstart, tmp_path: Path) -> None:
    one, other = (make_run(tmp_path / name, right({5}), LABELS) for name in ("one", "other"))
    for run, units in ((one, [4]), (other, [])):
        config = json.loads((run / "config.json").read_text())
        config |= {"head": config["head"] | {"units": units}, "finetune": {"epochs": len(units)}}
        (run / "config.json").write_text(json.dumps(config))
        (run / "metrics.json").write_text(json.dumps({"finetune": {"best_epoch": 0}}))
    assert [row.settings for row in compare([one, other]).rows] == [{"head.units": [4]}, {"head.units": []}]
    assert "none" in headstart.text("compare", one, other)


def test_runs_are_columns_and_nothing_is_cut_at_80_columns(headstart, tmp_path: Path) -> None:
    names = [f"{'a long name of a run ' * 3}{number}" for number in range(5)]
    runs = [make_run(tmp_path / name, right({number}), LABELS, 0.1 * number) for number, name in enumerate(names)]
    settings = json.loads((runs[1] / "config.json").read_text())
    settings["examples"]["train"] = "1" * 64
    (runs[1] / "config.json").write_text(json.dumps(settings))
    for run in runs:
        rows = [f"{at}.jpg,{at},a,train" for at in range(20 if run == runs[1] else 30)]
        (run / "examples.csv").write_text("\n".join(["path,digest,label,split", *rows, "v.jpg,v,a,val"]))
    text = headstart.text("compare", *runs)
    lines = text.splitlines()
    assert "…" not in text
    assert all(len(line) <= 80 for line in lines if line[:1] in "┏┃┡│└")
    packed = re.sub(r"\s", "", "".join(re.sub("[│┃]", "", column) for column in columns_of(lines)))
    for name in names:
        assert re.sub(r"\s", "", name) in packed
    assert {"0" * 8, "1" * 8}.isdisjoint(text.split())
    assert "20,20ofthemasinthefirstrun" in packed
    intervals = [line.count("0.8712 - 0.9956") for line in lines if "95 % interval" in line]
    assert sum(intervals) == 5  # columns that fit, unfolded
    assert [line.split("│")[1].strip() for line in lines if "accuracy" in line] == ["accuracy"] * text.count("accuracy")


def columns_of(lines: list[str]) -> list[str]:
    """The text of each column of the tables, from top to bottom."""
    found: list[str] = []
    for line in lines:
        if line[:1] in "┏":
            found += [""] * 9
        if line[:1] in ("│", "┃"):
            for at, cell in enumerate(re.split("[│┃]", line)[1:-1]):
                found[at - 9] += cell.strip()
    return found
