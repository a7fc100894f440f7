"""Load the model of an export for serving. The model runs in the runtime of the export's format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from headstart.features.errors import ExportError, OptionError
from headstart.features.images.faults import Fault, why_damaged
from headstart.features.images.formats import Header
from headstart.features.images.opening import limit_lifted
from headstart.pipeline.export import preprocess
from headstart.pipeline.export.config import MODEL_FILES
from headstart.pipeline.export.opened import OpenExport, open_export
from headstart.pipeline.places import Places
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.items import Layout
from headstart.pipeline.predict.trust import Trust, require_likeliest
from headstart.pipeline.scoring.thresholds import Threshold, moved
from headstart.pipeline.serve.config import ServeConfig
from headstart.pipeline.serve.served import SHOWN, Found, Pixels

_BATCH_SIZE = 8


def is_export(path: Path) -> bool:
    """Return whether `path` is the folder of an export, or a model file in such a folder."""
    if (path / "config.json").exists():
        return False
    is_model = path.name in MODEL_FILES.values() and path.exists()
    return (path / "labels.json").is_file() or (is_model and (path.parent / "labels.json").is_file())


@dataclass(frozen=True)
class ServedExport:
    """The model of an export. Its runtime uses all cores for one forward pass, so passes run one after another."""

    opened: OpenExport
    layout: Layout
    max_pixels: int
    images_per_pass: int
    passes: int = 1

    def pixels(self, data: bytes, name: str, header: Header) -> Pixels | Fault:
        """Return the pixels of an image, or the fault if the image can't be used; see `Served`.

        The pixels are made by the module `preprocess.py`, of which each export holds a copy.
        """
        try:
            with limit_lifted:
                settings = {**self.opened.preprocessing, "most_pixels": self.max_pixels}
                return [preprocess.pixels(data, **settings)]
        except MemoryError:
            raise
        except Exception as error:  # Pillow's parsers raise almost anything
            return why_damaged(error)

    def answers(self, images: Sequence[Pixels], number: int) -> Sequence[Found]:
        """Return an answer for each of `images`; see `Served`. Raises an ExportError if a probability is not finite."""
        chances = self.opened.probabilities(np.stack([pixels for (pixels,) in images])).astype(np.float64)
        if not np.isfinite(chances).all():
            raise ExportError(f"{self.opened.path}: its model yields values that are not finite; export the run again")
        return [Found(row) for row in chances]


def serve_export(path: Path, config: ServeConfig, places: Places) -> ServedExport:
    """Load the model of the export at `path`.

    Raises OptionError if `config` or `places` holds an option that does not apply to this export. For other errors, see
    `open_export`.
    """
    if config.model != "auto" or places != Places():
        raise OptionError(f"--model, --store, --weights, --data: are for runs; {path} is an export and needs none")
    if config.neighbours not in (0, ServeConfig().neighbours):
        raise OptionError(
            f"--neighbours {config.neighbours}: is for runs, and {path} is an export; leave --neighbours out"
        )
    opened = open_export(path)
    names, threshold = opened.class_names, None
    if config.threshold is not None and len(names) != 2:
        raise OptionError(f"--threshold {config.threshold:g}: is for two classes; {path} has {len(names)}")
    positive = _positive(opened)
    if opened.second_above is not None:
        above = opened.second_above if positive == names[1] else 1 - opened.second_above
        threshold = Threshold(positive, above, "of the export")
    if config.threshold is not None:
        threshold = Threshold(positive, config.threshold, "given by --threshold")
    if moved(threshold):
        require_likeliest(PredictConfig(abstain=config.abstain))
    trust = Trust(abstain=config.abstain)
    layout = Layout(names, min(SHOWN, len(names)), True, opened.format, trust, threshold)
    most = min(config.max_pixels, int(opened.preprocessing["most_pixels"]))
    return ServedExport(opened, layout, most, config.batch_size or _BATCH_SIZE)


def _positive(opened: OpenExport) -> str:
    """Return the name of the export's positive class. Without a threshold, the second class is positive."""
    kept = opened.labels.get("threshold")
    positive = kept.get("positive") if isinstance(kept, dict) else None
    return positive if positive in opened.class_names[:2] else opened.class_names[1]
