"""An ONNX model. Keras writes the model by means of tf2onnx, and ONNX Runtime runs the model.

ONNX Runtime also makes the int8 form. The extra `onnx` installs tf2onnx and ONNX Runtime.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.errors import ExportError
from headstart.features.terminal import silent_libraries
from headstart.pipeline.export.formats.packages import package, refusal, refused

if TYPE_CHECKING:
    from headstart.pipeline.export.deployable import Deployable

_EXTRA, _INPUT, _OUTPUT = "onnx", "pixels", "probabilities"
_OPSET = 15  # the latest that Keras's own export chooses; runtimes of 2021 and later know it
_QUANTISED = ("Conv", "MatMul", "Gemm", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip")
_FEWEST = 64  # values of a weight that is stored as float16
_BATCH = 8


def write(deployable: "Deployable", path: Path, precision: str, calibration: np.ndarray | None) -> None:
    """Write `deployable` to `path`, as an ONNX model. The `metadata_props` of the model hold the metadata.

    With float16, weights lie in the file as float16, and the runtime turns them into float32 when it loads the model.
    With int8, weights are quantised per channel. Activations are quantised by their ranges on the images `calibration`,
    uint8 [N, S, S, 3]. Some nodes stay float32; see `_in_float32`.

    Raises an ExportError if a package of the extra `onnx` is missing, if ONNX can't hold the network, or if float16
    can't hold a weight.
    """
    onnx = package("onnx", _EXTRA)
    package("onnxruntime", _EXTRA)
    with TemporaryDirectory(prefix="headstart-") as folder:
        file = Path(folder) / "model.onnx"
        _convert(deployable, file)
        model = _named(onnx.load(file), onnx)
        if precision == "float16":
            _store_as_float16(model, onnx)
        if precision == "int8":
            if calibration is None:
                raise ValueError("int8 needs images for its calibration")
            with refused("onnx", "ONNX Runtime"):
                model = _quantised(model, calibration, Path(folder), onnx)
    _order(model.graph)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(deployable.metadata.items())))
    model.producer_name, model.producer_version, model.doc_string = "headstart", "", ""
    model.graph.name, model.graph.doc_string = "classifier", ""
    onnx.save(model, path)


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load the model in ONNX Runtime. The result maps pixels (uint8 [B, S, S, 3]) to probabilities (float32 [B, C])."""
    session = package("onnxruntime", _EXTRA).InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda batch: np.asarray(session.run([_OUTPUT], {_INPUT: batch})[0])


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of the file. Raises an ExportError if the file has none."""
    onnx = package("onnx", _EXTRA)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own kinds
        raise ExportError(f"{path}: is no ONNX model; `headstart export RUN OUT` makes one") from error
    found = {one.key: one.value for one in model.metadata_props}
    if not found:
        raise ExportError(f"{path}: is no export of headstart; `headstart export RUN OUT` makes one")
    return found


def _convert(deployable: "Deployable", file: Path) -> None:
    """Convert the model of `deployable` to ONNX in float32, and write the result to `file`."""
    package("tf2onnx", _EXTRA)
    model, size = deployable.model, deployable.image_size
    try:
        with warnings.catch_warnings(), silent_libraries(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")  # Keras asks NumPy for a name that only NumPy 1 had
            model(
                np.zeros((1, size, size, 3), np.uint8), training=False
            )  # Keras exports no model that was never called
            model.export(file, format="onnx", verbose=False, opset_version=_OPSET)
    except Exception as error:  # tf2onnx raises what its handlers happen to raise
        raise refusal("onnx", "tf2onnx", error) from error


def _named(model: Any, onnx: Any) -> Any:
    """Name the input, the output and the batch dimension. Raises ExportError if `model` is not valid ONNX."""
    for old, new in ((model.graph.input[0], _INPUT), (model.graph.output[0], _OUTPUT)):
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old.name else name for name in names]
        old.name = new
        old.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model)  # tf2onnx writes operations that ONNX has not, and only logs an error
    except (onnx.checker.ValidationError, ValueError) as error:  # ValueError: over 2 GB
        raise refusal("onnx", "tf2onnx", error) from error
    return model


def _order(graph: Any) -> None:
    """Sort and rename the nodes and constants of `graph`, so that the same model always gives the same file."""
    if any(one.HasField("g") or one.graphs for node in graph.node for one in node.attribute):
        return  # the inner graphs use the names of the outer graph
    constants, nodes = {one.name: one for one in graph.initializer}, _in_order(graph)
    used = dict.fromkeys(name for node in nodes for name in node.input if name in constants)
    kept = {one.name for one in (*graph.input, *graph.output)}
    values = [name for node in nodes for name in node.output if name and name not in kept]
    new = {name: f"constant_{at}" for at, name in enumerate(used)} | {
        name: f"value_{at}" for at, name in enumerate(values)
    }
    for at, node in enumerate(nodes):
        node.name = f"{node.op_type}_{at}"
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
    for name in used:
        constants[name].name = new[name]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants[name] for name in used)


def _in_order(graph: Any) -> list[Any]:
    """Return the nodes of `graph` that its outputs need. Each node comes after the nodes whose outputs it takes."""
    makers = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    found, waiting = dict[int, Any](), [makers[one.name] for one in graph.output]
    while waiting:
        node = graph.node[waiting[-1]]
        before = [makers[name] for name in node.input if name in makers and makers[name] not in found]
        if before:
            waiting += reversed(before)
        else:
            found[waiting.pop()] = node
    return [type(node).FromString(node.SerializeToString()) for node in found.values()]


def _store_as_float16(model: Any, onnx: Any) -> None:
    """Store the large float32 weights as float16. Raises ExportError if float16 can't hold a weight."""
    from headstart.pipeline.export.formats.keras_file import half

    casts = []
    for tensor in model.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype == np.float32 and value.size >= _FEWEST:
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(half(value, name), f"{name}_float16"))
            casts.append(
                onnx.helper.make_node("Cast", [tensor.name], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT)
            )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _quantised(model: Any, calibration: np.ndarray, folder: Path, onnx: Any) -> Any:
    """Return `model` quantised to 8 bits, with activation ranges from the images `calibration`."""
    quantization = package("onnxruntime.quantization", _EXTRA)
    batches = iter([{_INPUT: calibration[at : at + _BATCH]} for at in range(0, len(calibration), _BATCH)])
    images = type("Images", (quantization.CalibrationDataReader,), {"get_next": lambda _: next(batches, None)})
    file, logger = folder / "quantised.onnx", logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # ONNX Runtime would advise to preprocess the model, which tf2onnx did
    try:
        with redirect_stdout(StringIO()):
            quantization.quantize_static(
                model,
                file,
                images(),
                op_types_to_quantize=list(_QUANTISED),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                # The mean range of batches: the range of all images is wider, and wastes levels on rare values.
                extra_options={"CalibMovingAverage": True},
                nodes_to_exclude=list(_in_float32(model)),
            )
    finally:
        logger.setLevel(level)
    return onnx.load(file)


def _in_float32(model: Any) -> Iterator[str]:
    """Yield the names of nodes kept in float32: the last matrix product, all after it, and additions of constants."""
    nodes, constants = model.graph.node, {one.name for one in model.graph.initializer}
    # 256 levels are too few for probabilities.
    last = max((at for at, node in enumerate(nodes) if node.op_type in ("MatMul", "Gemm", "Conv")), default=0)
    for at, node in enumerate(nodes):
        # A head adds a constant when it scales its inputs; 256 levels would make many of these equal.
        if at >= last or (node.op_type == "Add" and constants & set(node.input)):
            yield node.name
