"""Decide where a call of `finetune` begins.

A call continues an unfinished fine-tuning, continues a finished one with more epochs, or begins anew.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from headstart.features.errors import RunError
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.start import EARLIER, Start
from headstart.pipeline.finetune.state import FinetuneState
from headstart.pipeline.runs import Run
from headstart.pipeline.scoring.choosing import CHOICES, ChooseBy, canonical

_MAY_CHANGE = ("epochs", "patience")
_VALUES = {"choose_by": CHOICES, "class_weight": ("none", "balanced")}  # without `auto`


@dataclass(frozen=True)
class Plan:
    """The settings of a call of `finetune`, and the state of the fine-tuning that the call continues or begins."""

    state: FinetuneState
    start: Start | None  # the content of the state's `start.json`; None to begin anew
    config: FinetuneConfig  # without `auto`
    choose_by: ChooseBy
    settings: dict[str, Any]  # the fields of `config`, and the seed


def make_plan(run: Run, config: FinetuneConfig, seed: int, overwrite: bool) -> Plan:
    """Decide how a call of `finetune` with `config` begins, and return the plan.

    Without `overwrite`, raises the errors of `require_resumable`. For other errors, see `resolve`.
    """
    state = state_of(run, overwrite)
    start = None if overwrite else state.start()  # an old state that is overwritten may be damaged
    config, choose_by = resolve(run, config, start)
    settings = {**asdict(config), "seed": seed}
    if not overwrite:
        require_resumable(run, state, settings, choose_by)
    return Plan(state, start, config, choose_by, settings)


def state_of(run: Run, overwrite: bool) -> FinetuneState:
    """Return the state of the fine-tuning that a call of `finetune` continues or begins.

    If `overwrite` is set, or if the run has no fine-tuning, the result is the state that a new fine-tuning will write.
    In all other cases, the result is the state of the unfinished fine-tuning, or of the finished one if none is
    unfinished.

    Without `overwrite`, raises RunError if the `start.json` of an unfinished fine-tuning is damaged.
    """
    unfinished = FinetuneState(run.unfinished)
    if overwrite or unfinished.start() or not run.finished.exists():
        return unfinished
    return FinetuneState(run.finished)


def resolve(run: Run, config: FinetuneConfig, start: Start | None) -> tuple[FinetuneConfig, ChooseBy]:
    """Return two things: a copy of `config` in which no value is `auto`, and the figure that decides the best epoch.

    `start` is the content of `start.json` of the fine-tuning that continues. The values in `start` replace `auto`. If
    `start` is None, a new fine-tuning begins, and the values of the run's head replace `auto`. Raises RunError if a
    value is unknown.
    """
    then = {**EARLIER, **(start.settings if start else run.config()["head"])}
    asked = {name: getattr(config, name) for name in ("class_weight", "choose_by")}
    chosen = {name: then[name] if value == "auto" else value for name, value in asked.items()}
    for name, value in chosen.items():
        if value not in _VALUES[name]:
            raise RunError(
                f"{run.config_file}: head.{name} is {str(value)[:80]}, and not among {', '.join(_VALUES[name])}; give "
                f"--{name.replace('_', '-')}"
            )
    choose_by: ChooseBy = canonical(chosen["choose_by"])
    return replace(config, class_weight=chosen["class_weight"], choose_by=choose_by), choose_by


def require_resumable(run: Run, state: FinetuneState, settings: dict[str, Any], choose_by: ChooseBy) -> None:
    """Raise RunError if `finetune` with `settings` can't continue the fine-tuning of `run`.

    `state` is the state of this fine-tuning. `choose_by` is the figure on val that decides the best epoch. If `run` has
    no fine-tuning, nothing is raised.

    A finished fine-tuning can be continued only if the epochs and the patience in `settings` both allow another epoch.
    """
    start = state.start()
    if not start:
        if run.classifier_file.exists():
            raise RunError(
                f"{run.path}: is fine-tuned already, and holds no state to go on from, as earlier versions kept none; "
                "--overwrite begins anew"
            )
        return
    _require_same_settings(run, state, {**EARLIER, **start.settings}, settings)
    course = state.course(choose_by)
    done, epochs, finished = state.epoch(), settings["epochs"], state.folder == run.finished
    if done > epochs:
        more = f"more than {done} goes on" if finished else f"--epochs {done} ends it there, more goes on"
        raise RunError(f"{run.path}: --epochs {epochs}, but {done} are done; {more}, --overwrite begins anew")
    if finished and done == epochs:
        more = "" if settings["schedule"] == "cosine" else f"--epochs {2 * done} trains for {done} more, "
        raise RunError(
            f"{run.path}: is fine-tuned already ({done} of {epochs} epochs are done); {more}--overwrite begins anew"
        )
    if finished and course.stops(settings["patience"]):
        raise RunError(
            f"{run.path}: --patience {settings['patience']} ends its fine-tuning after {done} epochs, because "
            f"{course.stop_reason()}; --patience 0 goes on, --overwrite begins anew"
        )


def _require_same_settings(run: Run, state: FinetuneState, then: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise RunError if the fine-tuning of `run` can't go on with `settings`.

    The argument `then` has the settings with which the fine-tuning began.
    """
    fixed = [name for name in settings if name not in _MAY_CHANGE]
    changed = [f"{name} {then.get(name)!r}" for name in fixed if then.get(name) != settings[name]]
    if changed:
        was = "was done" if state.folder == run.finished else "was cut off"
        raise RunError(
            f"{run.path}: its fine-tuning {was} with other settings ({', '.join(changed)}); repeat those to go "
            "on, or --overwrite to begin anew"
        )
    if then["schedule"] == "cosine" and then["epochs"] != settings["epochs"]:
        raise RunError(
            f"{run.path}: --epochs {settings['epochs']}, but --schedule cosine planned the step size over "
            f"{then['epochs']} epochs; repeat --epochs {then['epochs']}, or --overwrite to begin anew"
        )


def as_begun(run: Run, config: FinetuneConfig, start: Start | None) -> FinetuneConfig:
    """Return `config` with `from_layer` set to the layer with which the fine-tuning began.

    `from_layer` is the first layer to train. `start` tells how the fine-tuning began. If the fine-tuning begins with
    this call, `start` is None, and `config` is returned unchanged. Raises RunError if the layer is unknown because an
    early version of headstart chose the layer.
    """
    if start and start.from_layer is not None:
        return replace(config, from_layer=str(start.from_layer))
    if start and not config.from_layer and run.feature_config().backbone != "inception_v3":
        raise RunError(f"{run.path}: its fine-tuning was begun by an earlier version; begin anew with --overwrite")
    return config
