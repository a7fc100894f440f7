"""Load the models of a run. A model may come from elsewhere, so its inputs and outputs are checked."""

from pathlib import Path
from typing import Any

from headstart.features.backbones.loading import load_keras
from headstart.features.errors import RunError, WeightsError
from headstart.features.tensorflow import keras
from headstart.pipeline.runs.files import REMEDY


def load_head(file: Path, classes: int, shape: tuple[int, ...] | None = None) -> keras.Model:
    """Load a head from `file`. A head maps features to logits.

    The features have the shape [B, D], and the dtype float32, float16 or bfloat16. The logits are float32 [B, 1] (two
    classes) or [B, classes]. `shape` is (D,), the required shape of the features of one image. If `shape` is None, D
    may be any number. Raises RunError if the file is damaged or holds another kind of model; see `Run.load_model`.
    """
    return _load(file, classes, (None, *(shape or (None,))), ("float32", "float16", "bfloat16"))


def load_classifier(file: Path, classes: int, shape: tuple[int, ...] | None = None) -> keras.Model:
    """Load a classifier from `file`. A classifier maps pixels to logits.

    The pixels are uint8 [B, H, W, 3]. The logits are float32 [B, 1] (two classes) or [B, classes]. `shape` is
    (H, W, 3), the required shape of the pixels of one image. If `shape` is None, H and W may be any numbers. Raises
    RunError if the file is damaged or holds another kind of model; see `Run.load_model`.
    """
    return _load(file, classes, (None, *(shape or (None, None, 3))), ("uint8",))


def _load(file: Path, classes: int, shape: tuple[int | None, ...], dtypes: tuple[str, ...]) -> keras.Model:
    try:
        model = load_keras(str(file), str(file), REMEDY)
    except WeightsError as error:
        raise RunError(str(error)) from error
    inputs, outputs = _tensors(model, "inputs"), _tensors(model, "outputs")
    units = 1 if classes == 2 else classes  # with two classes, the only logit is the logit of the second class
    taken = len(inputs) == 1 and _fits(inputs[0][0], shape) and inputs[0][1] in dtypes
    if not taken:
        raise RunError(f"{file}: takes {_shown(inputs)} and not {_shown([(shape, dtypes[0])])}; {REMEDY}")
    if len(outputs) != 1 or outputs[0] != ((None, units), "float32"):
        wanted = _shown([((None, units), "float32")])
        raise RunError(f"{file}: yields {_shown(outputs)} and not {wanted} for {classes} classes; {REMEDY}")
    return model


def _tensors(model: Any, name: str) -> list[tuple[tuple[int | None, ...], str]]:
    """Return the shape and dtype of each input, or of each output, of `model`. `name` is `inputs` or `outputs`.

    If the model has no graph, return [].
    """
    try:
        return [(tuple(one.shape), str(one.dtype)) for one in getattr(model, name)]
    except (AttributeError, ValueError, TypeError):
        return []


def _fits(found: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    """Return whether the shape `found` fits the shape `wanted`. In `wanted`, None allows any size.

    In `found`, the batch size must be None, and all other sizes must be numbers.
    """
    sides = zip(found[1:], wanted[1:], strict=False)
    return len(found) == len(wanted) and found[0] is None and all(b in (None, a) and a is not None for a, b in sides)


def _shown(tensors: list[tuple[tuple[int | None, ...], str]]) -> str:
    return ", ".join(f"{dtype} {list(shape)}" for shape, dtype in tensors)[:160] or "nothing"
