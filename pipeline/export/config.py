"""The settings of `export`, the file name of each format, and the precisions that a format can't hold."""

from dataclasses import dataclass, field
from typing import Literal

from headstart.features.errors import OptionError, require_options
from headstart.features.options import option
from headstart.pipeline.predict.config import AskedModel

Format = Literal["keras", "saved_model", "onnx", "litert", "openvino"]
ExportPrecision = Literal["float32", "float16", "int8"]
MODEL_FILES: dict[Format, str] = {
    "keras": "model.keras",
    "saved_model": "saved_model",
    "onnx": "model.onnx",
    "litert": "model.tflite",
    "openvino": "model.xml",
}  # the name of the model's file or folder in OUT
MODULES: dict[Format, str] = {
    "keras": "keras_file",
    "saved_model": "saved_model",
    "onnx": "onnx",
    "litert": "litert",
    "openvino": "openvino",
}  # the module of each format in `formats`
_NOT_HELD: dict[tuple[Format, ExportPrecision], str] = {
    ("keras", "int8"): "Keras quantises dense layers alone, and computes convolutions in float32",
    ("saved_model", "int8"): "TensorFlow's convolutions have no int8 kernels outside LiteRT",
}
_FEWEST_CALIBRATION = 10


@dataclass(frozen=True)
class ModelExportConfig:
    """The settings of `export`.

    The constructor raises OptionError if a number is out of range, or if the format does not support the precision.
    """

    format: Format = field(metadata={"help": "The format, which is the runtime that will run the model."})
    precision: ExportPrecision = option(
        "float32", "Precision of the weights. int8: of the arithmetic too, calibrated on training images."
    )
    model: AskedModel = option(
        "auto",
        "The model to export. auto: the fine-tuned classifier where fine-tuning gained on val, else the head.",
    )
    images: int = option(400, "Val images on which the export is compared with the run; 0: all of them.")
    calibration_images: int = option(300, "Training images that calibrate int8.")
    tolerance: float = option(
        0.01,
        "Fraction of accuracy that float16 or int8 may lose. float32 may change no label, nor a probability by "
        "over 0.0001.",
    )

    def __post_init__(self) -> None:
        fewest = _FEWEST_CALIBRATION
        require_options(
            ("--images", self.images, self.images >= 0, "at least 1, or 0 for all"),
            ("--calibration-images", self.calibration_images, self.calibration_images >= fewest, f"at least {fewest}"),
            ("--tolerance", self.tolerance, 0 <= self.tolerance <= 1, "from 0 to 1"),
        )
        if why := _NOT_HELD.get((self.format, self.precision)):
            held = [one for one in ("litert", "onnx", "openvino") if (one, self.precision) not in _NOT_HELD]
            raise OptionError(f"--format {self.format} --precision {self.precision}: {why}; {', '.join(held)} hold it")
