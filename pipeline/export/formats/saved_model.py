"""A TensorFlow SavedModel: a folder with two functions, one for pixels and one for the bytes of JPEG and PNG files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headstart.features.errors import ExportError
from headstart.features.files import read_json
from headstart.features.images.pixels import ImageConfig
from headstart.pipeline.export.formats.keras_file import half
from headstart.pipeline.export.formats.orientation import orientation

if TYPE_CHECKING:
    import tensorflow as tf
    from headstart.pipeline.export.deployable import Deployable

_LABELS = "labels.json"  # among the assets


def write(deployable: "Deployable", path: Path, precision: str, calibration: np.ndarray | None) -> None:
    """Write `deployable` to the folder `path`, as a SavedModel. The metadata are an asset.

    The signature `serving_default` maps `pixels` to `probabilities`. The signature `files` maps the bytes of JPEG and
    PNG files, string [B], to `probabilities`. With float16, weights lie in the file as float16, and are turned into
    float32 when the model runs. Raises an ExportError if float16 can't hold a weight. `calibration` is not used.
    """
    from headstart.features.tensorflow import tf

    model, side = deployable.model, deployable.image_size
    images = _images(json.loads(deployable.metadata["preprocessing"]))
    asset = path.with_name(_LABELS)
    asset.write_text(json.dumps(deployable.metadata, ensure_ascii=False))
    module = tf.Module()  # `model.export` would hold all weights twice
    module.labels = tf.saved_model.Asset(str(asset))
    values = [(one.path, one.numpy()) for one in (*model.trainable_variables, *model.non_trainable_variables)]
    module.weights = [tf.Variable(half(value, name) if precision == "float16" else value) for name, value in values]
    trainable = len(model.trainable_variables)

    def of_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        weights = [tf.cast(one, tf.float32) for one in module.weights]
        outputs, _ = model.stateless_call(weights[:trainable], weights[trainable:], pixels, training=False)
        return {"probabilities": outputs}

    takes_pixels = [tf.TensorSpec((None, side, side, 3), tf.uint8, "pixels")]
    serving = tf.function(of_pixels, takes_pixels, autograph=False)

    def of_files(files: tf.Tensor) -> Any:
        spec = tf.TensorSpec((side, side, 3), tf.uint8)
        return serving(tf.map_fn(lambda data: _decoded(data, images), files, fn_output_signature=spec))

    files = tf.function(of_files, [tf.TensorSpec((None,), tf.string, "files")], autograph=False)
    tf.saved_model.save(module, str(path), {"serving_default": serving, "files": files})
    asset.unlink()


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load the model. The result maps pixels (uint8 [B, S, S, 3]) to probabilities (float32 [B, C])."""
    from headstart.features.tensorflow import tf

    loaded = tf.saved_model.load(str(path))
    function = loaded.signatures["serving_default"]

    def run(batch: np.ndarray) -> np.ndarray:
        _ = loaded  # holds the variables
        return np.asarray(function(pixels=tf.constant(batch))["probabilities"])

    return run


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of the model. Raises an ExportError if the model has none."""
    try:
        return {str(name): str(text) for name, text in read_json(path / "assets" / _LABELS).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise ExportError(f"{path}: is no export of headstart; `headstart export RUN OUT` makes one") from error


def _images(preprocessing: dict[str, Any]) -> ImageConfig:
    names = ("size", "resize", "truncated", "bits")
    return ImageConfig(**{name: preprocessing[name] for name in names})


def _decoded(data: "tf.Tensor", images: ImageConfig) -> "tf.Tensor":
    """Decode a JPEG or PNG to uint8 [S, S, 3]. The graph fails for other formats and uncertain orientations."""
    from headstart.features.images.decode import JPEG_RATIOS, PNG, decode
    from headstart.features.tensorflow import tf

    is_jpeg = tf.strings.substr(data, 0, 2) == b"\xff\xd8"
    sides = tf.cond(is_jpeg, lambda: tf.io.extract_jpeg_shape(data)[:2], lambda: tf.constant([0, 0]))
    side = (tf.reduce_max if images.resize == "pad" else tf.reduce_min)(sides)
    fitting = [side // ratio >= images.size for ratio in JPEG_RATIOS[1:]]
    decoder = tf.where(is_jpeg, tf.reduce_sum(tf.cast(fitting, tf.int32)), PNG)
    reading = tf.stack([tf.cond(is_jpeg, lambda: orientation(data), lambda: 1), 0, 1])
    return tf.switch_case(decoder, [lambda at=at: decode(data, at, reading, images) for at in range(PNG + 1)])
