"""Searching over heads: what is chosen, what is kept, and that nothing is lost or done twice."""

import errno
import fcntl
import gc
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from headstart.features.backbones.cuts import Cut
from headstart.features.cluster.config import ClusterConfig
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError, RunError, StoreError
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import Examples
from headstart.pipeline.evaluate.evaluate import evaluate
from headstart.pipeline.featured import FeaturedExamples, cache_features
from headstart.pipeline.head.config import HEAD_VERSION, HeadConfig
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.runs import Run
from headstart.pipeline.scoring.baselines import fit_baselines
from headstart.pipeline.sweep.choices import Choice
from headstart.pipeline.sweep.config import SweepConfig, parse_duration
from headstart.pipeline.sweep.leaderboard import board, figures_of, ranked
from headstart.pipeline.sweep.processes import search
from headstart.pipeline.sweep.pruning import EpochPruner
from headstart.pipeline.sweep.space import CutChoice, Space, read_choices
from headstart.pipeline.sweep.study import Study, remove_curves
from headstart.pipeline.sweep.sweep import SweepResult, sweep
from headstart.pipeline.sweep.trials import SearchData
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SMALL_SPACE = """
layers = [0, 1]
units = { low = 2, high = 16, log = true }
dropout = 0.0
weight_decay = 0.0
learning_rate = { low = 3e-2, high = 1e-1, log = true }
optimizer = "adam"
batch_size = 32
label_smoothing = [0.0, 0.1]
epochs = 3
"""


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    file = tmp_path / "space.toml"
    file.write_text(SMALL_SPACE)
    return file


BAD, GOOD = Cut("backbone", "bad"), Cut("backbone", "good")


def of_two(bad: Cut = BAD, good: Cut = GOOD) -> CutChoice:
    return CutChoice(((bad,), (good,)), free=True, names={bad: bad.name, good: good.name})


@pytest.fixture
def space(space_file: Path) -> Space:
    return Space(read_choices(space_file), of_two())


def material(count: int = 120) -> SearchData:
    """Two cuts: one tells the classes apart, the other is noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    features = rng.normal(size=(count, 8)).astype(np.float32)
    features[:, 4:] += 4 * labels[:, np.newaxis]
    columns = {BAD: slice(0, 4), GOOD: slice(4, 8)}
    return SearchData(LabelledFeatures(features, labels, 2, columns), [(slice(0, 80), slice(80, count))])


def params_of(study: Study) -> list[str]:
    return [json.dumps(trial.params, sort_keys=True) for trial in study.finished()]


def test_a_search_finds_what_is_good_and_repeats_itself(space: Space, tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        study = Study(tmp_path / name / "study.db", space, "tpe", 0)
        search(study, material(), SweepConfig(trials=4))
        trials = study.finished()
        assert len(trials) == 4
        found.append([(trial.params, trial.value, trial.state) for trial in trials])
        best = study.optuna.best_trial
        assert best.params["use good"]
        assert best.user_attrs["accuracy"] > 0.65
        assert (study.logs / "trial-0").is_dir()
    assert found[0] == found[1]
    search(study, material(), SweepConfig(trials=4))  # nothing is left to do
    assert len(study.optuna.trials) == 4


def test_what_was_cut_off_is_done_again_and_counts_once(space: Space, tmp_path: Path) -> None:
    study = Study(tmp_path / "study.db", space, "random", 0)
    claimed, _ = study.claim(3)
    other = Study(tmp_path / "study.db", space, "random", 0)
    assert other.claim(1) == (None, 1)  # somebody is at it
    second, _ = other.claim(3)
    assert second.params != claimed.params
    other.give_back(second)
    other.give_back(second)  # as where it was cut off before it was through
    assert other.claim(3)[0].params == second.params
    del other  # as where it is killed
    gc.collect()
    again, _ = study.claim(3)  # which has none in hand, and so that was cut off, too
    assert again.params == claimed.params
    study.optuna.tell(again, 1.0)
    study.give_back(again)  # too late: it is finished
    search(study, material(), SweepConfig(trials=3))
    assert len(study.finished()) == 3
    assert len(set(params_of(study))) == 3
    assert not [trial for trial in study.optuna.trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]


def test_without_flock_a_study_knows_the_workers_of_its_own_process(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)  # as on a disk where locks are POSIX's
    one, other = (Study(tmp_path / "study.db", space, "random", 0) for _ in range(2))
    one.claim(1)
    assert other.claim(1) == (None, 1)
    code = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    for file in tmp_path.glob(".study.db.*.worker"):  # the locks keep out other processes all the same
        assert subprocess.run([sys.executable, "-c", code, file], capture_output=True, check=False).returncode
    del one
    gc.collect()
    assert other.claim(1)[0]


def test_files_of_killed_workers_are_removed_when_the_study_is_opened(tmp_path: Path, space: Space) -> None:
    left = tmp_path / ".study.db.0123456789abcdef.worker"
    left.touch()
    (tmp_path / ".study.db.folder.worker").mkdir()
    studies = [Study(tmp_path / "study.db", space, "random", 0)]
    (alive,) = (path for path in tmp_path.glob(".study.db.*.worker") if path.is_file())
    assert alive != left
    studies.append(Study(tmp_path / "study.db", space, "random", 0))
    files = [path for path in tmp_path.glob(".study.db.*.worker") if path.is_file()]
    assert (alive in files, len(files)) == (True, len(studies))


@pytest.mark.parametrize("sampler", ["random", pytest.param("grid", marks=pytest.mark.slow)])
def test_no_head_is_tried_twice(space: Space, tmp_path: Path, sampler: str) -> None:
    study = Study(tmp_path / "study.db", space, sampler, 1)
    for _ in range(12):
        trial, _ = Study(tmp_path / "study.db", space, sampler, 1).claim(12)  # as a process begun anew would
        study.optuna.tell(trial.number, 1.0)
    assert len(set(params_of(study))) == 12


@pytest.mark.slow
def test_a_grid_loses_no_head_to_a_kill_and_gives_out_none_that_fails_again(space: Space, tmp_path: Path) -> None:
    few = Space({**space.choices, "layers": Choice((0,)), "learning_rate": Choice((0.1,))}, space.cuts)
    grid = few.grid(0)

    def study() -> Study:
        return Study(tmp_path / "study.db", few, "grid", 0)

    for _ in grid[1:]:
        trial, _ = study().claim(100)
        study().optuna.tell(trial.number, 1.0)
    killed = study()
    last, _ = killed.claim(100)
    alive = study()
    assert alive.claim(100) == (None, 1)  # which may be left to it
    del killed
    gc.collect()
    again, _ = alive.claim(100)
    assert again.params == last.params
    alive.fail(again)
    assert study().claim(100) == (None, 0)


def test_a_head_whose_training_fails_is_left_and_one_that_lacked_room_or_was_stopped_is_done_again(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(tmp_path / "study.db", space, "random", 0)
    interrupt = RuntimeError("KeyboardInterrupt: <EMPTY MESSAGE>")  # what a library made of it
    for error in (OSError("no room"), MemoryError(), interrupt, ValueError("a bug")):
        asked = [KeyboardInterrupt] if error is interrupt else []
        monkeypatch.setattr("headstart.features.signals._signals.raised", asked)

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("headstart.pipeline.sweep.trials.fit_head", fail)
        with pytest.raises(type(error)):
            search(study, material(), SweepConfig(trials=1))
    trials = study.optuna.trials
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 4
    assert len({str(trial.params) for trial in trials}) == 1  # given back, and then done again
    assert study.claim(1)[0].params != trials[-1].params


@pytest.mark.slow
def test_a_grid_ends_where_all_is_done(space: Space, tmp_path: Path) -> None:
    grid = space.grid(0)
    linear, hidden = 3 * 2, 3 * 3 * 2  # learning rates by smoothings, and units
    assert len(grid) == 3 * (linear + hidden)
    few = Space(
        {**space.choices, "layers": Choice((0,)), "learning_rate": Choice((0.1,)), "label_smoothing": Choice((0,))},
        space.cuts,
    )
    study = Study(tmp_path / "study.db", few, "grid", 0)
    search(study, material(), SweepConfig(trials=100))
    assert len(study.finished()) == 3


KILLED = """
import sys
from pathlib import Path
from headstart.pipeline.sweep.study import Study, remove_curves
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.processes import search
from headstart.pipeline.sweep.space import Space, read_choices
from headstart.tests.pipeline.sweep.test_sweep import material, of_two
folder = Path(sys.argv[1])
space = Space(read_choices(folder / "space.toml"), of_two())
search(Study(folder / "study.db", space, "tpe", 0), material(), SweepConfig(trials=int(sys.argv[2])))
"""


def start(folder: Path, trials: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(trials)], cwd=Path(__file__).parents[1])


@pytest.mark.slow
def test_a_killed_search_and_two_at_once_end_with_the_number_asked_for(space: Space, tmp_path: Path) -> None:
    process = start(tmp_path, 12)
    study = Study(tmp_path / "study.db", space, "tpe", 0)
    while len(study.finished()) < 4:
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for other in [start(tmp_path, 12), start(tmp_path, 12)]:
        assert other.wait() == 0
    assert len(study.finished()) == 12
    assert len(set(params_of(study))) == 12


@pytest.mark.slow
def test_jobs_share_a_study(space: Space, tmp_path: Path) -> None:
    study = Study(tmp_path / "study.db", space, "tpe", 0)
    search(study, material(), SweepConfig(trials=8, jobs=2))
    assert len(study.finished()) == 8
    assert len({trial.user_attrs["worker"] for trial in study.finished()}) == 2


def test_a_time_limit_ends_the_search(space: Space, tmp_path: Path) -> None:
    study = Study(tmp_path / "study.db", space, "tpe", 0)
    search(study, material(), SweepConfig(trials=1000, timeout=0.5))
    assert 1 <= len(study.finished()) < 100


def test_folds_are_averaged(space: Space, tmp_path: Path) -> None:
    whole = material()
    rows = np.arange(120)
    parts = [(rows[rows % 3 != part], rows[rows % 3 == part]) for part in range(3)]
    study = Study(tmp_path / "study.db", space, "tpe", 0)
    search(study, replace(whole, folds=parts), SweepConfig(trials=1))
    (first,) = study.finished()
    events = EventAccumulator(str(study.logs / "trial-0"))
    events.Reload()
    assert "_hparams_/session_start_info" in events.summary_metadata  # what TensorBoard's HParams tab reads
    assert len(first.intermediate_values) == 3
    assert first.value == pytest.approx(first.intermediate_values[3])


def test_a_study_goes_on_with_the_data_read_as_when_it_was_begun(space: Space, tmp_path: Path) -> None:
    study = Study(tmp_path / "study.db", space, "tpe", 0)
    inner, names = DataConfig(layout="inner"), DataConfig(layout="names")
    assert study.read_as(inner) == inner
    study.require_same({"seed": 0})
    assert study.read_as(DataConfig()) == DataConfig(layout="v1")  # so far it is as a study of an earlier version
    study.keep_reading(inner)
    again = Study(tmp_path / "study.db", space, "tpe", 0)
    assert (again.read_as(DataConfig()), again.read_as(names)) == (inner, names)


def test_other_data_is_refused_by_name(space: Space, tmp_path: Path) -> None:
    study = Study(tmp_path / "study.db", space, "tpe", 0)
    study.require_same({"examples of train": "a", "features at mixed8": "x"})
    study.require_same({"examples of train": "a", "features at mixed8": "x"})
    with pytest.raises(OptionError, match="examples of train was a, is b") as told:
        study.require_same({"examples of train": "b", "features at mixed8": "x"})
    assert "mixed8" not in str(told.value)
    (tmp_path / "text").write_text("no database, and longer than the header of one" * 100)
    with pytest.raises(StoreError, match=r"--study .*text"):
        Study(tmp_path / "text", space, "tpe", 0)


@pytest.mark.slow
def test_a_study_with_heads_of_an_earlier_version_goes_on_and_says_so(
    prepared: Path, small: FeatureConfig, extraction: ExtractionConfig, tmp_path: Path, capsys
) -> None:
    def search(trials: int) -> int:
        config = SweepConfig(trials=trials, sampler="random")
        return len(sweep(prepared, path, tmp_path / "run", small, extraction, config, overwrite=True).finished)

    def record(version: int | None) -> None:
        study = optuna.load_study(study_name=None, storage=f"sqlite:///{path}")
        told = {name: value for name, value in study.user_attrs["identity"].items() if name != "version of heads"}
        study.set_user_attr("identity", told | ({} if version is None else {"version of heads": version}))

    path = tmp_path / "study.db"
    search(2)
    assert "earlier version" not in capsys.readouterr().err
    for trials, version in ((3, HEAD_VERSION - 1), (4, None)):
        record(version)
        assert search(trials) == trials
        assert "was begun by an earlier version of headstart" in capsys.readouterr().err
    record(HEAD_VERSION + 1)
    with pytest.raises(OptionError, match=f"version of heads was {HEAD_VERSION + 1}, is {HEAD_VERSION}"):
        search(5)


def test_baselines_are_those_of_scikit_learn() -> None:
    whole = material()
    logistic, nearest = fit_baselines(whole.labelled.features, whole.labelled.labels, whole.folds, 2)
    assert (logistic.name, nearest.name) == ("logistic regression", "nearest neighbours")
    assert logistic.accuracy > 0.9
    assert nearest.accuracy > 0.8
    assert logistic.loss < 0.5
    assert nearest.setting["k"] > 1


def test_logistic_regression_is_penalised_no_more_than_is_good() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    features = (rng.normal(size=(200, 4)) + 8 * labels[:, np.newaxis]).astype(np.float32)
    apart, _ = fit_baselines(features, labels, [(np.arange(150), np.arange(150, 200))], 2)
    assert apart.setting["C"] > 1
    assert apart.loss < 0.01


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("depth = 3", "no setting 'depth'"),
        ("layers = [0, 3]", "layers must be from 0 to 2"),
        ("units = { low = 10, high = 2 }", "units must be { low = A"),
        ("dropout = 1.5", "--dropout must be at least 0 and under 1"),
        ('dropout = "much"', "dropout must be numbers"),
        ("learning_rate = { low = 0.0, high = 1.0, log = true }", "over 0 where log"),
        ('optimizer = ["adam", "magic"]', "optimizer must be among adam"),
        ("epochs = 2.5", "epochs must be whole"),
        ("batch_size = []", "batch_size must have values"),
        ("units = [[512, 256], [1024]]", "units must be numbers"),
        ("units = [0, 64]", "units must be at least 1"),
        ("learning_rate = { low = 1e-4, high = inf, log = true }", "learning_rate must be { low"),
        ("layers = [", "can't be read"),
    ],
)
def test_a_bad_space_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "space.toml"
    file.write_text(text)
    with pytest.raises(OptionError) as told:
        read_choices(file)
    assert message in str(told.value)


@given(
    low=st.floats(1e-6, 1.0),
    factor=st.floats(1.01, 1e4),
    log=st.booleans(),
)
@settings(max_examples=50)
def test_a_grid_lies_within_its_range(low: float, factor: float, log: bool) -> None:
    points = Choice((low, low * factor), True, log).grid()
    assert points[0] == low
    assert points[-1] == low * factor
    assert len(points) == 3


def test_a_head_that_stands_twice_in_the_grid_is_tried_once(space: Space) -> None:
    fixed = Space({name: Choice((choice.values[0],)) for name, choice in space.choices.items()}, space.cuts)
    assert len(fixed.grid(0)) == 3  # bad, good, both; with none of them it is the last


def test_a_loss_that_is_no_number_is_passed_over() -> None:
    trial = optuna.create_study(pruner=optuna.pruners.NopPruner()).ask()
    pruner = EpochPruner(trial)
    stopped = [pruner(epoch, {"val_loss": loss}) for epoch, loss in enumerate([0.7, float("nan"), 0.5], 1)]
    assert trial.study.trials[0].intermediate_values == {1: 0.7, 2: 0.7, 3: 0.5}
    assert not any(stopped)
    assert [pruner(epoch, {"val_loss": 0.6}) for epoch in range(4, 8)] == [False, False, False, True]


def test_trials_are_pruned_by_the_figure_that_chooses() -> None:
    trial = optuna.create_study(pruner=optuna.pruners.NopPruner()).ask()
    pruner = EpochPruner(trial, "accuracy")
    rows = [(0.5, 0.6), (0.3, 0.7), (0.2, 0.6), (0.2, 0.7), (0.4, 0.5), (0.4, 0.5), (0.4, 0.5), (0.4, 0.5)]
    stopped = [pruner(epoch, {"val_loss": loss, "val_accuracy": right}) for epoch, (loss, right) in enumerate(rows, 1)]
    assert list(trial.study.trials[0].intermediate_values.values()) == [-0.6, *[-0.7] * 7]
    assert stopped == [False] * 7 + [True]  # the fourth epoch is as accurate as the second, and its loss is lower


@pytest.mark.parametrize("folds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_search_by_another_figure_shows_the_figure_itself(space_file: Path, tmp_path: Path, folds: int) -> None:
    space_file.write_text(SMALL_SPACE + 'class_weight = ["none", "balanced"]\n')
    space = Space(read_choices(space_file), of_two(), "balanced_accuracy")
    study = Study(tmp_path / "study.db", space, "tpe", 0)
    data = material()
    data = replace(data, folds=[*data.folds, (slice(40, 120), slice(0, 40))][:folds])
    search(study, data, SweepConfig(trials=4))
    trials = ranked(study.finished())
    assert {trial.params["class_weight"] for trial in study.finished()} == {"none", "balanced"}
    for trial in trials:
        figures = figures_of(trial)
        assert trial.value == -figures["balanced_accuracy"]
        assert set(figures) == {"loss", "accuracy", "balanced_accuracy"}
    assert figures_of(trials[0])["balanced_accuracy"] == max(figures_of(one)["balanced_accuracy"] for one in trials)
    whole = data.labelled
    baselines = fit_baselines(whole.features, whole.labels, data.folds, 2, "balanced_accuracy")
    table = board(study.finished(), baselines, "balanced_accuracy")
    assert [column.header for column in table.columns][1:4] == ["val loss", "val accuracy", "val balanced accuracy"]
    shown = [float(cell) for cell in table.columns[3].cells]
    assert shown == sorted(shown, reverse=True)
    assert min(shown) >= 0
    written = EventAccumulator(str(study.logs / f"trial-{trials[0].number}")).Reload()
    assert {"val_loss", "val_balanced_accuracy"} <= set(written.Tags()["tensors"])


def test_class_weights_are_fixed_or_searched_for(space_file: Path) -> None:
    for asked in ("none", "balanced"):
        space = Space(read_choices(space_file, asked), of_two(), "f1")
        params = space.nearest_to(HeadConfig())
        head, _ = space.suggest(optuna.trial.FixedTrial(params))
        assert (head.class_weight, head.choose_by, "class_weight" in params) == (asked, "f1", False)
    space_file.write_text('class_weight = ["none", "balanced"]')
    assert Space(read_choices(space_file), of_two()).nearest_to(HeadConfig())["class_weight"] == "none"
    with pytest.raises(OptionError, match=r"--class-weight balanced: .*leave one of them out"):
        read_choices(space_file, "balanced")
    space_file.write_text('class_weight = "heavy"')
    with pytest.raises(OptionError, match="class_weight must be among none, balanced"):
        read_choices(space_file)


def test_a_study_of_an_earlier_version_is_by_the_loss(space: Space, tmp_path: Path) -> None:
    study = Study(tmp_path / "study.db", space, "tpe", 0)
    search(study, material(), SweepConfig(trials=2))
    study.require_same({"seed": 0, "space of units": "1"})  # as they were, without the newer settings
    with closing(sqlite3.connect(study.path)) as connection:
        connection.execute("delete from trial_user_attributes where key = 'loss'")
        connection.commit()
    again = Study(tmp_path / "study.db", space, "tpe", 0)
    newer = {"seed": 0, "space of units": "1", "--choose-by": "loss", "space of class_weight": "none"}
    again.require_same(newer)
    best = ranked(again.finished())[0]
    assert figures_of(best) == {"loss": best.value, "accuracy": best.user_attrs["accuracy"]}
    with pytest.raises(OptionError, match=r"other data or settings: --choose-by was loss, is auc; give another"):
        again.require_same({**newer, "--choose-by": "auc"})


def test_baselines_are_chosen_by_the_same_figure() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(240) % 8 == 0).astype(np.int64)
    features = (rng.normal(size=(240, 6)) + labels[:, np.newaxis]).astype(np.float32)
    folds = [(slice(0, 160), slice(160, 240))]
    by_loss, by_f1 = (fit_baselines(features, labels, folds, 2, figure) for figure in ("loss", "f1"))
    assert all(set(one.fields()) == {"name", "setting", "loss", "accuracy", "f1"} for one in by_f1)
    assert all(set(one.fields()) == {"name", "setting", "loss", "accuracy"} for one in by_loss)
    assert all(best.loss <= other.loss for best, other in zip(by_loss, by_f1, strict=True))
    assert by_f1[1].setting != by_loss[1].setting  # few neighbours find a rare class


def test_the_nearest_choice_is_taken() -> None:
    assert Choice((64, 256, 1024)).nearest(900) == 1024
    assert Choice((64, 256, 1024)).nearest(64) == 64
    assert Choice((0.0, 0.5)).nearest(0.3) == 0.5
    assert Choice(("sgd", "adam")).nearest("adam") == "adam"
    assert Choice(("sgd", "lion")).nearest("adam") == "sgd"
    assert Choice((16, 64), between=True).nearest(100) == 64


def test_cuts_have_the_names_of_studies_that_exist() -> None:
    both = FeatureConfig(backbone="inception_v3+xception")
    assert str(CutChoice.of(both)) == ("inception_v3/mixed10, xception/block14, inception_v3/mixed10+xception/block14")
    apart = ("xception/block12", "xception/block13")
    assert str(CutChoice.of(replace(both, cut=apart))) == "xception/block12, xception/block13"
    assert str(CutChoice.of(FeatureConfig(cut=("mixed8", "mixed6+mixed8")))) == "mixed8, mixed6+mixed8"
    every = CutChoice.of(replace(both, cut=("xception/all",)))
    assert str(every).startswith("any of xception/block2, ")
    chosen = {f"use xception/block{n}": n in (3, 5) for n in range(2, 15)}
    assert [cut.block for cut in every.chosen_by(lambda name, _: chosen[name])] == ["block3", "block5"]


def test_the_search_begins_near_the_default_head(space: Space) -> None:
    nine, ten = (Cut("inception_v3", block) for block in ("mixed9", "mixed10"))
    default = Space(read_choices(None), of_two(nine, ten))
    params = default.nearest_to(HeadConfig().for_examples(2000))
    config, cuts = default.suggest(optuna.trial.FixedTrial(params))
    assert (config.units, config.dropout, config.optimizer, cuts) == ((1024,), 0.3, "adam", [ten])
    assert space.nearest_to(HeadConfig())["use bad"] is False


def test_folders_that_are_not_headstarts_are_kept(space: Space, tmp_path: Path) -> None:
    own = [tmp_path / "exp.logs" / name for name in ("notes.txt", "trial-7/results.csv")]
    for file in own:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    old = tmp_path / "exp.logs" / "trial-0" / "fold-1" / "train" / "events.out.tfevents.1.host"
    old.parent.mkdir(parents=True)
    old.touch()
    Study(tmp_path / "exp", space, "tpe", 0).require_same({})
    assert not old.exists()  # a curve of a study that was deleted
    old.parent.mkdir(parents=True)
    old.touch()
    own.append(old.with_name("mine.txt"))
    own[-1].write_text("mine")
    remove_curves(tmp_path / "exp.logs" / "trial-0")  # as each trial begins
    assert not old.exists()
    assert all(file.read_text() == "mine" for file in own)


def test_a_queued_head_survives_a_kill_before_it_was_looked_at(space: Space, tmp_path: Path) -> None:
    study = Study(tmp_path / "study.db", space, "random", 0)
    params = space.nearest_to(HeadConfig())
    study.enqueue_first(params)
    assert study.optuna.ask().params == {}  # Optuna keeps the parameters of the queue in attributes of its own
    assert study.claim(3)[0].params == params


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("10m", 600), ("2h", 7200)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    with pytest.raises(ValueError, match="must be a time"):
        parse_duration(f"{text} days")


@pytest.mark.slow
@pytest.mark.soak
def test_the_winner_becomes_a_run(
    headstart, prepared: Path, small, extraction, space_file: Path, tmp_path: Path, monkeypatch
) -> None:
    flags = [
        *("--backbone=mobilenet_v3_small", "--weights=random", "--image-size=64", "--batch-size=8"),
        *("--precision=float32", f"--store={extraction.store}", "--max-rejects=1", f"--space={space_file}"),
        *(f"--study={tmp_path / 'study.db'}", f"--run={tmp_path / 'run'}", "--trials=3"),
    ]
    cuts = ["--cut=expanded_conv_7_add", "--cut=expanded_conv_7_add+top_activation"]
    result = headstart("sweep", prepared, *flags, *cuts)
    assert (result["trials"], result["run"]) == (3, str(tmp_path / "run"))
    assert {one["name"] for one in result["baselines"]} == {"logistic regression", "nearest neighbours"}
    assert result["best"]["cuts"][0] == "expanded_conv_7_add"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["features"]["cut"] == result["best"]["cuts"]
    assert config["head"]["units"] == list(result["best"]["head"]["units"])
    assert (config["head"]["choose_by"], result["choose_by"]) == ("loss", "loss")
    refused = headstart.error("sweep", prepared, *flags, *cuts, "--overwrite", "--choose-by=accuracy", code=2)
    assert "--choose-by was loss, is accuracy" in refused
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["head"]["val"]["loss"] == pytest.approx(result["best"]["loss"], rel=1e-4)
    assert "exists" in headstart.error("sweep", prepared, *flags, *cuts)
    again = headstart("sweep", prepared, *flags, *cuts, "--overwrite")
    assert (again["trials"], again["best"]) == (3, result["best"])
    assert "features at" in headstart.error("sweep", prepared, *flags, *cuts[:1], "--overwrite", code=2)
    fewer = tmp_path / "fewer"
    shutil.copytree(prepared, fewer)
    for split in ("test", "train"):
        sorted((fewer / split / "cat").iterdir())[0].unlink()
        if split == "test":  # which no trial sees
            assert headstart("sweep", fewer, *flags, *cuts, "--overwrite")["best"] == result["best"]
    refused = headstart.error("sweep", fewer, *flags, *cuts, "--overwrite", code=2)
    assert "examples of train was" in refused
    assert "val" not in refused
    text = headstart.text("sweep", prepared, *flags, *cuts, "--overwrite")
    assert "logistic regression" in text
    headstart("evaluate", tmp_path / "run")
    written = (tmp_path / "run" / "head.keras").stat().st_mtime_ns
    for module in ("runs", "sweep.sweep"):  # as where another process wrote it meanwhile
        monkeypatch.setattr(f"headstart.pipeline.{module}.require_free", lambda *_: None)
    assert headstart("sweep", prepared, *flags, *cuts)["trials"] == 3
    assert (tmp_path / "run" / "head.keras").stat().st_mtime_ns == written
    folder = [flag if "--study" not in flag else f"--study={tmp_path}" for flag in flags]
    assert "--study must be a file" in headstart.error("sweep", prepared, *folder, code=2)


def test_what_does_not_go_together_is_told_before_the_search(prepared: Path, small, extraction, tmp_path: Path) -> None:
    for changed, config, message in (
        (replace(small, precision="int8"), SweepConfig(), "--precision int8"),
        (replace(small, views=1), SweepConfig(folds=2), "--views"),
        (replace(small, cut=("all",)), SweepConfig(sampler="grid"), "--sampler grid: over"),
    ):
        with pytest.raises(OptionError, match=message):
            sweep(prepared, tmp_path / "study.db", tmp_path / "run", changed, extraction, config)
    assert not (tmp_path / "study.db").exists()


def test_baselines_see_as_many_images_as_memory_has_copies_for(
    prepared: Path, small, extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("headstart.pipeline.sweep.processes.search", lambda *given: seen.extend(given[3]))
    cached = cache_features(prepared, small, extraction)
    size = 4 * 576 * (len(cached.of("train")) + len(cached.of("val")))
    for number, copies in enumerate((2, 3)):
        memory = replace(extraction, memory=copies * size / 2**30)
        study = tmp_path / f"{number}.db"
        with pytest.raises(DataError, match="none of 0 finished trials"):
            sweep(prepared, study, tmp_path / "run", small, memory, SweepConfig(trials=1, folds=2))
    assert [one.sample is None for one in seen] == [False, False, True, True]


def test_features_on_disk_do_not_go_with_ray_and_no_baseline_is_fitted_before(
    prepared: Path, small, extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cached(*arguments, by_ray: ClusterConfig, **named) -> FeaturedExamples:
        return cache_features(*arguments, **named)

    monkeypatch.setattr("headstart.pipeline.sweep.sweep.cache_features", cached)
    monkeypatch.setattr("headstart.pipeline.sweep.sweep.fit_baselines", lambda *_: pytest.fail("fitted"))
    memory, by_ray = replace(extraction, memory=1e-5), ClusterConfig("local")
    with pytest.raises(OptionError, match="--ray: these features are on disk"):
        sweep(prepared, tmp_path / "s.db", tmp_path / "run", small, memory, SweepConfig(trials=1), by_ray=by_ray)


def test_processes_read_features_from_the_scratch_folder(
    prepared: Path, small, extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def full(parent: Path, size: int) -> None:
        asked.append(parent)
        raise OSError(errno.ENOSPC, "No space left on device", str(parent))

    monkeypatch.setattr("headstart.pipeline.memory.on_disk.require_space", full)
    monkeypatch.setattr("headstart.pipeline.sweep.sweep.fit_baselines", lambda *_: [])
    (tmp_path / "scratch").mkdir()
    elsewhere = replace(extraction, scratch=tmp_path / "scratch")
    with pytest.raises(OSError, match="name a larger disk by --scratch, or leave out --jobs"):
        sweep(prepared, tmp_path / "s.db", tmp_path / "run", small, elsewhere, SweepConfig(trials=2, jobs=2))
    assert asked == [tmp_path / "scratch"]


def test_a_run_that_exists_is_told_before_the_search(
    prepared: Path, small, extraction, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="exists"):
        sweep(prepared, tmp_path / "study.db", run, small, extraction, SweepConfig())
    assert not (tmp_path / "study.db").exists()


def test_the_winner_is_not_trained_on_data_that_changed_meanwhile(
    prepared: Path, small, extraction, space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)

    def search_and_remove(*arguments: object) -> None:
        search(*arguments)
        sorted((data / "val" / "dog").iterdir())[0].unlink()

    monkeypatch.setattr("headstart.pipeline.sweep.processes.search", search_and_remove)
    config = SweepConfig(trials=1, space=space_file)
    with pytest.raises(DataError, match=r"changed while heads were searched for \(val\)"):
        sweep(data, tmp_path / "study.db", tmp_path / "run", small, extraction, config)
    assert not (tmp_path / "run").exists()


def test_a_study_does_not_go_on_with_images_that_could_not_be_read_before(
    prepared: Path, small, extraction, space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_but_one(*arguments, **named) -> FeaturedExamples:
        cached = cache_features(*arguments, **named)
        return replace(cached, examples=Examples.of(one for one in cached.examples if one != cached.of("val")[0]))

    def tried() -> SweepResult:
        return sweep(
            prepared, tmp_path / "study.db", tmp_path / "run", small, extraction, SweepConfig(1, space=space_file)
        )

    with monkeypatch.context() as patched:
        patched.setattr("headstart.pipeline.sweep.sweep.cache_features", all_but_one)
        patched.setattr("headstart.pipeline.sweep.processes.search", lambda *_: None)
        with pytest.raises(DataError, match="none of 0 finished trials"):
            tried()
    with pytest.raises(OptionError, match=r"examples of val that could be read was .*, is "):
        tried()


def test_a_study_that_can_not_be_read_any_more_is_told(
    prepared: Path, small, extraction, space_file: Path, tmp_path: Path, monkeypatch
) -> None:
    def damage(study: Study, *_) -> None:
        with closing(sqlite3.connect(study.path)) as connection:
            connection.execute("drop table trials")
            connection.commit()

    monkeypatch.setattr("headstart.pipeline.sweep.processes.search", damage)
    with pytest.raises(StoreError, match=r"study\.db: can't be read or written .*no such table"):
        sweep(prepared, tmp_path / "study.db", tmp_path / "run", small, extraction, SweepConfig(1, space=space_file))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_of_the_same_study_is_replaced_where_a_better_head_was_found_meanwhile(
    prepared: Path, small, extraction, space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(trials: int) -> SweepResult:
        return sweep(
            prepared, tmp_path / "study.db", tmp_path / "run", small, extraction, SweepConfig(trials, space=space_file)
        )

    first = tried(1)
    for module in ("runs", "sweep.sweep"):  # as where another process wrote it meanwhile
        monkeypatch.setattr(f"headstart.pipeline.{module}.require_free", lambda *_: None)
    better = first
    while better.best["trial"] == first.best["trial"]:  # until a head is better than the first
        better = tried(len(better.finished) + 2)
    assert Run.open(tmp_path / "run").config()["sweep"]["trial"] == better.best["trial"]

    (chosen,) = [trial for trial in better.finished if trial.number == first.best["trial"]]
    monkeypatch.setattr(
        "headstart.pipeline.sweep.sweep.winner", lambda _: chosen
    )  # before the better head was finished
    tried(len(better.finished))
    assert Run.open(tmp_path / "run").config()["sweep"]["trial"] == better.best["trial"]


@pytest.mark.slow
def test_folds_need_no_class_in_val(prepared: Path, small, extraction, space_file: Path, tmp_path: Path) -> None:
    rows = ["path,label,split"]
    for file in sorted(prepared.glob("*/*/*.jpg")):
        split, label = file.parts[-3:-1]
        rows.append(f"{file},{label},{'train' if label == 'cat' and split == 'val' else split}")
    (tmp_path / "list.csv").write_text("\n".join(row for row in rows if not row.endswith("test")))
    config, reading = SweepConfig(2, space=space_file, folds=3), DataConfig(allow_outside=True)
    data, run = tmp_path / "list.csv", tmp_path / "run"
    with pytest.raises(DataError, match="the val split has no usable images of class"):
        sweep(data, tmp_path / "x.db", run, small, extraction, replace(config, folds=0), reading=reading)
    found = sweep(data, tmp_path / "study.db", run, small, extraction, config, reading=reading)
    val = Run.open(run).metrics()["head"]["val"]
    assert val["loss"] != found.best["loss"]
    assert found.best["head"]["epochs"] >= 1
    assert evaluate(run, "train").n > 20


@pytest.mark.slow
@pytest.mark.soak
def test_folds_views_and_backbones(prepared: Path, small, extraction, space_file: Path, tmp_path: Path) -> None:
    config = SweepConfig(2, space=space_file, folds=3, choose_by="auc")
    folded = sweep(prepared, tmp_path / "a.db", tmp_path / "a", small, extraction, config)
    assert folded.best["auc"] == max(-trial.value for trial in ranked(folded.finished))
    assert Run.open(tmp_path / "a").config()["head"]["choose_by"] == "auc"
    assert "val_auc" in Run.open(tmp_path / "a").history()[0]
    assert all(len(trial.intermediate_values) <= 3 for trial in folded.finished)
    assert folded.best["loss"] > 0
    viewed = sweep(
        prepared,
        tmp_path / "b.db",
        tmp_path / "b",
        replace(small, views=2),
        extraction,
        SweepConfig(1, space=space_file),
    )
    assert Run.open(tmp_path / "b").config()["features"]["views"] == 2
    assert viewed.best["loss"] != folded.best["loss"]
    both = replace(
        small, backbone="mobilenet_v3_small+resnet50_v2", weights="random+random", cut=("resnet50_v2/post_relu",)
    )
    sweep(prepared, tmp_path / "c.db", tmp_path / "c", both, extraction, SweepConfig(1, space=space_file))
    found = Run.open(tmp_path / "c").config()["features"]
    assert (found["backbone"], found["weights"], found["cut"]) == ("resnet50_v2", "random", ["post_relu"])
    assert evaluate(tmp_path / "c").n


@pytest.mark.slow
def test_a_head_that_logistic_regression_beats_is_shown_as_such(
    headstart, prepared: Path, small, extraction, space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space_file.write_text(
        SMALL_SPACE.replace("epochs = 3", "epochs = 1").replace("3e-2, high = 1e-1", "1e-6, high = 2e-6")
    )
    flags = [f"{name}={value}" for name, value in {
        "--backbone": small.backbone, "--weights": "random", "--image-size": 64, "--batch-size": 8,
        "--precision": "float32", "--store": extraction.store, "--max-rejects": 1, "--space": space_file,
        "--study": tmp_path / "study.db", "--run": tmp_path / "run", "--trials": 1,
    }.items()]  # fmt: skip
    monkeypatch.setenv("COLUMNS", "300")
    text = headstart.text("sweep", prepared, *flags)
    assert "no head beats logistic regression" in text
    assert "(does not beat logistic regression)" in text
    assert not headstart("sweep", prepared, *flags, "--overwrite")["best"]["beats_logistic_regression"]
