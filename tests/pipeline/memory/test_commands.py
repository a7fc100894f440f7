"""Commands on features that are more than memory may hold: the same heads, and samples that are told."""

import errno
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.images.scan import ImageFile
from headstart.pipeline.data.similar import near_duplicate_groups
from headstart.pipeline.featured import cache_features
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.head import build_head, fit_head
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.labels.finding import likely_errors, nearest_agreeing
from headstart.pipeline.memory import limits, loading
from headstart.pipeline.memory.on_disk import Features, FeaturesOnDisk
from headstart.pipeline.neighbours import Neighbours
from headstart.pipeline.runs import Run
from headstart.pipeline.scoring.baselines import fitted_logistic, logistic_chances
from headstart.pipeline.scoring.folds import sampled_folds, stratified
from headstart.pipeline.scoring.unlike import Reference
from headstart.tests.conftest import SMALL_FLAGS, Cli

TINY = "0.00001"  # GiB: 10 KB
COLUMNS = {"low": slice(0, 24), "high": slice(24, 64)}


def drawn_features(count: int, seed: int = 0) -> LabelledFeatures:
    draw, labels = np.random.default_rng(seed), np.arange(count) % 3
    centres = np.random.default_rng(9).normal(size=(3, 64))
    views = [(centres[labels] + draw.normal(size=(count, 64))).astype(np.float16) for _ in range(3)]
    features, *views = (view.astype(np.float32) for view in views)
    return LabelledFeatures(features, labels, 3, COLUMNS, views)


SCATTERED = np.random.default_rng(1).permutation(900)[:700]


@pytest.mark.parametrize(
    ("rows", "views", "cuts"),
    [(slice(None), 0, ["low", "high"]), (SCATTERED, 2, ["low", "high"]), (SCATTERED, 0, ["high"])],
)
def test_a_head_is_the_same_to_the_bit(rows: slice | np.ndarray, views: int, cuts: list[str], tmp_path: Path) -> None:
    train, val = drawn_features(900), drawn_features(200, seed=1)
    train, val = (replace(one, views=one.views[:views]) for one in (train, val))
    config = HeadConfig(units=(16,), epochs=3, batch_size=32)
    found = []
    for one, other in ((train, val), (train.on_disk(tmp_path), val.on_disk(tmp_path))):
        trained = fit_head(one.at(cuts).take(rows), other.at(cuts), config)
        found.append((trained.history, [weight.tobytes() for weight in trained.model.get_weights()]))
    assert found[0] == found[1]


def test_a_set_that_memory_holds_is_standardised_as_before() -> None:
    train = drawn_features(900)
    blocks = np.array_split(train.features, -(-900 // 256))
    mean = sum(block.sum(axis=0, dtype=np.float64) for block in blocks) / 900
    (layer,) = [one for one in build_head(train, HeadConfig(units=())).layers if one.name == "standardise"]
    np.testing.assert_array_equal(np.ravel(layer.mean), mean.astype(np.float32))


@contextmanager
def little_memory() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(limits, "total_memory", lambda: 4 * 10_000)
    try:
        yield
    finally:
        patch.undo()


def weights(run: Path) -> list[bytes]:
    one = Run.open(run)
    return [weight.tobytes() for weight in one.load_model(one.head_file).get_weights()]


@pytest.mark.slow
def test_head_and_evaluate_give_the_same_on_disk(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    options = ("--store", extraction.store, *SMALL_FLAGS, "--max-rejects=1", "--epochs=2", "--units=8", "--views=2")
    first = headstart("head", prepared, "--run", tmp_path / "a", *options)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    _, shown, told = headstart.whole(
        "head", prepared, "--run", tmp_path / "b", *options, "--memory", TINY, "--scratch", scratch
    )
    second, said = json.loads(shown), " ".join(told.split())
    assert "of memory, over --memory 1e-05: they are read from scratch files of" in said
    assert f"in {scratch}, which gives the same heads" in said
    assert list(scratch.iterdir()) == []
    assert first["val"] == second["val"]
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    a, b = (json.loads((tmp_path / run / "calibration.json").read_text())["head"] for run in "ab")
    assert a["distance"] == b["distance"]
    settings = json.loads((tmp_path / "b" / "config.json").read_text())["features"]
    assert not {"memory", "scratch"} & set(settings)  # a run names no place to write to

    whole = headstart("evaluate", tmp_path / "a"), headstart("evaluate", tmp_path / "a", "--folds", "3")
    with little_memory():
        pieces = headstart("evaluate", tmp_path / "a"), headstart("evaluate", tmp_path / "a", "--folds", "3")
        told = headstart.whole("evaluate", tmp_path / "a")[2]
    assert "a quarter of all memory: they are read" in " ".join(told.split())
    assert whole[0]["head"] == pieces[0]["head"]
    assert whole[1]["confusion"] == pieces[1]["confusion"]
    assert [path.name for path in extraction.store.iterdir() if ".partial." in path.name] == []


def test_a_scratch_folder_of_a_run_from_elsewhere_is_not_used(run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["features"] |= {"scratch": str(tmp_path), "memory": 1e-6}
    (run / "config.json").write_text(json.dumps(config))
    extraction = Run.open(run).extraction_config()
    assert (extraction.scratch, extraction.memory) == (None, 0.0)


@pytest.mark.parametrize(("option", "message"), [
    (("--memory", "-1"), "--memory must be over 0, or 0 to choose. Received: -1.0"),
    (("--memory", "nan"), "--memory must be a finite number. Received: nan"),
    (("--memory", "1e300"), "--memory must be at most 1e+18. Received: 1e+300"),
    (("--max-pixels", "9" * 30), f"--max-pixels must be at most 1e+18. Received: {'9' * 30}"),
    (("--units", "9" * 22), f"--units must be from 1 to 1048576, or none alone. Received: {'9' * 22}"),
    (("--learning-rate", "1e300"), "--learning-rate must be at most 1e+18. Received: 1e+300"),
    (("--scratch", "/nowhere"), "--scratch must be a folder that exists. Received: /nowhere"),
])  # fmt: skip
def test_wrong_options_are_told(headstart: Cli, prepared: Path, tmp_path: Path, option, message: str) -> None:
    assert message in headstart.error("head", prepared, "--run", tmp_path / "run", *option, code=2)


def test_a_disk_without_room_is_told_in_one_line(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=5))
    options = ("--store", extraction.store, *SMALL_FLAGS, "--max-rejects=1", "--memory", TINY)
    said = headstart.error("head", prepared, "--run", tmp_path / "run", *options)
    assert "name a larger disk by --scratch, or raise --memory" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.soak
def test_a_sweep_tells_that_its_baselines_saw_a_sample(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    space = tmp_path / "space.toml"
    space.write_text("layers = 0\nepochs = 2\nbatch_size = 32\noptimizer = 'adam'\n")
    options = ("--store", extraction.store, *SMALL_FLAGS, "--max-rejects=1", "--trials=2", "--space", space)
    for folds in ((), ("--folds", "3")):
        names = [tmp_path / f"{name}{len(folds)}" for name in ("memory", "disk")]
        found = [
            headstart("sweep", prepared, "--study", f"{name}.db", "--run", name, *options, *folds, *more)
            for name, more in zip(names, ((), ("--memory", "0.00006")), strict=True)
        ]
        assert found[0]["best"]["loss"] == found[1]["best"]["loss"]
        assert found[0]["best"]["head"] == found[1]["best"]["head"]
        assert ["sample" in one for one in found[0]["baselines"]] == [False, False]
        assert all(0 < one["sample"] < 30 for one in found[1]["baselines"])
        assert weights(names[0]) == weights(names[1])
    text = headstart.text("sweep", prepared, "--study", f"{names[1]}.db", "--run", tmp_path / "c", *options, *folds)
    assert "in favour of the heads" in text


def test_a_sample_has_the_classes_of_each_fold_in_proportion() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 4])
    np.testing.assert_array_equal(stratified(labels, 904), np.arange(904))
    rows = stratified(labels, 90)
    assert (np.diff(rows) > 0).all()
    assert np.bincount(labels[rows]).tolist() == [59, 29, 2]
    order = np.random.default_rng(0).permutation(904)
    of_val = np.sort(order[:300])
    rows, ((train, val),) = sampled_folds(labels, [(np.setdiff1d(order, of_val), of_val)], 90)
    assert set(rows[val]) <= set(of_val)
    assert not set(rows[train]) & set(of_val)
    assert len(train) + len(val) == len(rows)
    assert len(val) == pytest.approx(30, abs=3)
    assert sampled_folds(labels, [(slice(0, 500), slice(500, None))], 90)[1][0][1].max() < 100


@pytest.fixture
def both(tmp_path: Path) -> tuple[np.ndarray, FeaturesOnDisk]:
    features = drawn_features(900)
    disk = features.on_disk(tmp_path).features
    assert isinstance(features.features, np.ndarray)
    assert isinstance(disk, FeaturesOnDisk)
    return features.features, disk


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.pipeline.memory.on_disk._BLOCK_BYTES", 4 * 64 * 100)


@pytest.mark.usefixtures("small_blocks")
def test_neighbours_on_disk_are_the_nearest(both: tuple[np.ndarray, FeaturesOnDisk]) -> None:
    memory, disk = both
    expected = Neighbours(memory).nearest(memory[:40], 7)
    assert (expected.rows[:, 0] == np.arange(40)).all()
    for searched, queries in ((disk, memory[:40]), (memory, disk.take(slice(40))), (disk, disk.take(slice(40)))):
        found = Neighbours(searched).nearest(queries, 7)
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_allclose(found.distances, expected.distances, atol=1e-6)
    assert Neighbours(disk.take(slice(3))).nearest(memory[:2], 5).rows.shape == (2, 3)
    reference = Reference.of(memory[::9])
    assert reference.usual_distance(disk) == reference.usual_distance(memory)


@pytest.mark.usefixtures("small_blocks")
def test_logistic_regression_scores_pieces_as_it_scores_all(both: tuple[np.ndarray, FeaturesOnDisk]) -> None:
    memory, disk = both
    model = fitted_logistic(memory, np.arange(900) % 3, 0.1)
    found, expected = (logistic_chances(model, features, 3) for features in (disk, memory))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_likely_label_errors_are_the_same_on_disk(both: tuple[np.ndarray, FeaturesOnDisk]) -> None:
    labels = np.arange(900) % 3
    labels[::50] = (labels[::50] + 1) % 3

    def found(features: Features, most: int = 900) -> np.ndarray:
        wrong, _ = likely_errors(features, labels, np.arange(900), "abc", 0, most)
        return np.flatnonzero(wrong)

    memory, disk = map(found, both)
    np.testing.assert_array_equal(memory, disk)
    assert set(found(both[1], 300)) >= set(range(0, 900, 50)) & set(memory.tolist())
    near = [nearest_agreeing(features, labels, np.ones(900, bool), memory[:3], labels[memory[:3]]) for features in both]
    assert near[0] == near[1]


@pytest.mark.usefixtures("small_blocks")
def test_near_duplicates_are_the_same_on_disk(
    prepared: Path, both: tuple[np.ndarray, FeaturesOnDisk], monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.features.images.columns.inspected import inspect_images

    paths = sorted(str(path) for path in prepared.rglob("*.jpg"))[:12]
    images = [image for (image,) in inspect_images(paths) if isinstance(image, ImageFile)]
    copies = [images[0], images[3]]
    rows = np.r_[np.arange(len(images)), 0, 3]
    everything = [*images, *copies]
    memory, disk = both[0][rows], both[1].take(rows)
    assert near_duplicate_groups(everything, memory) == near_duplicate_groups(everything, disk)


def test_features_lie_on_disk_if_little_memory_is_free_and_a_read_only_store_gets_no_files(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = cache_features(prepared, small, extraction)
    train = cached.of("train")
    expected = cached.labelled(train).features
    monkeypatch.setattr(loading, "free_memory", lambda: 2 * expected.nbytes - 2)

    def read_only(dir: Path) -> None:
        assert dir == extraction.store
        raise OSError(errno.EROFS, "Read-only file system", str(dir))

    monkeypatch.setattr(loading.tempfile, "TemporaryFile", read_only)
    found = cached.labelled(train).features
    assert isinstance(found, FeaturesOnDisk)
    assert Path(tempfile.gettempdir()) in found._files[0].path.parents
    np.testing.assert_array_equal(found[:], expected)
    monkeypatch.setattr(loading, "free_memory", lambda: 2 * expected.nbytes)
    assert isinstance(cached.labelled(train).features, np.ndarray)


def test_study_and_advise_tell_what_memory_left_out(
    headstart: Cli, prepared: Path, extraction: ExtractionConfig, tmp_path: Path
) -> None:
    options = ("--store", extraction.store, *SMALL_FLAGS, "--max-rejects=1")
    width = 576
    fits = 24 * 14 * width / 2**30  # 14 images of 6 copies of 4 bytes
    told = " ".join(headstart.text("advise", prepared, *options, "--memory", f"{fits:.9f}").split())
    assert "judged on 14 of 3" in told
    assert "images, for memory holds no more; raise --memory" in told
    said = headstart.error("advise", prepared, *options, "--memory", f"{fits / 3:.9f}", code=2)
    assert "--memory: holds the features of 4 images, too few to judge on; raise it" in said
    found = headstart(
        "study", prepared, *options, "--memory", f"{8 * 16 * width / 2**30:.9f}", "--sizes=4", "--seeds=2"
    )
    assert any(note.startswith("memory holds no more than 1") for note in found["notes"])
