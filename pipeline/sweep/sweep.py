"""`headstart sweep`: search for the head that is best on val, and train it again as a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.backbones.cuts import Cut, require_averaged, restricted
from headstart.features.cluster.config import ClusterConfig
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError, RunError
from headstart.features.frozen.network import Network
from headstart.features.paths import plain_path
from headstart.features.terminal import console
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.copies import tell_conflicts, unit_names
from headstart.pipeline.data.examples import Example, Scan
from headstart.pipeline.data.trainable import require_trainable
from headstart.pipeline.featured import FeaturedExamples, ScanCheck, cache_features
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import HeadResult, train_run
from headstart.pipeline.memory.limits import rows_in_memory
from headstart.pipeline.runs import Run, example_digests, require_free
from headstart.pipeline.scoring.baselines import Baseline, fit_baselines
from headstart.pipeline.scoring.folds import Fold, draw_folds, rarest, require_trainable_folds, sampled_folds
from headstart.pipeline.sweep.config import SweepConfig
from headstart.pipeline.sweep.leaderboard import figures_of, ranked, winner
from headstart.pipeline.sweep.result import SweepResult, describe_winner
from headstart.pipeline.sweep.sound import BASELINES, identity_of, tell_earlier_heads
from headstart.pipeline.sweep.space import CutChoice, Space, read_choices
from headstart.pipeline.sweep.study import Study
from optuna.trial import FixedTrial, FrozenTrial

if TYPE_CHECKING:
    from headstart.pipeline.sweep.trials import SearchData

_MOST_SAMPLED = 50_000  # images to which baselines are fitted if memory does not hold all; for two classes, a minute
_COPIES = 3  # of the features, of 4 bytes each, while baselines are fitted to folds
_MORE_EPOCHS = 5  # with val, the winner is trained again for at most its best epoch plus this many epochs


def sweep(
    data: Path,
    study_path: Path,
    path: Path,
    features: FeatureConfig,
    extraction: ExtractionConfig,
    config: SweepConfig,
    overwrite: bool = False,
    seed: int = 0,
    reading: DataConfig = DataConfig(),
    by_ray: ClusterConfig = ClusterConfig(),
) -> SweepResult:
    """Search for the head that is best on val by `config.choose_by`, and train it again as the run `path`.

    Trials see train and val only. With `config.folds`, `data` needs no val. `study_path` is the study's SQLite file. A
    repeated call continues the study, and several processes may fill the study at the same time. `seed` decides the
    search, every head, the folds, and the split if `data` has no split folders.

    Raises OptionError if settings can't be used, or if the study was made with other data or settings. Raises DataError
    if no head can be trained on `data`, if `data` changes during the search, or if no trial ended with a finite loss.
    Raises StoreError if the study can't be read or written, and RunError if `path` is not free; see `require_free`.
    """
    start, began = time.perf_counter(), time.time()
    require_free(path, overwrite)
    space = _space(features, config, seed, by_ray)
    study = Study(study_path, space, config.sampler, seed)
    with study.storage_errors_named():
        reading = study.read_as(reading)
        cached, seen = _cache(study, data, features, extraction, config, seed, reading, by_ray)
        shared = _search_data(cached, config, seed, by_ray)
        study.enqueue_first(space.nearest_to(HeadConfig().for_examples(shared.training_sizes[0])))
        first = space.cuts.chosen_by(lambda _, choice: choice.values[0])
        _search(study, shared, config, by_ray, _baselines(study, shared, first, extraction.memory), extraction)
        best = winner(study)
        head, cuts = _chosen(space, best, _MORE_EPOCHS if cached.of("val") else 0)
        baselines = _baselines(study, shared, cuts, extraction.memory)
        del shared  # the run reads the features again
        chosen = replace(restricted(features, cuts), precision=cached.config.precision)
        train = partial(train_run, data, path, chosen, extraction, head, seed=seed, reading=reading)
        train = partial(train, folded=figures_of(best) if config.folds else None, require=_unchanged(seen, data))
        _write_run(study, best.number, path, overwrite, began, train)
        return SweepResult(
            study=study_path,
            run=str(path),
            finished=study.finished(),
            seconds=time.perf_counter() - start,
            best=describe_winner(best, [space.cuts.names[cut] for cut in cuts], head, baselines),
            baselines=baselines,
            choose_by=config.choose_by,
        )


def _search(
    study: Study,
    data: SearchData,
    config: SweepConfig,
    by_ray: ClusterConfig,
    baselines: Sequence[Baseline],
    extraction: ExtractionConfig,
) -> None:
    """Run trials on the Ray cluster of `by_ray`, or in processes of this machine if `by_ray` has no cluster."""
    if by_ray.ray:
        from headstart.pipeline.sweep.by_ray import search_by_ray

        search_by_ray(study, data, config, by_ray, baselines)
        return
    from headstart.pipeline.sweep.processes import search

    search(study, data, config, baselines, extraction)


def _space(features: FeatureConfig, config: SweepConfig, seed: int, by_ray: ClusterConfig) -> Space:
    """Return the search space. Raises OptionError if settings can't be combined, or if the grid is too large."""
    if by_ray.ray and config.jobs > 1:
        raise OptionError(f"--jobs {config.jobs}: can't go with --ray; --ray-cpus says how many processes a node has")
    if config.own:
        config.own.require_searchable(several=config.jobs > 1 or bool(by_ray.ray))
    choices = read_choices(config.space, config.class_weight, config.own)
    space = Space(choices, CutChoice.of(features), config.choose_by, config.own)
    require_averaged(list(space.cuts.names))
    if config.folds and features.views:
        raise OptionError("--views: can't go with --folds, for val has no views")
    if features.precision == "int8":
        raise OptionError(
            "--precision int8: a network is quantised for its cuts together, so the winner's features would differ "
            "from those it was chosen by; search in another precision"
        )
    if config.sampler == "grid":
        space.grid(seed)
    return space


def _cache(
    study: Study,
    data: Path,
    features: FeatureConfig,
    extraction: ExtractionConfig,
    config: SweepConfig,
    seed: int,
    reading: DataConfig,
    by_ray: ClusterConfig,
) -> tuple[FeaturedExamples, dict[str, str]]:
    """Extract missing features of `data`. Return the examples, and hashes of the scan.

    Raises OptionError if the study was made with other data or settings.
    """
    every = replace(features, cut=tuple(study.space.cuts.names.values()))
    seen: dict[str, str] = {}

    def require(scanned: Scan, networks: list[Network]) -> None:
        require_trainable(scanned.examples, scanned.class_names, data, needs_val=not config.folds)
        seen.update(example_digests(scanned.examples, scanned.class_names))
        if config.own:
            config.own.build(networks[0].backbone.shape(networks[0].cuts[0])[-1], len(scanned.class_names))
        record = study.require_same(identity_of(study.space, config, features, networks, seen, seed))
        tell_earlier_heads(study.path, record)
        study.keep_reading(reading)

    cached = cache_features(data, every, extraction, seed, require, reading, by_ray=by_ray)
    require_trainable(cached.examples, cached.class_names, data, needs_val=not config.folds)
    # Some scanned examples may be unreadable in this start, and readable in another.
    used = example_digests(cached.examples, cached.class_names)
    readable = {f"examples of {name} that could be read": used.get(name, "") for name in ("train", "val")}
    study.require_same(readable, "examples used")
    tell_conflicts([*cached.of("train"), *cached.of("val")], cached.class_names)
    return cached, seen


def _search_data(cached: FeaturedExamples, config: SweepConfig, seed: int, by_ray: ClusterConfig) -> SearchData:
    """Return the features of train and val, with the folds in which heads are trained and validated."""
    from headstart.pipeline.sweep.trials import SearchData

    train, val = cached.of("train"), cached.of("val")
    labelled = cached.labelled([*train, *val], viewed=train)
    data = SearchData(labelled, [(slice(0, len(train)), slice(len(train), None))])
    if by_ray.ray:
        data.require_in_memory()
    if not config.folds:
        return data
    folds = _folds([*train, *val], labelled.labels, config.folds, seed)
    if config.choose_by == "auc" and any(len(set(labelled.labels[val])) < 2 for _, val in folds):
        raise DataError(f"--choose-by auc: a fold of --folds {config.folds} has one class alone; give fewer folds")
    return replace(data, folds=folds)


def _folds(examples: Sequence[Example], labels: np.ndarray, count: int, seed: int) -> Sequence[Fold]:
    """Draw `count` folds with similar class proportions. Copies of an image, and images of a group, share a fold."""
    _, fewest = rarest(labels, [example.image.digest for example in examples])
    if fewest < count:
        raise DataError(f"--folds {count}: a class has {fewest} different images alone in train and val")
    return require_trainable_folds(draw_folds(labels, unit_names(examples), count, seed), labels, count)


def _baselines(study: Study, data: SearchData, cuts: Sequence[Cut], memory: float) -> list[Baseline]:
    """Return the scores of the baselines on the features at `cuts`.

    The study keeps the scores. The baselines are fitted only if the study has no scores for these cuts.
    """
    where = study.space.cuts.name(cuts)
    key = f"{BASELINES}{where}"
    kept = study.optuna.user_attrs.get(key)
    if kept is None:
        labelled, every = data.labelled.at(cuts), len(data.labelled)
        folds, sample = data.folds, None
        most = rows_in_memory(_COPIES * labelled.features.shape[1], memory)
        if every > most:
            rows, folds = sampled_folds(labelled.labels, folds, min(most, _MOST_SAMPLED), study.seed)
            labelled, sample = labelled.take(rows), len(rows)
        those = f" of {sample:,} of {every:,} images, for memory does not hold all" if sample else ""
        console.print(f"fitting logistic regression and nearest neighbours to the features at {where}{those}")
        features = labelled.features[:]
        fitted = fit_baselines(features, labelled.labels, folds, labelled.classes, study.space.choose_by)
        fields = [asdict(replace(one, sample=sample)).items() for one in fitted]
        kept = [{name: value for name, value in one if value is not None} for one in fields]
        study.optuna.set_user_attr(key, kept)
    return [Baseline(**fields) for fields in kept]


def _chosen(space: Space, winner: FrozenTrial, more: int) -> tuple[HeadConfig, list[Cut]]:
    """Return the settings and the cuts with which `winner` is trained again.

    The training lasts at most `more` epochs beyond the best epoch of `winner`.
    """
    head, cuts = space.suggest(FixedTrial(winner.params))
    return replace(head, epochs=min(head.epochs, winner.user_attrs["best_epoch"] + more)), cuts


def _write_run(
    study: Study, number: int, path: Path, overwrite: bool, began: float, train: Callable[..., HeadResult]
) -> None:
    """Train the winner, whose trial number is `number`, and write the run to `path`.

    If another process meanwhile wrote the run of this trial or of a better trial to `path`, only print a line.
    """
    origin = {"study": plain_path(study.path), "trial": number}
    with study.locked():
        there = Run.existing(path) if path.exists() else None
        written = _origin(there, overwrite) if there else {}
        since = there is not None and there.config_file.stat().st_mtime >= began
        of_this_study = written.get("study") == origin["study"]
        better = [trial.number for trial in ranked(study.finished())]
        better = better[: better.index(number)]  # better trials, finished after this process chose its winner
        if (written == origin and (since or not overwrite)) or (of_this_study and written["trial"] in better):
            console.print(f"{path} is there: another process that fills {study.path} wrote it")
        else:
            train(overwrite=overwrite or of_this_study, sweep=origin)


def _origin(run: Run, overwrite: bool) -> dict[str, Any]:
    """Return the study and trial of `run`, or {} if none. Raises RunError for a damaged run, unless `overwrite`."""
    try:
        return run.config().get("sweep") or {}
    except RunError:
        if overwrite:
            return {}
        raise


def _unchanged(then: dict[str, str], data: Path) -> ScanCheck:
    """Return a check that raises DataError if classes, train or val changed.

    The argument `then` holds the earlier hashes of classes, train and val.
    """

    def require(scanned: Scan, _: list[Network]) -> None:
        now = example_digests(scanned.examples, scanned.class_names)
        changed = [name for name in ("classes", "train", "val") if now.get(name) != then.get(name)]
        if changed:
            raise DataError(
                f"{data}: changed while heads were searched for ({', '.join(changed)}), so no run was made; the study "
                "is of the earlier data"
            )

    return require
