"""An OpenVINO model. NNCF (the extra `int8`) makes the int8 form. OpenVINO runs the model."""

import logging
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.errors import ExportError
from headstart.features.frozen.engines import ConversionError, load_openvino
from headstart.pipeline.export.formats.packages import package, refusal, refused

if TYPE_CHECKING:
    from headstart.pipeline.export.deployable import Deployable

_INPUT, _OUTPUT, _OURS = "pixels", "probabilities", "headstart"


def write(deployable: "Deployable", path: Path, precision: str, calibration: np.ndarray | None) -> None:
    """Write `deployable` as an OpenVINO model: a `.xml` file at `path`, and its weights in a `.bin` file beside it.

    The entry `headstart` of the model's `rt_info` holds the metadata. With float16, weights lie in the file as float16,
    and OpenVINO computes with them in float32. With int8, weights and activations are quantised. The ranges of
    activations are measured on the images `calibration`, uint8 [N, S, S, 3].

    Raises an ExportError if OpenVINO can't hold the network, if NNCF is missing, or if float16 can't hold a weight.
    """
    from headstart.features.frozen.engines import converted
    from headstart.features.frozen.frozen import traced_model

    openvino = load_openvino()
    try:
        model = converted(traced_model(deployable.model, compiled=False))
    except ConversionError as error:
        said = str(error.__cause__ or error).rpartition("Summary:")[2]  # the text before says the same at length
        raise refusal("openvino", "OpenVINO", ValueError(said)) from error
    if precision == "float16":
        _require_halves(deployable)
    if precision == "int8":
        if calibration is None:
            raise ValueError("int8 needs images for its calibration")
        with refused("openvino", "NNCF"):
            model = _quantised(model, calibration)
    _name(model)
    for name, text in sorted(deployable.metadata.items()):
        model.set_rt_info(text, [_OURS, name])
    openvino.save_model(model, path, compress_to_fp16=precision == "float16")


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load the model in OpenVINO. The result maps pixels (uint8 [B, S, S, 3]) to probabilities (float32 [B, C]).

    OpenVINO computes in float32, even on processors for which its default is bfloat16.
    """
    compiled = load_openvino().Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: np.array(compiled(batch)[_OUTPUT])


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of the model. Raises an ExportError if the model has none."""
    try:
        model = load_openvino().Core().read_model(str(path))
        return {str(name): str(text) for name, text in model.get_rt_info([_OURS]).value.items()}
    except (RuntimeError, AttributeError) as error:
        raise ExportError(f"{path}: is no export of headstart; `headstart export RUN OUT` makes one") from error


def _name(model: Any) -> None:
    """Name all operations by their places in the graph, so that the same model always gives the same file."""
    model.set_friendly_name("classifier")
    for at, operation in enumerate(model.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{at}")
        for output in operation.outputs():
            output.get_tensor().set_names({f"{operation.get_friendly_name()}:{output.get_index()}"})
    model.input(0).get_node().set_friendly_name(_INPUT)
    model.input(0).get_tensor().set_names({_INPUT})
    model.output(0).get_tensor().set_names({_OUTPUT})


def _require_halves(deployable: "Deployable") -> None:
    """Raise an ExportError if float16 can't hold a weight. OpenVINO itself would write infinity."""
    from headstart.pipeline.export.formats.keras_file import half

    for weight in deployable.model.weights:
        half(weight.numpy(), weight.path)


def _quantised(model: Any, calibration: np.ndarray) -> Any:
    """Return the 8-bit form of `model`, made by NNCF. For `calibration`, see `write`."""
    nncf = package("nncf", "int8")
    nncf.set_log_level(logging.ERROR)  # it would print its progress on standard output
    data = nncf.Dataset([image[np.newaxis] for image in calibration])
    ignored = nncf.IgnoredScope(names=list(_in_float32(model)))
    with redirect_stdout(StringIO()):
        return nncf.quantize(model, data, subset_size=len(calibration), ignored_scope=ignored)


def _in_float32(model: Any) -> Iterator[str]:
    """Yield the names of the nodes to keep in float32: the last matrix product, and all nodes after it."""
    kinds = [(node.get_type_name(), node.get_friendly_name()) for node in model.get_ordered_ops()]
    # 256 levels are too few for probabilities.
    last = max((at for at, (kind, _) in enumerate(kinds) if kind in ("MatMul", "Convolution")), default=0)
    for kind, name in kinds[last:]:
        if kind not in ("Constant", "Result", "Parameter"):
            yield name
