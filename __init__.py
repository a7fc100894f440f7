"""Two-phase transfer learning on images: the frozen network sees each image once.

The names in `__all__` are the public library. All other names may change from version to version. The public names are
loaded when they are first used, so that `import headstart` is instant.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in `_NAMES`, for editors and type checkers
    from headstart.features.config import ExtractionConfig as ExtractionConfig
    from headstart.features.config import FeatureConfig as FeatureConfig
    from headstart.features.errors import DataError as DataError
    from headstart.features.errors import DivergedError as DivergedError
    from headstart.features.errors import HeadstartError as HeadstartError
    from headstart.features.errors import OptionError as OptionError
    from headstart.features.errors import RunError as RunError
    from headstart.features.errors import StoreError as StoreError
    from headstart.features.errors import WeightsError as WeightsError
    from headstart.features.store.store import FeatureStore as FeatureStore
    from headstart.pipeline.advise.advise import advise as advise
    from headstart.pipeline.advise.config import AdviseConfig as AdviseConfig
    from headstart.pipeline.backbones.backbones import list_backbones as list_backbones
    from headstart.pipeline.check.check import check as check
    from headstart.pipeline.check.config import CheckConfig as CheckConfig
    from headstart.pipeline.data.config import DataConfig as DataConfig
    from headstart.pipeline.evaluate.compare import compare as compare
    from headstart.pipeline.evaluate.config import ThresholdConfig as ThresholdConfig
    from headstart.pipeline.evaluate.evaluate import evaluate as evaluate
    from headstart.pipeline.export.config import ModelExportConfig as ModelExportConfig
    from headstart.pipeline.export.export import export as export
    from headstart.pipeline.export.opened import open_export as open_export
    from headstart.pipeline.featured import cache_features as cache_features
    from headstart.pipeline.finetune.config import FinetuneConfig as FinetuneConfig
    from headstart.pipeline.finetune.finetune import finetune as finetune
    from headstart.pipeline.head.config import HeadConfig as HeadConfig
    from headstart.pipeline.head.run import train_run as train_run
    from headstart.pipeline.labels.config import LabelsConfig as LabelsConfig
    from headstart.pipeline.labels.labels import labels as labels
    from headstart.pipeline.library.runs import LoadedRun as LoadedRun
    from headstart.pipeline.library.runs import classifier as classifier
    from headstart.pipeline.library.runs import load as load
    from headstart.pipeline.library.runs import train_head as train_head
    from headstart.pipeline.library.table import FeatureTable as FeatureTable
    from headstart.pipeline.library.table import features as features
    from headstart.pipeline.library.transformer import HeadstartFeatures as HeadstartFeatures
    from headstart.pipeline.places import NetworkPlaces as NetworkPlaces
    from headstart.pipeline.places import Places as Places
    from headstart.pipeline.predict.config import PredictConfig as PredictConfig
    from headstart.pipeline.predict.predict import Prediction as Prediction
    from headstart.pipeline.predict.predict import predict as predict
    from headstart.pipeline.predict.predict import predict_to_file as predict_to_file
    from headstart.pipeline.prepare.config import PrepareConfig as PrepareConfig
    from headstart.pipeline.prepare.prepare import prepare as prepare
    from headstart.pipeline.report.config import ReportConfig as ReportConfig
    from headstart.pipeline.report.report import report as report
    from headstart.pipeline.runs import Run as Run
    from headstart.pipeline.study.config import StudyConfig as StudyConfig
    from headstart.pipeline.study.study import study as study
    from headstart.pipeline.sweep.config import SweepConfig as SweepConfig
    from headstart.pipeline.sweep.sweep import sweep as sweep

_NAMES = {
    "features.config": ("ExtractionConfig", "FeatureConfig"),
    "features.errors": (
        "DataError",
        "DivergedError",
        "HeadstartError",
        "OptionError",
        "RunError",
        "StoreError",
        "WeightsError",
    ),
    "features.store.store": ("FeatureStore",),
    "pipeline.advise.advise": ("advise",),
    "pipeline.advise.config": ("AdviseConfig",),
    "pipeline.backbones.backbones": ("list_backbones",),
    "pipeline.check.check": ("check",),
    "pipeline.check.config": ("CheckConfig",),
    "pipeline.data.config": ("DataConfig",),
    "pipeline.evaluate.compare": ("compare",),
    "pipeline.evaluate.config": ("ThresholdConfig",),
    "pipeline.evaluate.evaluate": ("evaluate",),
    "pipeline.export.config": ("ModelExportConfig",),
    "pipeline.export.export": ("export",),
    "pipeline.export.opened": ("open_export",),
    "pipeline.featured": ("cache_features",),
    "pipeline.finetune.config": ("FinetuneConfig",),
    "pipeline.finetune.finetune": ("finetune",),
    "pipeline.head.config": ("HeadConfig",),
    "pipeline.head.run": ("train_run",),
    "pipeline.labels.config": ("LabelsConfig",),
    "pipeline.labels.labels": ("labels",),
    "pipeline.library.runs": ("LoadedRun", "classifier", "load", "train_head"),
    "pipeline.library.table": ("FeatureTable", "features"),
    "pipeline.library.transformer": ("HeadstartFeatures",),
    "pipeline.places": ("NetworkPlaces", "Places"),
    "pipeline.predict.config": ("PredictConfig",),
    "pipeline.predict.predict": ("Prediction", "predict", "predict_to_file"),
    "pipeline.prepare.config": ("PrepareConfig",),
    "pipeline.prepare.prepare": ("prepare",),
    "pipeline.report.config": ("ReportConfig",),
    "pipeline.report.report": ("report",),
    "pipeline.runs": ("Run",),
    "pipeline.study.config": ("StudyConfig",),
    "pipeline.study.study": ("study",),
    "pipeline.sweep.config": ("SweepConfig",),
    "pipeline.sweep.sweep": ("sweep",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_MODULES)  # noqa: PLE0605


class _FeaturesPackage(ModuleType):
    """The type of the sub-package `headstart.features`. A call of the sub-package calls the function `features`.

    The sub-package and the function have the same name. At run time, the name always means the sub-package. For a type
    checker, the name means the function.
    """

    __module__ = "headstart.features"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, tuple[str]]:  # for pickle and copy
        return import_module, (self.__name__,)

    @property
    def __wrapped__(self) -> Any:  # `help` and `inspect.signature` find the function here
        return import_module("headstart.pipeline.library.table").features


import_module("headstart.features").__class__ = _FeaturesPackage  # sets variables for TensorFlow; imports nothing


def command_line() -> None:
    """Run the command `headstart`. A signal ends the process with one line, even during the import of the commands."""
    from headstart.features.signals import one_line_at_signals

    with one_line_at_signals():
        import_module("headstart.cli").app()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    return getattr(import_module(f"headstart.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
