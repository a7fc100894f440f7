"""Finding likely label errors."""

import csv
import shutil
import socket
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError
from headstart.pipeline.labels import finding
from headstart.pipeline.labels.config import LabelsConfig
from headstart.pipeline.labels.finding import likely_errors, nearest_agreeing, suggestions
from headstart.pipeline.labels.labels import labels
from headstart.pipeline.labels.result import FoundLabels
from headstart.tests.browser import require_opens
from headstart.tests.conftest import SMALL_FLAGS, Cli
from threadpoolctl import threadpool_info


def blobs(count: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Features of classes that lie apart, and the labels."""
    rng = np.random.default_rng(1)
    given = np.arange(count) % classes
    return (rng.normal(size=(count, 8)) + 6 * np.eye(classes, 8)[given]).astype(np.float32), given


@pytest.mark.parametrize("classes", [2, 5])
def test_flipped_labels_are_found(classes: int) -> None:
    features, true = blobs(300, classes)
    given, flipped = true.copy(), np.arange(0, 300, 21)
    given[flipped] = (true[flipped] + 1) % classes
    wrong, chances = likely_errors(features, given, np.arange(300), "abcde"[:classes], seed=0)
    found = set(np.flatnonzero(wrong))
    assert found <= set(flipped)
    assert len(found) >= 0.8 * len(flipped)
    assert (chances[flipped].argmax(axis=1) == true[flipped]).all()
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)


def test_copies_do_not_vouch_for_each_other() -> None:
    """A wrong label of three copies is seen by models without any of the three."""
    features, true = blobs(120)
    given, groups = true.copy(), np.arange(120)
    features[[2, 4]], groups[[2, 4]], given[[0, 2, 4]] = features[0], 0, 1
    wrong, _ = likely_errors(features, given, groups, "ab", seed=0)
    assert set(np.flatnonzero(wrong)) == {0, 2, 4}


def test_a_class_needs_two_images() -> None:
    features, given = blobs(20)
    given[:] = 0
    given[[3, 5]], groups = 1, np.arange(20)
    groups[5] = 3  # a copy
    with pytest.raises(DataError, match="class 'b' has 1 images apart from copies"):
        likely_errors(features, given, groups, "ab", seed=0)


def test_neighbours_have_the_suggested_label_and_are_trusted() -> None:
    features, given = blobs(40)
    trusted = np.ones(40, bool)
    trusted[::4] = False
    (near,) = nearest_agreeing(features, given, trusted, np.array([1]), np.array([0]))
    assert len(near) == 4
    assert all(given[at] == 0 and trusted[at] for at in near)


def test_suggestions_resolve_conflicts() -> None:
    chances = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.2, 0.3, 0.5]])
    found = suggestions(chances, np.array([0, 0, 1, 0, 1]), [[1, 2], [3, 4]])
    assert found.tolist() == [1, 1, -1, 2, 2]  # alone; a copy of a likely and an unlikely label; two unlikely labels


def test_fits_use_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, fit = set[int](), finding.fitted_logistic

    def watched(*given: Any) -> Any:
        threads.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return fit(*given)

    monkeypatch.setattr(finding, "fitted_logistic", watched)
    likely_errors(*blobs(10, 5), np.arange(10), "abcde", seed=0)
    assert threads == {1}


@pytest.fixture
def mislabelled(prepared: Path, tmp_path: Path) -> Path:
    """The drawn images with split folders; a cat of train lies among the dogs, and a copy of a dog among the cats."""
    data = tmp_path / "=data"
    shutil.copytree(prepared, data, ignore=shutil.ignore_patterns("broken.*", "rejects.csv", "prepared.json"))
    cat, dog = (sorted((data / "train" / name).iterdir())[0] for name in ("cat", "dog"))
    shutil.copy(dog, data / "train" / "cat" / "<b>copy.jpg")
    cat.rename(data / "train" / "dog" / "=cat.jpg")
    return data


@pytest.mark.slow
def test_the_page_opens_in_a_browser(mislabelled: Path, extraction: ExtractionConfig, tmp_path: Path, headstart: Cli):
    page = tmp_path / "page.html"
    headstart("labels", mislabelled, f"--store={extraction.store}", *SMALL_FLAGS, f"--html={page}")
    require_opens(page)


def test_the_command(mislabelled: Path, extraction: ExtractionConfig, tmp_path: Path, headstart: Cli) -> None:
    given = ("labels", mislabelled, f"--store={extraction.store}", *SMALL_FLAGS)
    found = headstart(*given, f"--csv={tmp_path / 'labels.csv'}", f"--html={tmp_path / 'page.html'}")
    counted = [len(list(mislabelled.glob(f"{split}/*/*"))) for split in ("train", "val", "test")]
    assert (found["examples"], found["untouched"], found["applied"]) == (sum(counted[:2]), counted[2], 0)
    (conflict,) = found["conflicts"]
    assert {one["label"] for one in conflict} == {"cat", "dog"}
    assert "train/cat/<b>copy.jpg" in {one["path"] for one in conflict}
    for one in (*found["issues"], *conflict):
        assert not one["path"].startswith("test/")
        assert (mislabelled / one["path"]).is_file()
        assert one["label"] != one["suggested"]
        assert 0 <= one["score"] <= 1
    scores = [one["score"] for one in found["issues"]]
    assert scores == sorted(scores)
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "suggested", "score", "conflict", "action"]
    assert {one["path"] for one in (*found["issues"], *conflict)} == {row["path"] for row in rows}
    assert {row["action"] for row in rows} == {""}
    page = (tmp_path / "page.html").read_text()
    assert "<b>copy" not in page
    assert "&lt;b&gt;copy.jpg" in page
    assert page.count("data:image/jpeg") >= 2
    assert (found["csv"], found["html"]) == (str(tmp_path / "labels.csv"), str(tmp_path / "page.html"))
    assert [bool(one["suggested"]) for one in conflict].count(True) == 1
    assert {row["path"] for row in rows if row["conflict"] == "1"} == {one["path"] for one in conflict}
    assert "conflict 1: a copy has another label" in page
    told = headstart.text(*given)
    assert "1 groups of copies" in told
    assert "look at them with --html FILE" in told
    told = headstart.text(*given, f"--csv={tmp_path / 'labels.csv'}", f"--html={tmp_path / 'page.html'}")
    assert f"{tmp_path / 'labels.csv'} has {len(rows)} images" in told
    assert f"the page is {tmp_path / 'page.html'}" in told
    assert "FILE" not in told


def test_relabelling_costs_no_forward_pass(
    mislabelled: Path, extraction: ExtractionConfig, tmp_path: Path, headstart: Cli
) -> None:
    given = (f"--store={extraction.store}", *SMALL_FLAGS)
    headstart("features", mislabelled, *given)
    table = tmp_path / "labels.csv"
    table.write_text("path,label,suggested,score,action\ntrain/dog/=cat.jpg,dog,cat,0.1,suggested\n")
    assert headstart("labels", mislabelled, *given, f"--apply={table}")["applied"] == 1
    assert (mislabelled / "train/cat/=cat.jpg").is_file()
    again = headstart("features", mislabelled, *given)
    assert (again["extracted"], again["rejected"]) == (0, 0)


def test_nothing_reaches_the_network(
    mislabelled: Path, extraction: ExtractionConfig, small: FeatureConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert isinstance(labels(mislabelled, small, extraction), FoundLabels)


def test_without_cleanlab(mislabelled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, headstart: Cli) -> None:
    monkeypatch.setattr("headstart.pipeline.labels.finding.find_spec", lambda name: util.find_spec(f"no_{name}"))
    told = headstart.error("labels", mislabelled, f"--store={tmp_path / 'store'}", *SMALL_FLAGS, code=2)
    assert "pip install 'headstart[labels]'" in told
    assert not (tmp_path / "store").exists()


def test_a_file_with_actions_is_not_replaced(
    mislabelled: Path, extraction: ExtractionConfig, small: FeatureConfig, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label,suggested,score,conflict,action\ntrain/dog/=cat.jpg,dog,cat,0.1,,suggested\n")
    with pytest.raises(DataError, match=r"labels.csv, row 2: has an action"):
        labels(mislabelled, small, extraction, LabelsConfig(csv=table))
    assert "suggested\n" in table.read_text()


@pytest.mark.real
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_flipped_photographs(seed: int, shared: Path, photographs_store: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    photographs = sorted((shared / "data" / "dogs_vs_cats").rglob("*.jpg"))
    flipped = set(rng.choice(len(photographs), len(photographs) // 20, replace=False).tolist())
    other = {"cats": "dogs", "dogs": "cats"}
    rows = ["path,label,split"]
    for at, path in enumerate(photographs):
        name = path.parent.name
        rows.append(f"{path},{other[name] if at in flipped else name},{'val' if at % 10 == 0 else 'train'}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    from headstart.pipeline.data.config import DataConfig

    features = FeatureConfig(backbone="efficientnet_lite0")
    reading = DataConfig(allow_outside=True)
    found = labels(tmp_path / "list.csv", features, ExtractionConfig(store=photographs_store), reading=reading)
    assert isinstance(found, FoundLabels)
    right = {str(photographs[at]) for at in flipped} & {issue.name for issue in found.issues}
    assert len(right) >= 0.95 * len(flipped)
    assert len(right) >= 0.85 * len(found.issues)
