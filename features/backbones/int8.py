"""The 8-bit form of a frozen backbone: quantised after training by NNCF, run by OpenVINO (the extra `int8`).

Weights and activations become integers whose ranges are measured on images (Jacob et al. 2018, "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"). A quantised network lies in the store
under `int8/`, and serves as long as it is there, whatever images come and go: other images would give other features.
"""

import importlib
import io
import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.calibration import (
    CALIBRATION_FILE,
    calibrated_cuts,
    calibration,
    check_network,
    network_digest,
)
from headstart.features.backbones.frozen import BATCH_SIZE, FrozenBackbone
from headstart.features.errors import DataError, OptionError
from headstart.features.files import folder_written_atomically, write_json
from headstart.features.images.batches import decoded_batches
from headstart.features.images.decode import ImageConfig
from headstart.features.images.scan import ImageFile
from headstart.features.terminal import console

CALIBRATION_IMAGES = 300  # what NNCF takes by default
_CHECK_IMAGES = 300


class QuantisedBackbone(FrozenBackbone):
    """A backbone in 8-bit integers, as it lies in `folder`; used as `FrozenBackbone` is.

    Args:
        folder: of `calibration.quantised_folder`, filled by `quantise`.
    """

    def __init__(self, backbone: Backbone, cuts: Sequence[str], batch_size: int, folder: Path) -> None:
        super().__init__(backbone, cuts, batch_size)
        self.folder = folder

    @cached_property
    def batch_size(self) -> int:
        """Images a forward pass takes, which is the processor's on a machine with a GPU, too."""
        return self._asked or BATCH_SIZE

    @cached_property
    def _compiled(self) -> Any:
        check_network(self.folder)
        core = _extra("openvino").Core()
        model = core.read_model(self.folder / "model.xml")
        size = self.backbone.image_size
        model.reshape([self.batch_size, size, size, 3])
        return core.compile_model(model, "CPU")

    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        outputs = self._compiled.create_infer_request().infer(batch)  # its own: passes may overlap
        return [np.array(outputs[number]) for number in range(len(self.cuts))]


def quantised(root: Path, backbone: Backbone, calibrated: Mapping[str, Any], batch_size: int = 0) -> QuantisedBackbone:
    """The 8-bit form that the store at `root` holds, by its `calibration`.

    Raises:
        OptionError: it is gone.
        StoreError: it is damaged.
    """
    for folder in (root / "int8").glob(f"{backbone.name}-*"):
        if calibration(folder) == calibrated:
            backbone = replace(backbone, calibration=calibrated)
            return QuantisedBackbone(backbone, calibrated_cuts(folder), batch_size, folder)
    raise OptionError(f"{root}/int8: the quantised network is gone that features were made with")


def quantise(
    folder: Path, backbone: Backbone, cuts: Sequence[str], images: Sequence[ImageFile], config: ImageConfig
) -> None:
    """Quantise `backbone` on some of `images`, measure on others what that cost, say so, and write it to `folder`.

    Images are chosen by their digests, which are as good as random: at most 300 to measure ranges, and as many others
    to compare features with those of float32.

    Raises:
        OptionError: the extra `int8` is not installed.
        DataError: no image can be decoded.
    """
    openvino, nncf = _extra("openvino"), _extra("nncf")
    nncf.set_log_level(logging.ERROR)  # it would tell standard output of its progress
    by_digest = sorted({image.digest: image for image in images}.values(), key=lambda image: image.digest)
    count = min(CALIBRATION_IMAGES, -(-3 * len(by_digest) // 4))
    chosen, digests = _decoded(by_digest[:count], config)
    if not digests:
        raise DataError(f"--precision int8: none of {count} images can be decoded, to measure its ranges on")
    others, _ = _decoded(by_digest[count : count + _CHECK_IMAGES], config)
    console.print(f"quantising {backbone.name} on {len(chosen)} images")
    plain = FrozenBackbone(backbone, cuts)
    with redirect_stdout(io.StringIO()):  # where NNCF draws bars; standard output is the command's
        model = openvino.convert_model(plain.traced(None, compiled=False))
        model = nncf.quantize(model, nncf.Dataset([image[np.newaxis] for image in chosen]), subset_size=len(chosen))
    with suppress(FileExistsError), folder_written_atomically(folder) as partial:  # the first of several stays
        openvino.save_model(model, partial / "model.xml", compress_to_fp16=False)
        found = {"cuts": list(cuts), "digests": digests, "model": network_digest(partial), "checked_on": len(others)}
        write_json(partial / CALIBRATION_FILE, found)
        fidelity = _fidelity(plain, QuantisedBackbone(backbone, cuts, 0, partial), others)
        write_json(partial / CALIBRATION_FILE, {**found, "fidelity": fidelity})
    if not fidelity:
        console.print("int8: what it costs was not measured, for too few images are left to compare features on")
    for cut, figures in fidelity.items():
        console.print(
            f"int8, {cut}: on {len(others)} other images features are off by {figures['relative_error']:.1%} in norm, "
            f"and {figures['neighbours_kept']:.0%} keep their nearest neighbour"
        )


def _decoded(images: Sequence[ImageFile], config: ImageConfig) -> tuple[np.ndarray, list[str]]:
    """Pixels uint8 [n, size, size, 3] and digests of those that can be decoded."""
    parts = list(decoded_batches(images, config, 32))
    if not parts:
        return np.empty((0, config.size, config.size, 3), np.uint8), []
    return (
        np.concatenate([pixels for _, pixels in parts]),
        [images[position].digest for positions, _ in parts for position in positions],
    )


def _fidelity(plain: FrozenBackbone, found: FrozenBackbone, pixels: np.ndarray) -> dict[str, dict[str, float]]:
    """For each cut, how far features are off on average, relative in norm, and the share of kept neighbours."""
    if len(pixels) < 3:  # of two, each is the other's neighbour
        return {}
    expected, quantised = (_features_of(network, pixels) for network in (plain, found))
    result = {}
    for cut in plain.cuts:
        one, other = expected[cut], quantised[cut]
        error = np.linalg.norm(one - other, axis=1) / (np.linalg.norm(one, axis=1) + np.finfo(np.float32).tiny)
        kept = np.mean(_nearest(one) == _nearest(other))
        result[cut] = {"relative_error": float(error.mean()), "neighbours_kept": float(kept)}
    return result


def _features_of(network: FrozenBackbone, pixels: np.ndarray) -> dict[str, np.ndarray]:
    step = network.images_per_pass
    parts = [network(pixels[start : start + step]) for start in range(0, len(pixels), step)]
    return {cut: np.concatenate([part[cut] for part in parts]).reshape(len(pixels), -1) for cut in network.cuts}


def _nearest(features: np.ndarray) -> np.ndarray:
    """The other row of the largest cosine, for each row."""
    unit = features / (np.linalg.norm(features, axis=1, keepdims=True) + np.finfo(np.float32).tiny)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    nearest: np.ndarray = cosines.argmax(axis=1)
    return nearest


def _extra(package: str) -> Any:
    """A package of the extra `int8`."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise OptionError("--precision int8: needs the extra int8, `pip install 'headstart[int8]'`") from error
