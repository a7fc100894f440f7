"""What a call of `finetune` goes on with, from states on disk. Nothing here trains."""

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from headstart.features import processes
from headstart.features.errors import OptionError, RunError
from headstart.features.files import folder_written_atomically
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.course import Course, cost_line
from headstart.pipeline.finetune.result import FinetuneResult
from headstart.pipeline.finetune.resuming import require_resumable, resolve, state_of
from headstart.pipeline.finetune.start import Start
from headstart.pipeline.finetune.state import FinetuneState, write_epochs
from headstart.pipeline.runs import Run
from headstart.pipeline.scoring.choosing import ChooseBy
from headstart.tests.pipeline.test_runs import dead_process

CONFIG = FinetuneConfig(class_weight="none", choose_by="loss")
LOSSES = (1.0, 0.9, 0.95, 0.97)  # of epoch 0, the head, and of three epochs


def settings_of(config: FinetuneConfig = CONFIG, **more: Any) -> dict[str, Any]:
    return {**asdict(config), "seed": 0, **more}


def row(loss: float, **more: float) -> dict[str, float]:
    return {"loss": 0.1, "accuracy": 0.9, "val_loss": loss, "val_accuracy": 0.5, **more}


def keep(state: FinetuneState, settings: dict[str, Any], losses: tuple[float, ...] = LOSSES) -> None:
    """Write a state with epochs of these losses on val."""
    state.begin(Start(settings=settings, before={"loss": losses[0], "accuracy": 0.5}))
    for epoch in range(len(losses)):
        with state.keep(epoch) as folder:
            write_epochs(folder, [row(loss) for loss in losses[1 : epoch + 1]], float(epoch))


def unfinished(tmp_path: Path, settings: dict[str, Any], losses: tuple[float, ...] = LOSSES) -> Run:
    run = Run(tmp_path)
    keep(FinetuneState(run.unfinished), settings, losses)
    return run


def finished(tmp_path: Path, settings: dict[str, Any], losses: tuple[float, ...] = LOSSES) -> Run:
    run = unfinished(tmp_path, settings, losses)
    FinetuneState(run.unfinished).move(run.finished)
    run.classifier_file.touch()
    return run


def require(run: Run, settings: dict[str, Any], choose_by: ChooseBy = "loss") -> None:
    require_resumable(run, state_of(run, overwrite=False), settings, choose_by)


def refusal(run: Run, settings: dict[str, Any]) -> str:
    with pytest.raises(RunError) as raised:
        require(run, settings)
    return str(raised.value).removeprefix(f"{run.path}: ")


def test_a_state_is_kept_whole(tmp_path: Path) -> None:
    state = FinetuneState(tmp_path / "s")
    assert (state.kept(), state.epoch(), state.history(), state.seconds()) == (None, 0, [], 0)
    keep(state, {})
    again = FinetuneState(tmp_path / "s")
    assert (again.epoch(), again.seconds()) == (3, 3.0)
    assert [(one["epoch"], one["val_loss"]) for one in again.history()] == [(1, 0.9), (2, 0.95), (3, 0.97)]
    assert sorted(path.name for path in again.folder.iterdir()) == ["epoch-0003", "start.json"]
    again.drop()
    assert not again.folder.exists()


def test_a_kill_while_a_state_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    state = FinetuneState(tmp_path / "s")
    keep(state, {})
    with pytest.raises(ZeroDivisionError), state.keep(4):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), folder_written_atomically(state.folder / "epoch-0004"):
        raise ZeroDivisionError
    assert FinetuneState(tmp_path / "s").epoch() == 3
    (state.folder / "start.json").unlink()  # a kill while the state is dropped
    assert FinetuneState(tmp_path / "s").kept() is None


def test_what_a_killed_process_left_in_a_state_is_cleared(tmp_path: Path) -> None:
    state = FinetuneState(tmp_path / "s")
    keep(state, {})
    left = state.folder / f".{processes.host()}-{dead_process()}-1.partial.epoch-0004"
    (left / "new").mkdir(parents=True)
    (state.folder / "work").mkdir()  # of an earlier version
    with state.keep(4) as folder:
        write_epochs(folder, [row(loss) for loss in (*LOSSES[1:], 0.9)], 4.0)
    assert sorted(path.name for path in state.folder.iterdir()) == ["epoch-0004", "start.json"]


def test_an_unfinished_state_comes_before_a_finished_one(tmp_path: Path) -> None:
    run = finished(tmp_path, settings_of(epochs=3))
    assert state_of(run, overwrite=False).folder == run.finished
    assert state_of(run, overwrite=True).folder == run.unfinished
    keep(FinetuneState(run.unfinished), settings_of(epochs=3), LOSSES[:2])  # --overwrite that was killed
    assert state_of(run, overwrite=False).epoch() == 1
    (run.unfinished / "start.json").unlink()
    state = state_of(run, overwrite=False)
    state.move(run.unfinished)  # replaces the ruin
    assert (state.epoch(), run.finished.exists()) == (3, False)


def test_what_was_cut_off_goes_on_and_may_end_sooner_or_later(tmp_path: Path) -> None:
    run = unfinished(tmp_path, settings_of(epochs=40))
    for epochs in (3, 4, 40, 50):
        require(run, settings_of(epochs=epochs, patience=1))
    line = refusal(run, settings_of(epochs=2))
    assert line == "--epochs 2, but 3 are done; --epochs 3 ends it there, more goes on, --overwrite begins anew"


def test_what_is_finished_goes_on_to_more_epochs(tmp_path: Path) -> None:
    run = finished(tmp_path, settings_of(epochs=3))
    require(run, settings_of(epochs=4))
    assert "more than 3 goes on" in refusal(run, settings_of(epochs=2))
    assert refusal(run, settings_of(epochs=3)) == (
        "is fine-tuned already (3 of 3 epochs are done); --epochs 6 trains for 3 more, --overwrite begins anew"
    )


def test_what_stopped_early_goes_on_with_more_patience_only(tmp_path: Path) -> None:
    run = finished(tmp_path, settings_of(patience=2))
    line = "--patience 2 ends its fine-tuning after 3 epochs, because no epoch after epoch 1 was better; --patience 0"
    assert refusal(run, settings_of(patience=2)).startswith(line)
    for patience in (0, 3):
        require(run, settings_of(patience=patience))


@pytest.mark.parametrize("place", [unfinished, finished])
def test_other_settings_are_refused_by_name(tmp_path: Path, place: Any) -> None:
    run = place(tmp_path, settings_of())
    require(run, settings_of())
    assert "with other settings (seed 0); repeat those" in refusal(run, settings_of(seed=2))
    changed = settings_of(replace(CONFIG, learning_rate=1e-3, label_smoothing=0.1))
    assert "(learning_rate 0.0001, label_smoothing 0.0)" in refusal(run, changed)


def test_a_cosine_belongs_to_its_number_of_epochs(tmp_path: Path) -> None:
    run = unfinished(tmp_path, settings_of(schedule="cosine", epochs=40))
    require(run, settings_of(schedule="cosine", epochs=40))
    line = refusal(run, settings_of(schedule="cosine", epochs=4))
    assert line.startswith("--epochs 4, but --schedule cosine planned the step size over 40 epochs; repeat --epochs 40")


def test_states_of_earlier_versions(tmp_path: Path) -> None:
    later = {"schedule", "warmup", "clip_norm", "choose_by", "label_smoothing", "class_weight", "patience"}
    earlier = {name: value for name, value in settings_of().items() if name not in later}
    run = unfinished(tmp_path, {**earlier, "overwrite": True})
    (run.path / "config.json").write_text(json.dumps({"head": {"class_weight": "balanced", "choose_by": "f1"}}))
    start = state_of(run, overwrite=False).start()
    config, choose_by = resolve(run, FinetuneConfig(), start)
    assert (config.class_weight, config.choose_by, choose_by) == ("none", "loss", "loss")  # as it was begun
    require(run, settings_of(config))
    shutil.rmtree(run.unfinished)
    run.classifier_file.touch()
    assert "is fine-tuned already, and holds no state to go on from" in refusal(run, settings_of(epochs=20))


def test_a_damaged_state_is_told_unless_it_is_overwritten(tmp_path: Path) -> None:
    run = unfinished(tmp_path, settings_of())
    (run.unfinished / "start.json").write_text('{"settings"')
    with pytest.raises(RunError, match=r"start\.json: not JSON .*--overwrite begins anew"):
        state_of(run, overwrite=False)
    assert state_of(run, overwrite=True).folder == run.unfinished


STATES: dict[str, tuple[str, Any]] = {
    "no settings": ("start.json", lambda start: start.pop("settings")),
    "settings are text": ("start.json", lambda start: start.update(settings="x")),
    "epochs are text": ("start.json", lambda start: start["settings"].update(epochs="x")),
    "no before": ("start.json", lambda start: start.pop("before")),
    "before is text": ("start.json", lambda start: start.update(before="x")),
    "before lacks the loss": ("start.json", lambda start: start["before"].pop("loss")),
    "a choice is auto": ("start.json", lambda start: start["settings"].update(choose_by="auto")),
    "precision without gradients": ("start.json", lambda start: start.update(precision="int8")),
    "an epoch of letters": ("epoch-abc", None),
    "no row": ("epoch-0003/history.csv", "epoch,loss,accuracy,val_loss,val_accuracy\n"),
    "no column": ("epoch-0003/history.csv", "epoch,loss\n1,0.1\n"),
    "a letter": ("epoch-0003/history.csv", "epoch,loss,accuracy,val_loss,val_accuracy\n" + 3 * "1,1,1,1,x\n"),
    "seconds are a list": ("epoch-0003/seconds.json", "[1]"),
    "seconds are NaN": ("epoch-0003/seconds.json", "NaN"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_from_elsewhere_ends_in_one_line(tmp_path: Path, name: str) -> None:
    run = unfinished(tmp_path, settings_of())
    where, content = STATES[name]
    file = run.unfinished / where
    if content is None:
        file.mkdir()
    elif isinstance(content, str):
        file.write_text(content)
    else:
        start = json.loads(file.read_text())
        content(start)
        file.write_text(json.dumps(start))

    def read() -> None:
        require(run, settings_of())
        state_of(run, overwrite=False).seconds()

    with pytest.raises(RunError, match=r"; --overwrite begins anew$") as raised:
        read()
    assert str(raised.value).startswith(f"{file}: ")
    assert len(str(raised.value).removeprefix(str(file))) < 200


def test_weights_of_a_state_from_elsewhere_are_checked(tmp_path: Path) -> None:
    import keras
    from headstart.pipeline.finetune.model import FinetuneModel

    def small(units: int) -> Any:
        inputs = keras.Input((2,))
        top = keras.Model(inputs, keras.layers.Dense(units)(inputs))
        rest: dict[str, Any] = {"cached": None, "head": None, "from_layer": 0, "map_cut": None}
        return FinetuneModel(model=top, scored=top, top=top, **rest)

    built, file = small(1), tmp_path / "best.top.weights.h5"
    built.save_best(tmp_path)
    built.load_best(tmp_path)

    def said() -> str:
        with pytest.raises(RunError, match=r"--overwrite begins anew$") as raised:
            built.load_best(tmp_path)
        return str(raised.value).removeprefix(f"{file}: ")

    small(3).save_best(tmp_path)
    assert said().startswith("not weights of this model")
    bad = small(1)
    bad.top.layers[-1].bias.assign([float("nan")])
    file.unlink()  # the error above still holds it open
    bad.save_best(tmp_path)
    assert said().startswith("has weights that are not finite")
    file.unlink()
    file.write_bytes(b"x")
    assert said().startswith("not an HDF5 file, or corrupt")
    file.unlink()
    assert said().startswith("is missing")
    built.model.compile("sgd")
    with pytest.raises(RunError, match=r"latest\.top\.weights\.h5: is missing"):
        built.load_latest(tmp_path)
    os.mkfifo(file)
    assert said().startswith("is no regular file")


def test_auto_is_as_for_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, head = Run(tmp_path), {"class_weight": "balanced", "choose_by": "f1"}
    monkeypatch.setattr(run, "config", lambda: {"head": head})
    config, choose_by = resolve(run, FinetuneConfig(), None)
    assert (config.class_weight, config.choose_by, choose_by) == ("balanced", "f1", "f1")
    config, choose_by = resolve(run, FinetuneConfig(class_weight="none", choose_by="auc"), None)
    assert (config.class_weight, choose_by) == ("none", "auc")
    assert resolve(run, FinetuneConfig(choose_by="log_loss"), None)[0].choose_by == "loss"
    head["choose_by"] = "auto"
    with pytest.raises(RunError, match=r"head\.choose_by is auto, and not among loss.*; give --choose-by"):
        resolve(run, FinetuneConfig(), None)
    head.clear()  # of an earlier version
    assert resolve(run, FinetuneConfig(), None)[0] == CONFIG


def test_the_figure_that_decides_may_be_another_than_the_loss() -> None:
    before = {"loss": 0.5, "accuracy": 0.8, "f1": 0.7}
    rows = [row(0.6, val_f1=0.75), row(0.4, val_f1=0.75), row(0.3, val_f1=0.6)]
    course = Course.of("f1", before, rows)
    assert course.done == 3
    assert course.best == 2  # of equal figures, the lower loss
    assert course.line(rows[-1], 10) == (
        "epoch 3 of 10: train loss 0.1000, accuracy 0.9000; val loss 0.3000, accuracy 0.5000, f1 0.6000; "
        "best so far: epoch 2 (val f1 0.7500)"
    )
    assert Course.of("auc", {**before, "auc": None}, [row(0.4, val_f1=0, val_auc=float("nan"))]).best == 1


@pytest.mark.parametrize(
    ("losses", "patience", "stops"),
    [((1.0,), 1, False), ((1.0, 1.1), 1, True), ((1.0, 1.1), 2, False), ((1.0, 0.9, 0.9), 1, True), (LOSSES, 0, False)],
)
def test_when_training_stops_early(losses: tuple[float, ...], patience: int, stops: bool) -> None:
    assert Course.of("loss", {"loss": losses[0]}, [row(loss) for loss in losses[1:]]).stops(patience) == stops


def test_the_cost_is_told_in_minutes_where_it_is_long() -> None:
    assert cost_line(10, 72.0, 0) == "about 12 minutes: 10 epochs of 72 s"
    assert cost_line(1, 3.2, 3) == "about 3 s: 1 epoch of 3 s"
    assert cost_line(10, 72.0, 3) == "about 12 minutes: 10 epochs of 72 s, fewer if 3 in a row are not better"


def summary(losses: tuple[float, ...], epochs: int, *repeat: str) -> str:
    course = Course("loss", [{"loss": loss, "accuracy": 0.68} for loss in losses])
    result = FinetuneResult(
        run="runs/my run",
        course=course,
        epochs=epochs,
        images_per_second=2.0,
        seconds=3.0,
        learning_rate=1e-4,
        repeat=repeat,
    )
    assert set(result.fields()) >= {"run", "before", "after", "best_epoch", "epochs", "epochs_done", "stopped_early"}
    return "\n".join(result.lines())


def test_the_summary_tells_what_decided_and_what_to_try() -> None:
    text = summary((0.6, 0.7, 0.8, 0.9), 10, "--augment=none")
    assert "stopped early, because no epoch was better than the head; --patience 0 never stops early" in text
    assert "no epoch was better than the head, 0.6000; the nearest was epoch 1 with loss 0.7000, accuracy 0.68" in text
    assert "headstart finetune 'runs/my run' --overwrite --learning-rate=1e-05 --augment=none" in text
    text = summary((0.6, 0.9, 0.8, 0.7), 10, "--patience=3")
    assert "the nearest was epoch 3" in text
    assert "more epochs may help: headstart finetune 'runs/my run' --epochs=6 --patience=0\n" in text
    text = summary((0.6, 0.5, 0.4), 2, "--epochs=2", "--seed=1")
    assert "val loss decided: 0.4000 in epoch 2, 0.6000 of the head" in text
    assert (
        "the last epoch was the best: more epochs may help: headstart finetune 'runs/my run' --epochs=4 --seed=1"
        in text
    )
    assert "more epochs" not in summary((0.6, 0.4, 0.5), 2)
    assert "--overwrite --epochs=4 --schedule=cosine" in summary((0.6, 0.5, 0.4), 2, "--schedule=cosine")


def test_options_that_mean_nothing() -> None:
    for wrong in ({"warmup": -1}, {"patience": -1}, {"label_smoothing": 1.0}, {"clip_norm": -1.0}, {"choose_by": "x"}):
        with pytest.raises(OptionError, match=f"--{next(iter(wrong)).replace('_', '-')} must be"):
            FinetuneConfig(**wrong)
    with pytest.raises(OptionError, match="--clip-norm must be a finite number"):
        FinetuneConfig(clip_norm=float("inf"))
