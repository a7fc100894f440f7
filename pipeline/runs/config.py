"""The form of a run's `config.json` and `metrics.json`. A run may come from elsewhere, so all fields are checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from headstart.features.backbones.cuts import chosen_backbones
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import OptionError, RunError
from headstart.features.terminal import console
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.names import is_text
from headstart.pipeline.runs.files import REMEDY
from headstart.pipeline.scoring.thresholds import Threshold

_T = TypeVar("_T")
_UNSAID = {"bits": "16"}  # the values that early versions used without writing the field


@dataclass(frozen=True)
class Origin:
    """The origin of a run that a search made: the study, and the number of the trial that won."""

    study: str
    trial: int


@dataclass(frozen=True)
class RunConfig:
    """The fields of `config.json`. Only fields with a default may be missing from the file."""

    data: str  # path of the data folder or list
    seed: int
    class_names: list[str]
    features: dict[str, Any]  # the fields of `FeatureConfig` and `ExtractionConfig`
    head: dict[str, Any]  # the fields of `HeadConfig`
    weights_digest: str  # the digests of all networks' weights, joined by `+`
    fingerprints: dict[str, str]  # from the name of a cut to the key of its fingerprint
    examples: dict[str, str]  # see `example_digests`
    versions: dict[str, str] = field(default_factory=dict)
    reading: dict[str, Any] | None = None  # the fields of `DataConfig`; None in runs of versions before 0.2
    finetune: dict[str, Any] | None = None  # the fields of `FinetuneConfig`, and more
    sweep: Origin | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:  # NumPy takes no other
            raise ValueError(f"seed is {self.seed}")
        distinct = len(set(self.class_names))
        if distinct < max(2, len(self.class_names)):
            raise ValueError(f"class_names holds {len(self.class_names)} names, {distinct} of them distinct")
        if broken := [name for name in self.class_names if not is_text(name)]:
            raise ValueError(f"class_names holds {broken[0]!a}, which is no text")
        if "\0" in self.data:
            raise ValueError("data is no path")


@dataclass(frozen=True)
class PhaseMetrics:
    """The part of `metrics.json` about one phase of training. A phase is the training of the head, or fine-tuning."""

    val: dict[str, float | None] = field(default_factory=dict)
    before: dict[str, float | None] = field(default_factory=dict)
    best_epoch: int = 0
    seconds: float | None = None
    images_per_second: float | None = None
    threshold: Threshold | None = None  # only with two classes; `evaluate` writes it


@dataclass(frozen=True)
class RunMetrics:
    """The fields of `metrics.json`."""

    head: PhaseMetrics | None = None
    finetune: PhaseMetrics | None = None
    evaluate: dict[str, dict[str, Any]] = field(default_factory=dict)
    cross_validation: dict[str, Any] | None = None  # the result of `evaluate --folds`


def require_valid_config(values: Mapping[str, Any], file: Path) -> None:
    """Raise a RunError unless `values` have the form of a run's settings. `values` were read from `file`.

    The message names the invalid field, and the version of headstart that wrote `file`. An unknown field in `features`
    or `reading` also raises a RunError. All other unknown fields are ignored. If a later version of headstart wrote
    `file`, a line on the console names the ignored fields of the top level.
    """
    try:
        config = converted(values, RunConfig)
        settings = _UNSAID | config.features
        features = converted(settings, FeatureConfig, "features")
        extraction = converted(settings, ExtractionConfig, "features", ("cut", "store"))
        require_known(config.features, "features", FeatureConfig, ExtractionConfig)
        if config.reading is not None:
            converted(config.reading, DataConfig, "reading")
            require_known(config.reading, "reading", DataConfig)
        if "\0" in f"{features.backbone}{features.weights}{extraction.store}{''.join(features.cut)}":
            raise ValueError("features: holds a path with a zero byte")
        chosen_backbones(features)
    except (ValueError, OptionError) as error:
        raise RunError(f"{file}: {' '.join(str(error).split())[:300]}; {remedy(values)}") from error
    unknown = sorted(set(values) - {one.name for one in fields(RunConfig)})
    if unknown and _later(values):
        console.print(f"{file}: {', '.join(unknown)[:200]} not used: {remedy(values)}", style="yellow")


def require_valid_metrics(values: Mapping[str, Any], file: Path) -> None:
    """Raise a RunError unless `values` have the form of a run's metrics. `values` were read from the file `file`."""
    try:
        converted(values, RunMetrics)
    except ValueError as error:
        raise RunError(f"{file}: {error}; {REMEDY}") from error


def remedy(values: Mapping[str, Any]) -> str:
    """Return a text that says what to do if `values`, the settings of a run, can't be used.

    The text also names two versions of headstart: the version that wrote `values`, and the version that runs now.
    """
    from importlib.metadata import version

    by, here = _written_by(values), version("headstart")
    advice = "upgrade headstart" if _later(values) else REMEDY
    return f"written by headstart {by or '(it does not say which)'}, this is {here}: {advice}"


def _written_by(values: Mapping[str, Any]) -> str:
    versions = values.get("versions")
    found = versions.get("headstart") if isinstance(versions, dict) else None
    return found[:40] if isinstance(found, str) else ""


def _later(values: Mapping[str, Any]) -> bool:
    from importlib.metadata import version

    from packaging.version import InvalidVersion, Version  # late: most runs need no comparison

    try:
        return Version(_written_by(values)) > Version(version("headstart"))
    except InvalidVersion:
        return False


def converted(values: Mapping[str, Any], kind: type[_T], where: str = "", needed: Sequence[str] = ()) -> _T:
    """Convert `values`, a JSON object, to the type `kind`, such as a dataclass. Return the result.

    `needed` names fields that must be in `values`, even if `kind` has defaults for them. Raises a ValueError if a field
    is wrong or missing. The message begins with `where`, and names the field.
    """
    import msgspec  # late: most commands read no run

    def path(wanted: type, value: Any) -> Any:
        if wanted is Path and isinstance(value, str):
            return Path(value)
        raise ValueError(f"Expected `{wanted.__name__}`, got `{type(value).__name__}`")

    lacking = [name for name in needed if name not in values]
    if lacking:
        raise ValueError(f"{where}: lacks the field {lacking[0]!r}")
    try:
        return msgspec.convert(values, kind, dec_hook=path)
    except msgspec.ValidationError as error:
        what, _, at = str(error).partition(" - at `$")
        name = f"{where}{at.rstrip('`')}".strip(".")
        raise ValueError(f"{name}: {what}" if name else what) from error


def require_known(values: Mapping[str, Any], where: str, *kinds: Any) -> None:
    """Raise a ValueError if `values` has an unknown name.

    A name is known if it is a field of at least one of the dataclasses `kinds`. The message begins with `where`, and
    names the first unknown name in alphabetical order.
    """
    unknown = sorted(set(values) - {one.name for kind in kinds for one in fields(kind)})
    if unknown:
        raise ValueError(f"{where}.{unknown[0][:80]}: is unknown")
