"""The content of `start.json`, which says how a fine-tuning began.

All fields are checked, because the file may come from another machine.
"""

from dataclasses import dataclass
from typing import Any, Literal

from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.runs.config import converted
from headstart.pipeline.scoring.choosing import canonical

EARLIER = {  # settings that versions before 0.2 lacked, with the values that they had in effect
    "schedule": "constant",
    "warmup": 0,
    "clip_norm": 0.0,
    "choose_by": "loss",
    "label_smoothing": 0.0,
    "class_weight": "none",
}


@dataclass(frozen=True, kw_only=True)
class Start:
    """The settings with which a fine-tuning began, and the figures of epoch 0 on val.

    Epoch 0 is the model before fine-tuning: only the head has been trained.
    """

    settings: dict[str, Any]  # the fields of `FinetuneConfig` without `auto`, and the seed; earlier versions lack some
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # early versions did not write it
    from_layer: int | None = None  # index of the first trained layer; early versions did not write it
    before: dict[str, float | None]  # the head's figures on val; None is an undefined figure

    def __post_init__(self) -> None:
        begun = converted({**EARLIER, **self.settings}, FinetuneConfig, "settings")
        if begun.choose_by == "auto" or begun.class_weight == "auto":
            raise ValueError("settings: holds 'auto' in place of a choice")
        wanted = {"loss", "accuracy", canonical(begun.choose_by)}
        if set(self.before) != wanted:
            raise ValueError(f"before: holds {str(sorted(self.before))[:80]}, and not {sorted(wanted)}")
