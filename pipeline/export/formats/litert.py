"""A LiteRT (TensorFlow Lite) model. TensorFlow writes the model, and LiteRT runs the model.

AI Edge Quantizer makes the int8 form. The extra `litert` installs LiteRT and AI Edge Quantizer.
"""

import json
import re
import warnings
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from headstart.features.device import cpu_count
from headstart.features.errors import ExportError
from headstart.features.terminal import silent_libraries
from headstart.pipeline.export.formats.packages import package, refusal, refused

if TYPE_CHECKING:
    from headstart.pipeline.export.deployable import Deployable

_EXTRA, _INPUT, _OUTPUT, _SIGNATURE = "litert", "pixels", "probabilities", "serving_default"
_METADATA, _LABELS = "headstart.json", "labels.txt"
_TIME = (1980, 1, 1, 0, 0, 0)  # of each member, so that the same model gives the same file
_MOST_BYTES = 16 << 20
_QUANTISED = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "ADD",
    "CONCATENATION",
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
)


def write(deployable: "Deployable", path: Path, precision: str, calibration: np.ndarray | None) -> None:
    """Write `deployable` to `path`, as a LiteRT model. The model has one signature, from `pixels` to `probabilities`.

    A ZIP archive follows the model in the same file. The archive holds the metadata in `headstart.json` and the class
    names in `labels.txt`.

    With float16, weights are stored in float16, and LiteRT computes in float32. With int8, weights are quantised per
    channel. Activations are quantised by their ranges on the images `calibration`, uint8 [N, S, S, 3]. The last layer
    with weights and all layers after it stay float32.

    Raises an ExportError if a package of the extra `litert` is missing, if LiteRT can't hold the network, or if float16
    can't hold a weight.
    """
    package("ai_edge_litert.interpreter", _EXTRA)
    content = _converted(deployable, precision)
    if precision == "int8":
        if calibration is None:
            raise ValueError("int8 needs images for its calibration")
        with refused("litert", "AI Edge Quantizer"):
            content = _quantised(content, calibration, _in_float32(deployable))
    path.write_bytes(content)
    members = {
        _METADATA: json.dumps(deployable.metadata, ensure_ascii=False),
        _LABELS: "".join(f"{' '.join(name.split())}\n" for name in deployable.class_names),
    }
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), text.encode(errors="surrogateescape"))


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load the model in LiteRT. The result maps pixels (uint8 [B, S, S, 3]) to probabilities (float32 [B, C])."""
    interpreter = package("ai_edge_litert.interpreter", _EXTRA).Interpreter(str(path), num_threads=cpu_count())
    run = interpreter.get_signature_runner(_SIGNATURE)
    return lambda batch: np.array(run(**{_INPUT: batch})[_OUTPUT])


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of the file. Raises an ExportError if the file has none."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(_METADATA).file_size > _MOST_BYTES:
                raise ValueError("too large")
            found = json.loads(archive.read(_METADATA).decode(errors="surrogateescape"))
        return {str(name): str(text) for name, text in found.items()}
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ExportError(f"{path}: is no export of headstart; `headstart export RUN OUT` makes one") from error


def _converted(deployable: "Deployable", precision: str) -> bytes:
    """Return the bytes of a LiteRT model made from `deployable`. The weights are float16 if `precision` is float16."""
    from headstart.features.tensorflow import tf
    from headstart.pipeline.export.formats.keras_file import half

    model, side = deployable.model, deployable.image_size
    values = [(one.path, one.numpy()) for one in (*model.trainable_variables, *model.non_trainable_variables)]
    if precision == "float16":
        for name, value in values:
            half(value, name)  # the converter itself would write infinity
    trainable = len(model.trainable_variables)

    def of_pixels(pixels: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        # As constants: the converter freezes no variables of Keras 3.
        weights = [tf.constant(value) for _, value in values]
        outputs, _ = model.stateless_call(weights[:trainable], weights[trainable:], pixels, training=False)
        return {_OUTPUT: outputs}

    takes = tf.TensorSpec((None, side, side, 3), tf.uint8, _INPUT)
    try:
        with silent_libraries(), redirect_stdout(StringIO()):
            graph = tf.function(of_pixels, autograph=False).get_concrete_function(takes)
            converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], tf.Module())
            if precision == "float16":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.target_spec.supported_types = [tf.float16]
            return bytes(converter.convert())
    except Exception as error:  # the converter raises half a dozen kinds
        raise refusal("litert", "TensorFlow's converter", error) from error


def _in_float32(deployable: "Deployable") -> str:
    """Return a regular expression that matches the names of the operations to keep in float32.

    These are the operations of the last layer with weights, and of all layers after that layer.
    """
    from headstart.features.backbones.graph import nested_layers

    layers = list(nested_layers(deployable.model.layers))
    # 256 levels are too few for probabilities.
    last = max((at for at, layer in enumerate(layers) if layer.weights), default=0)
    names = "|".join(re.escape(layer.name) for layer in layers[last:])
    return rf"(^|[/;])({names})(_\d+)?/|PartitionedCall"  # the last one is the name of the model's output


def _quantised(content: bytes, calibration: np.ndarray, in_float32: str) -> bytes:
    """Quantise the model `content` to 8 bits, except the operations whose names match `in_float32`."""
    quantizer = package("ai_edge_quantizer.quantizer", _EXTRA).Quantizer(bytearray(content))
    kinds = package("ai_edge_quantizer.qtyping", _EXTRA).TFLOperationName
    for kind in _QUANTISED:
        quantizer.add_static_config(f"^(?!.*({in_float32}))", kinds[kind], activation_num_bits=8, weight_num_bits=8)
    with warnings.catch_warnings(), silent_libraries(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")  # the quantizer keeps all tensors, and warns about this
        found = quantizer.calibrate({_SIGNATURE: [{_INPUT: image[np.newaxis]} for image in calibration]})
        return bytes(quantizer.quantize(found).quantized_model)
