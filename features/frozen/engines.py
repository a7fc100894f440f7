"""OpenVINO as the engine of the frozen network on a processor.

TensorFlow runs depthwise convolutions slowly there. In float32 both engines yield the same features up to rounding, so
the fingerprint does not name the engine. In bfloat16 they do not: see `engine`.
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
from headstart.features.terminal import console

BATCH_SIZE = 8  # images per pass: the maps of few images stay in the processor's cache
_LARGE, _BATCH_SIZE_OF_LARGE = 2e9, 4  # multiply-adds of an image; the maps of a large network are larger
Engine = Literal["openvino"]
Pass = Callable[[np.ndarray], list[np.ndarray]]  # uint8 [batch_size, H, W, 3] to one array per cut


class ConversionError(Exception):
    """OpenVINO has no form of an operation of a network."""


def engine(backbone: Backbone) -> Engine | None:
    """The field `engine` of a fingerprint: what makes features in bfloat16. None is TensorFlow.

    Networks without depthwise convolutions stay on TensorFlow in bfloat16, which is fast, so their old features hold.
    """
    if backbone.precision != "bfloat16" or not outline(backbone.name).depthwise:
        return None
    return None if gpu_at_hand() or not installed() else "openvino"


def uses_openvino(precision: Precision, engine: str | None) -> bool:
    """Whether OpenVINO makes the features of a fingerprint with this `precision` and `engine` on this machine.

    In float32 a processor uses OpenVINO where it is installed. Where it is not, a line on the console says so.
    """
    if engine is not None or precision != "float32" or on_gpu():
        return engine is not None
    if not installed():
        console.print("openvino is not installed: TensorFlow makes the same features, but takes longer")
    return installed()


def openvino_batch_size(multiply_adds: int) -> int:
    """Return how many images OpenVINO takes per pass of a network with so many multiply-adds per image."""
    return _BATCH_SIZE_OF_LARGE if multiply_adds > _LARGE else BATCH_SIZE


def installed() -> bool:
    """Whether OpenVINO is installed. It is not loaded."""
    return importlib.util.find_spec("openvino") is not None


def load_openvino() -> Any:
    """Import OpenVINO. If that fails, an OptionError is raised."""
    # Its converter would report each use to its makers, without asking. It does without where this package is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise OptionError(f"openvino can't be imported ({error}): `pip install --force-reinstall openvino`") from error


def converted(graph: Any) -> Any:
    """Convert a TensorFlow function, as `traced` makes them without XLA, to an OpenVINO model with the same outputs."""
    openvino = load_openvino()
    try:
        model = openvino.convert_model(graph, share_weights=False)  # shared weights would be freed with the graph
    except Exception as error:  # of several kinds, none of them public
        said = " ".join(str(error).split())[:160]
        raise ConversionError(f"OpenVINO can't run this network ({said})") from error
    # OpenVINO adds an output for each activation such as swish, and then spends half of the time on transposing them.
    return openvino.Model([model.output(tensor.name) for tensor in graph.outputs], model.get_parameters())


def read_model(file: Path) -> Any:
    """Read an OpenVINO model from its `.xml` file and the file of weights beside it."""
    return load_openvino().Core().read_model(file)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Raise a MemoryError in place of OpenVINO's error for it, which only its text tells from others."""
    try:
        yield
    except RuntimeError as error:
        if "allocate" in str(error):
            raise MemoryError(str(error)) from error
        raise


def openvino_passes(model: Any, cuts: int, image_size: int, batch_size: int, arithmetic: str | None) -> list[Pass]:
    """Compile an OpenVINO `model` whose first outputs are the `cuts`. The passes may run at the same time.

    OpenVINO chooses how many it runs at the same time. One more waits, so that no core is idle between two passes.

    Args:
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
    return [new_pass() for _ in range(at_once + 1)]
