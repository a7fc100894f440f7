"""Find the data, the store and the weights of a run. Each may have been moved since the run was made.

If an option names a place, only this place is tried. Otherwise, places are tried in this order:

- The place in the run's settings.
- The place in the environment variable HEADSTART_DATA, HEADSTART_STORE or HEADSTART_WEIGHTS.
- For weights, the files that were used with the store.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from headstart.features.backbones.cuts import (
    KNOWN_WEIGHTS,
    chosen_backbones,
    chosen_weights,
    renamed,
    weights_of_each,
)
from headstart.features.backbones.facts import KnownBackbones
from headstart.features.backbones.outlines import is_own
from headstart.features.backbones.used import used_with
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import HeadstartError, OptionError, RunError, WeightsError
from headstart.features.frozen.network import Network, load_networks, weights_digest
from headstart.pipeline.data.reading import require_data
from headstart.pipeline.data.tars.naming import is_there
from headstart.pipeline.places import NetworkPlaces, Places
from headstart.pipeline.runs import Run


def run_data(run: Run, places: Places = Places()) -> Path:
    """Return the path of the data of `run`.

    The first of these paths that applies is chosen:

    - `places.data`, if it is given.
    - The path in the run's settings, if something exists at this path.
    - The path in the environment variable HEADSTART_DATA, if the variable is set.

    If none applies, a RunError is raised. For errors about the path that was chosen, see `require_data`.
    """
    own = Path(run.config()["data"])
    found = places.data or (own if is_there(own) else _from_environment("data"))
    if found is None:
        raise _gone(run, "data", own)
    require_data(Path(found))
    return Path(found)


def run_store(run: Run, places: NetworkPlaces = NetworkPlaces()) -> Path:
    """Return the path of the store of `run`.

    The first of these stores that applies is chosen:

    - `places.store`, if it is given.
    - The store in the run's settings, if it has the run's features.
    - The store in the environment variable HEADSTART_STORE, if the variable is set.

    The first and the last store are not checked, so their folders may be missing. If none of the three applies, a
    RunError is raised.
    """
    found = known_store(run, places)
    if found is None:
        raise _gone(run, "store", run.extraction_config().store)
    return found


def known_store(run: Run, places: NetworkPlaces = NetworkPlaces()) -> Path | None:
    """Return the store of `run` as `run_store` does, or None if `run_store` would raise a RunError."""
    own = run.extraction_config().store
    found = places.store or (own if _holds(own, run) else _from_environment("store"))
    return Path(found) if found else None


def located_networks(
    run: Run,
    places: NetworkPlaces,
    settings: FeatureConfig,
    extraction: ExtractionConfig,
    known: KnownBackbones | None,
) -> tuple[FeatureConfig, list[Network]]:
    """Load the networks of `run`, with weights that have the same digest as the run's weights.

    `settings` are the run's settings, or other settings that need the same weights. For `extraction` and `known`, see
    `load_networks`. If `places` names weights, only these weights are tried. If not, weights are tried in the order of
    `_candidates`.

    Returns a copy of `settings` with the weights that were found, and the networks. If no weights can be used, a
    RunError, WeightsError or OptionError is raised.
    """
    digest = run.config()["weights_digest"]
    failure: HeadstartError | None = None
    for file, config in _candidates(settings, places, digest, extraction.store):
        try:
            networks = load_networks(config, extraction, known)
            found = weights_digest(networks)
            if found == digest:
                return config, networks
            failure = failure or RunError(
                f"{run.path}: {file} holds other weights ({found[:8]}...) than the run was trained with "
                f"({digest[:8]}...); say with --weights or HEADSTART_WEIGHTS where those are"
            )
        except (WeightsError, OptionError) as error:
            failure = failure or error
        if places.weights:
            break
    raise failure or _gone(run, "weights", *_gone_files(settings))


def _candidates(
    own: FeatureConfig, places: NetworkPlaces, digest: str, store: Path
) -> Iterator[tuple[str, FeatureConfig]]:
    """Yield a pair for each candidate for the weights of a run, the likeliest candidate first.

    A pair holds the name of the weights, and the settings in the argument `own`, changed to use these weights.
    """
    if places.weights:
        yield places.weights, _with_files(own, places.weights)
        return
    if not _gone_files(own):
        yield "+".join(_files(own)), own
    used = [one.file for one in used_with(store) if one.digest == digest and one.is_at_hand()]
    for given in dict.fromkeys([_from_environment("weights"), *used]):
        with suppress(OptionError):  # the file is for a network of another kind
            if given:
                yield given, _with_files(own, given)


def _files(config: FeatureConfig) -> list[str]:
    """Return the source of each backbone's weights: a file, `imagenet` or `random`."""
    return [name if is_own(name) else weights for name, weights in chosen_weights(config).items()]


def _gone_files(config: FeatureConfig) -> list[str]:
    return [file for file in _files(config) if file not in KNOWN_WEIGHTS and not Path(file).exists()]


def _holds(store: Path, run: Run) -> bool:
    """Return whether `store` has a folder of features for each cut of `run`."""
    # A run from another machine must not decide which folder this machine writes to.
    keys = list(run.config()["fingerprints"].values())
    return bool(keys) and all(key.isalnum() and any(store.glob(f"*-{key[:12]}/fingerprint.json")) for key in keys)


def _from_environment(kind: str) -> str | None:
    return os.environ.get(f"HEADSTART_{kind.upper()}") or None


def _gone(run: Run, kind: str, *places: object) -> RunError:
    state = "does not hold its features" if kind == "store" and Path(str(places[0])).exists() else "is gone"
    return RunError(
        f"{run.path}: its {kind} {places[0]} {state}; say with --{kind} or HEADSTART_{kind.upper()} where it is now"
    )


def _with_files(config: FeatureConfig, text: str) -> FeatureConfig:
    """Return a copy of `config` that uses the weights that `text` names.

    `text` is the path of one file, or one path per backbone, joined by `+`.
    """
    files = weights_of_each(chosen_backbones(config), text)
    # A backbone that is a `.keras` file holds its own weights, so the whole backbone is replaced.
    moved = {name: os.path.abspath(file) for name, file in files.items() if is_own(name)}
    others = [file for name, file in files.items() if not is_own(name)]
    for name, file in files.items():
        if is_own(name) != is_own(file):
            kind = ".keras file" if is_own(name) else ".weights.h5 or _notop.h5 file"
            raise OptionError(f"--weights {text}: {name} needs a {kind}")

    return replace(
        config,
        backbone="+".join(moved.get(name, name) for name in files),
        weights=config.weights if not others else others[0] if len(set(others)) == 1 else "+".join(others),
        cut=tuple(renamed(cut, moved) for cut in config.cut),
    )
