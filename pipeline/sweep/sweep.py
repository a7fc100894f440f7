"""Search over heads on cached features: the best on val becomes a run."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.config import FeatureConfig
from headstart.features.errors import DataError, OptionError
from headstart.features.terminal import console
from headstart.pipeline.data.copies import tell_conflicts
from headstart.pipeline.data.examples import Example, Scan, require_trainable
from headstart.pipeline.data.layouts import require_folder
from headstart.pipeline.featured import CachedExamples, ScanCheck, cache_features
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.head import HEAD_VERSION
from headstart.pipeline.head.run import refuse_maps, train_run
from headstart.pipeline.runs import Run, list_digests, require_free
from headstart.pipeline.sweep.baselines import Baseline, Fold, fit_baselines
from headstart.pipeline.sweep.choices import Nearest
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.leaderboard import ranked
from headstart.pipeline.sweep.space import Space, alternatives, only, read_choices
from headstart.pipeline.sweep.study import Study
from headstart.pipeline.sweep.trials import Material, search
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from sklearn.model_selection import StratifiedGroupKFold

_EPOCHS_AFTER = 5  # the winner's best epoch, when it is trained again


@dataclass(frozen=True)
class SweepResult:
    """What a search found.

    Args:
        trials: the finished ones of all starts; `pruned` of them were given up early.
        seconds: of this start.
        best: the winner on val: `trial`, `loss`, `accuracy`, `cuts`, `head`, and whether it beats logistic regression.
        finished: the trials themselves.
    """

    trials: int
    pruned: int
    seconds: float
    best: dict[str, Any]
    baselines: list[Baseline]
    run: str
    finished: list[FrozenTrial]


def sweep(
    data: Path,
    study_path: Path,
    path: Path,
    features: FeatureConfig,
    config: SweepConfig,
    overwrite: bool = False,
    seed: int = 0,
) -> SweepResult:
    """Try heads on the features of `data`, and train the one of the lowest loss on val again as the run `path`.

    Trials see train and val alone. The study goes on where it was cut off, and other processes may fill it meanwhile.

    Args:
        study_path: an SQLite file, made where there is none.
        seed: of the choice, of every head, of folds, and of the split where `data` has no split folders.

    Raises:
        OptionError: settings that can't be used, or a study of other data or settings.
        DataError: `data` can't be trained on, or no trial came to an end.
        RunError: `path` exists and `overwrite` is false, or it is not a run.
        StoreError: the study can't be read or written.
    """
    start, began = time.perf_counter(), time.time()
    require_folder(data)
    require_free(path, overwrite)
    refuse_maps(features.cut)
    cuts = alternatives(features)
    wanted = replace(features, cut=tuple(dict.fromkeys(name for names in cuts.alternatives for name in names)))
    _check_together(wanted, config)
    space = Space(read_choices(config.space), cuts)
    if config.sampler == "grid":
        space.grid(seed)  # which may be too large
    study = Study(study_path, space, config.sampler, seed)
    with study.faults_named():
        seen: dict[str, str] = {}

        def check(scanned: Scan, fingerprints: dict[str, str]) -> None:
            require_trainable(scanned.examples, scanned.class_names, data)
            seen.update(list_digests(scanned.examples, scanned.class_names))
            study.check(_identity(seen, fingerprints, space, features, config, seed))

        cached = cache_features(data, wanted, seed, check)
        require_trainable(cached.examples, cached.class_names, data)
        study.check(_examples_used(cached), "examples used")
        tell_conflicts([*cached.of("train"), *cached.of("val")], cached.class_names)
        material = _material(cached, config.folds, seed)
        study.enqueue_first(space.near(HeadConfig().for_examples(len(material.folds[0][0]))))
        first = _baselines(study, material, space.suggest(Nearest({}))[1])
        search(study, material, config, seed, first)
        trials = study.finished()
        if not ranked(trials):
            raise DataError(
                f"{study_path}: none of {len(trials)} finished trials came to an end with a finite loss; give more "
                "--timeout, more --trials, or another --space"
            )
        winner = ranked(trials)[0]
        head, taken = space.suggest(FixedTrial(winner.params))
        baselines = _baselines(study, material, taken)
        head = replace(head, epochs=min(head.epochs, winner.user_attrs["best_epoch"] + _EPOCHS_AFTER))
        chosen = replace(only(features, taken), precision=cached.config.precision)
        _write_run(study, winner.number, data, path, chosen, head, seed, overwrite, began, _unchanged(seen, data))
        loss = winner.value or 0.0
        beats = all(loss < one.loss for one in baselines if one.name == "logistic regression")
        best = {
            "trial": winner.number,
            "loss": loss,
            "accuracy": winner.user_attrs["accuracy"],
            "cuts": taken,
            "head": asdict(head),
            "beats_logistic_regression": beats,
        }
        pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
        return SweepResult(len(trials), pruned, time.perf_counter() - start, best, baselines, str(path), trials)


def _check_together(features: FeatureConfig, config: SweepConfig) -> None:
    """Make sure that settings go together.

    Raises:
        OptionError: they don't.
    """
    if config.folds and features.views:
        raise OptionError("--views: can't go with --folds, for val has no views")
    if features.precision == "int8":
        raise OptionError(
            "--precision int8: a network is quantised for its cuts together, so that the winner's features would be "
            "others than it was chosen by; search in another precision"
        )


def _write_run(
    study: Study,
    number: int,
    data: Path,
    path: Path,
    features: FeatureConfig,
    head: HeadConfig,
    seed: int,
    overwrite: bool,
    began: float,
    check: ScanCheck,
) -> None:
    """Train the winner, trial `number`, as the run `path`, unless another process that fills the study has done so.

    What such a process wrote since this one `began` is replaced where a better head was found meanwhile.
    """
    origin = {"study": str(study.path.absolute()), "trial": number}
    with study.locked():
        there = Run.open(path) if path.exists() else None
        written = there.config().get("sweep", {}) if there else {}
        since = there is not None and there.config_file.stat().st_mtime >= began
        of_this_study = written.get("study") == origin["study"]
        better = [trial.number for trial in ranked(study.finished())]
        better = better[: better.index(number)]  # which finished after this process chose
        if (written == origin and (since or not overwrite)) or (of_this_study and written["trial"] in better):
            console.print(f"{path} is there: another process that fills {study.path} wrote it")
            return
        train_run(data, path, features, head, overwrite or of_this_study, seed, check, sweep=origin)


def _unchanged(then: dict[str, str], data: Path) -> ScanCheck:
    """Refuses, before the winner is trained, other examples than it was chosen on, whose `list_digests` were `then`."""

    def check(scanned: Scan, _: dict[str, str]) -> None:
        now = list_digests(scanned.examples, scanned.class_names)
        changed = [name for name in ("classes", "train", "val") if now.get(name) != then.get(name)]
        if changed:
            raise DataError(
                f"{data}: changed while heads were searched for ({', '.join(changed)}), so that no run was made; the "
                "study is of what was there before"
            )

    return check


def _identity(
    digests: dict[str, str],
    fingerprints: dict[str, str],
    space: Space,
    features: FeatureConfig,
    config: SweepConfig,
    seed: int,
) -> dict[str, Any]:
    """What must not change while a study is filled. The test split may: no trial sees it."""
    return {
        **{f"features at {name}": key for name, key in fingerprints.items()},
        **{f"examples of {name}" if name != "classes" else name: digests[name] for name in ("classes", "train", "val")},
        "cuts to choose from": str(space.cuts),
        **{f"space of {name}": str(choice) for name, choice in space.choices.items()},
        "views": [features.views, features.augment] if features.views else 0,
        "folds": config.folds,
        "sampler": config.sampler,
        "seed": seed,
        "version of heads": HEAD_VERSION,
    }


def _examples_used(cached: CachedExamples) -> dict[str, str]:
    """Those that trials see: fewer than were found, where some could not be read for now."""
    used = list_digests(cached.examples, cached.class_names)
    return {f"examples of {name} that could be read": used[name] for name in ("train", "val")}


def _material(cached: CachedExamples, folds: int, seed: int) -> Material:
    train, val = cached.of("train"), cached.of("val")
    features, labels = cached.arrays([*train, *val])
    rows = np.arange(len(labels))
    parts: list[Fold] = [(rows[: len(train)], rows[len(train) :])]
    if folds:
        parts = _folds([*train, *val], labels, folds, seed)
    views = cached.view_arrays(train)
    return Material(features, labels, cached.columns(), parts, len(cached.class_names), views, reduced=cached.reduced)


def _folds(examples: Sequence[Example], labels: np.ndarray, count: int, seed: int) -> list[Fold]:
    """Parts with the classes' shares of the whole, copies of an image together.

    Raises:
        DataError: a class has too few images.
    """
    fewest = min(len({example.image.digest for example in examples if example.label == label}) for label in set(labels))
    if fewest < count:
        raise DataError(f"--folds {count}: a class has {fewest} different images alone in train and val")
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return list(splitter.split(labels, labels, [example.image.digest for example in examples]))


def _baselines(study: Study, material: Material, cuts: Sequence[str]) -> list[Baseline]:
    """Those on the features at `cuts`; kept with the study, for they take their time."""
    key = "baselines at " + "+".join(cuts)
    kept = study.remembered(key)
    if kept is None:
        console.print(f"fitting logistic regression and nearest neighbours to the features at {'+'.join(cuts)}")
        features, _ = material.at(cuts)
        kept = [asdict(one) for one in fit_baselines(features, material.labels, material.folds, material.classes)]
        study.remember(**{key: kept})
    return [Baseline(**fields) for fields in kept]
