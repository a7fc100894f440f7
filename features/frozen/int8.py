"""The 8-bit form of a frozen backbone.

NNCF, from the extra `int8`, quantises the trained network. OpenVINO runs the quantised network.

Weights and activations become integers. The ranges of activations are measured on images (Jacob et al. 2018,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"). The quantised network
is kept in the store under `int8/` and used for all later images, because ranges measured on other images give other
features.
"""

import importlib
import io
import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.cuts import Cut
from headstart.features.errors import DataError, OptionError
from headstart.features.files import folder_written_atomically, write_json
from headstart.features.frozen.engines import (
    BATCH_SIZE,
    ConversionError,
    converted,
    load_openvino,
    openvino_passes,
    read_model,
)
from headstart.features.frozen.frozen import FrozenBackbone, folded_backbone, freeze, traced
from headstart.features.frozen.int8_files import (
    CALIBRATION_FILE,
    CALIBRATION_IMAGES,
    calibrated_cuts,
    calibration,
    network_digest,
    require_whole_network,
)
from headstart.features.images.batches import decoded_batches
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile
from headstart.features.terminal import console

_CHECK_IMAGES = 300


def quantised(folder: Path, backbone: Backbone, cuts: Sequence[Cut], batch_size: int = 0) -> FrozenBackbone:
    """Load the 8-bit form of `backbone`, with `cuts`, from `folder`. Damaged files raise a StoreError.

    A `batch_size` of 0 stands for 8 images per forward pass.
    """
    require_whole_network(folder)
    batch_size, size = batch_size or BATCH_SIZE, backbone.image_size
    passes = openvino_passes(read_model(folder / "model.xml"), len(cuts), size, batch_size, None)
    return FrozenBackbone(passes, cuts, size, batch_size)


def find_quantised(root: Path, backbone: Backbone, wanted: Mapping[str, Any]) -> FrozenBackbone:
    """Search the store at `root` for an 8-bit form of `backbone` with the calibration `wanted`, and load the form.

    To find the 8-bit form that made some features, pass the field `calibration` of their fingerprint as `wanted`.
    Raises OptionError if no 8-bit form has this calibration.
    """
    for folder in (root / "int8").glob(f"{backbone.title}-*"):
        if calibration(folder) == wanted:
            return quantised(folder, backbone, [Cut.parse(backbone.name, name) for name in calibrated_cuts(folder)])
    raise OptionError(f"{root}/int8: the quantised network that made the features is gone")


def quantise(
    folder: Path, backbone: Backbone, cuts: Sequence[Cut], images: Sequence[ImageFile], config: ImageConfig
) -> None:
    """Write the 8-bit form of `backbone` to `folder`. Print how much int8 features differ from float32 features.

    The ranges of activations are measured on at most 300 of `images`. The features of up to 300 others are compared.
    Raises DataError if none of the images for the ranges can be decoded. Raises OptionError if the extra `int8` is not
    installed, or if OpenVINO can't convert the network.
    """
    openvino, nncf = load_openvino(), _nncf()
    nncf.set_log_level(logging.ERROR)  # it would print its progress on standard output
    by_digest = sorted({image.digest: image for image in images}.values(), key=lambda image: image.digest)
    count = min(CALIBRATION_IMAGES, -(-3 * len(by_digest) // 4))
    chosen, digests = _decoded(by_digest[:count], config)
    if not digests:
        raise DataError(f"--precision int8: none of {count} images can be decoded, to measure its ranges on")
    others, _ = _decoded(by_digest[count : count + _CHECK_IMAGES], config)
    console.print(f"quantising {backbone.name} on {len(chosen)} images")
    with redirect_stdout(io.StringIO()):  # else NNCF draws progress bars among the command's results
        model = _convertible(backbone, cuts)
        model = nncf.quantize(model, nncf.Dataset([image[np.newaxis] for image in chosen]), subset_size=len(chosen))
    try:
        with folder_written_atomically(folder) as partial:
            openvino.save_model(model, partial / "model.xml", compress_to_fp16=False)
            found = {
                "cuts": [cut.name for cut in cuts],
                "digests": digests,
                "model": network_digest(partial),
                "checked_on": len(others),
            }
            write_json(partial / CALIBRATION_FILE, found)
            fidelity = _fidelity(freeze(backbone, cuts), quantised(partial, backbone, cuts), others)
            write_json(partial / CALIBRATION_FILE, {**found, "fidelity": fidelity})
    except FileExistsError as error:
        if error.filename != str(folder):
            raise
        return  # another process was first, and its network stays
    if not fidelity:
        console.print("int8: its cost was not measured: too few images are left to compare features on")
    for cut, figures in fidelity.items():
        console.print(
            f"int8, {cut}: on {len(others)} other images features are off by {figures['relative_error']:.1%} in norm, "
            f"and {figures['neighbours_kept']:.0%} keep their nearest neighbour"
        )


def _convertible(backbone: Backbone, cuts: Sequence[Cut]) -> Any:
    """Convert `backbone` for OpenVINO. Raises OptionError if OpenVINO can't run it."""
    try:
        return converted(traced(folded_backbone(backbone), cuts, compiled=False))
    except ConversionError as error:
        raise OptionError(f"--precision int8: {error}; use --precision float32") from error


def _decoded(images: Sequence[ImageFile], config: ImageConfig) -> tuple[np.ndarray, list[str]]:
    """Decode `images`. Return the pixels and the digests of the images that can be decoded.

    The pixels are uint8 [n, size, size, 3].
    """
    parts = list(decoded_batches(images, config, 32))
    none = np.empty((0, config.size, config.size, 3), np.uint8)
    digests = [images[position].digest for positions, _ in parts for position in positions]
    return np.concatenate([none, *(pixels for _, pixels in parts)]), digests


def _fidelity(plain: FrozenBackbone, reduced: FrozenBackbone, pixels: np.ndarray) -> dict[str, dict[str, float]]:
    """Return for each cut the relative error of `reduced`, and the fraction of images that keep their neighbour."""
    if len(pixels) < 3:  # of two images, each is always the other's neighbour
        return {}
    expected, found = (_features_of(network, pixels) for network in (plain, reduced))
    result = {}
    for cut in plain.cuts:
        one, other = expected[cut], found[cut]
        error = np.linalg.norm(one - other, axis=1) / (np.linalg.norm(one, axis=1) + np.finfo(np.float32).tiny)
        kept = np.mean(_nearest(one) == _nearest(other))
        result[cut.name] = {"relative_error": float(error.mean()), "neighbours_kept": float(kept)}
    return result


def _features_of(network: FrozenBackbone, pixels: np.ndarray) -> dict[Cut, np.ndarray]:
    step = network.images_per_pass
    parts = [network(pixels[start : start + step]) for start in range(0, len(pixels), step)]
    return {cut: np.concatenate([part[cut] for part in parts]).reshape(len(pixels), -1) for cut in network.cuts}


def _nearest(features: np.ndarray) -> np.ndarray:
    """For each row of `features`, return the index of the nearest other row by cosine similarity, int64 [n]."""
    unit = features / (np.linalg.norm(features, axis=1, keepdims=True) + np.finfo(np.float32).tiny)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    nearest: np.ndarray = cosines.argmax(axis=1)
    return nearest


def _nncf() -> Any:
    try:
        return importlib.import_module("nncf")
    except ImportError as error:
        raise OptionError("--precision int8: needs the extra int8, `pip install 'headstart[int8]'`") from error
