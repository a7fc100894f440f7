"""Two-phase transfer learning on images: the frozen network sees each image once.

The public names below are loaded when they are first used, so that `import headstart` is instant.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "features.config": ("ExtractionConfig", "FeatureConfig"),
    "features.errors": ("DataError", "HeadstartError", "OptionError", "RunError", "StoreError", "WeightsError"),
    "features.store.store": ("FeatureStore",),
    "pipeline.backbones.backbones": ("list_backbones",),
    "pipeline.check.check": ("check",),
    "pipeline.check.config": ("CheckConfig",),
    "pipeline.data.config": ("DataConfig",),
    "pipeline.evaluate.compare": ("compare",),
    "pipeline.evaluate.evaluate": ("evaluate",),
    "pipeline.export.config": ("ModelExportConfig",),
    "pipeline.export.export": ("export",),
    "pipeline.export.opened": ("open_export",),
    "pipeline.featured": ("cache_features",),
    "pipeline.finetune.config": ("FinetuneConfig",),
    "pipeline.finetune.finetune": ("finetune",),
    "pipeline.head.config": ("HeadConfig",),
    "pipeline.head.run": ("train_run",),
    "pipeline.places": ("NetworkPlaces", "Places"),
    "pipeline.predict.config": ("PredictConfig",),
    "pipeline.predict.predict": ("predict", "predict_to_file"),
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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    return getattr(import_module(f"headstart.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
