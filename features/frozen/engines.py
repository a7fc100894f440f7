"""OpenVINO as the engine of the frozen network on a processor, where TensorFlow runs depthwise convolutions slowly.

In float32 both engines yield the same features up to rounding, so the fingerprint does not name the engine. In bfloat16
the two engines yield different features; see `engine`.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.outlines import outline
from headstart.features.config import Precision
from headstart.features.device import cpu_count, gpu_at_hand, on_gpu
from headstart.features.errors import OptionError
from headstart.features.signals import asked_to_stop
from headstart.features.terminal import console

BATCH_SIZE = 8  # images per pass: the maps of few images stay in the processor's cache
_LARGE, _BATCH_SIZE_OF_LARGE = 2e9, 4  # a network with more multiply-adds per image has larger maps
Engine = Literal["openvino"]
Pass = Callable[[np.ndarray], list[np.ndarray]]  # uint8 [batch_size, H, W, 3] to one array per cut


class ConversionError(Exception):
    """Raised if OpenVINO can't convert a network."""


def engine(backbone: Backbone) -> Engine | None:
    """Return the value of the fingerprint's field `engine` for features of `backbone`.

    The value is `openvino` or None. It is `openvino` if all of these conditions are true:

    - The precision of `backbone` is bfloat16.
    - `backbone` has depthwise convolutions.
    - There is no GPU.
    - OpenVINO is installed.
    """
    if backbone.precision != "bfloat16" or not outline(backbone.name).depthwise:
        return None
    return None if gpu_at_hand() or not installed() else "openvino"


def uses_openvino(precision: Precision, engine: str | None) -> bool:
    """Return whether OpenVINO makes the features of a fingerprint with this `precision` and `engine`.

    If `engine` is not None, OpenVINO makes the features. If `engine` is None, OpenVINO makes the features if all of
    these conditions are true:

    - `precision` is float32.
    - TensorFlow does not run on a GPU.
    - OpenVINO is installed.

    If only the last condition is false, a printed message says that TensorFlow makes the features.
    """
    if engine is not None or precision != "float32" or on_gpu():
        return engine is not None
    if not installed():
        console.print("openvino is not installed: TensorFlow makes the same features, but takes longer")
    return installed()


def openvino_batch_size(multiply_adds: int) -> int:
    """Return the number of images per forward pass with OpenVINO.

    `multiply_adds` is the network's number of multiplications per image; see `graph.multiply_adds`.
    """
    return _BATCH_SIZE_OF_LARGE if multiply_adds > _LARGE else BATCH_SIZE


def installed() -> bool:
    """Return whether OpenVINO is installed, without importing it."""
    return importlib.util.find_spec("openvino") is not None


def load_openvino() -> Any:
    """Import OpenVINO and return its module. If the import fails, raise an OptionError."""
    # OpenVINO's converter would use this package to report each use to its makers, without asking.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise OptionError(f"openvino can't be imported ({error}): `pip install --force-reinstall openvino`") from error


def converted(graph: Any) -> Any:
    """Convert a TensorFlow function to an OpenVINO model with the same outputs.

    `graph` is the result of `frozen.traced` or `frozen.traced_model` with `compiled=False`. If OpenVINO can't convert
    the function, raise a ConversionError.
    """
    openvino = load_openvino()
    try:
        model = openvino.convert_model(graph, share_weights=False)  # shared weights would be freed with the graph
    except Exception as error:  # OpenVINO raises several kinds, none of them public
        if stop := asked_to_stop(error):
            raise stop from error
        said = " ".join(str(error).split())[:160]
        raise ConversionError(f"OpenVINO can't run this network ({said})") from error
    # OpenVINO adds an output for each activation such as swish, and then spends half of the time on transposing them.
    return openvino.Model([model.output(tensor.name) for tensor in graph.outputs], model.get_parameters())


def read_model(file: Path) -> Any:
    """Read an OpenVINO model from its `.xml` file and the file of weights beside it."""
    return load_openvino().Core().read_model(file)


def constant_bytes(model: Any) -> int:
    """Return the number of bytes in the constants of an OpenVINO model. The model's `.bin` file has this size."""
    return sum(one.get_byte_size() for one in model.get_ops() if one.get_type_name() == "Constant")


@contextmanager
def _memory_errors() -> Iterator[None]:
    """While the context is open, turn OpenVINO's RuntimeError about a lack of memory into a MemoryError."""
    try:
        yield
    except RuntimeError as error:
        if "allocate" in str(error):
            raise MemoryError(str(error)) from error
        raise


def openvino_passes(model: Any, cuts: int, image_size: int, batch_size: int, arithmetic: str | None) -> list[Pass]:
    """Compile an OpenVINO model. Return functions that each run the model on one batch.

    These functions may run at the same time. A lack of memory raises a MemoryError.

    Args:
        model: takes uint8 [B, H, W, 3]. This call sets B, H and W in `model`.
        cuts: the number of cuts. The first outputs of `model` are the features, one output per cut.
        image_size: H and W, in pixels.
        batch_size: B, the images per batch.
        arithmetic: `f32`, `bf16`, or None for OpenVINO's choice.
    """
    model.reshape([batch_size, image_size, image_size, 3])
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": cpu_count(), "ENABLE_CPU_PINNING": False}
    if arithmetic:
        settings["INFERENCE_PRECISION_HINT"] = arithmetic
    with _memory_errors():
        compiled = load_openvino().Core().compile_model(model, "CPU", settings)

    def new_pass() -> Pass:
        with _memory_errors():
            request = compiled.create_infer_request()

        def run(batch: np.ndarray) -> list[np.ndarray]:
            with _memory_errors():
                outputs = request.infer(batch)
            return [outputs[number] for number in range(cuts)]

        return run

    at_once = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    return [new_pass() for _ in range(at_once + 1)]  # one more, so that no core is idle between two batches
