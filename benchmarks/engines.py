"""From JPEG files to features for several backbones, against OpenVINO's best and against decoding alone."""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.weights import build_backbone
from headstart.features.config import ExtractionConfig, FeatureConfig, Precision
from headstart.features.extract import extract_features
from headstart.features.frozen.engines import converted, load_openvino
from headstart.features.frozen.frozen import folded_backbone, traced
from headstart.features.frozen.network import load_network
from headstart.features.frozen.precision import resolve_precision
from headstart.features.images.batches import decoded_batches
from headstart.features.images.decode import ImageConfig
from headstart.features.images.scan import ImageFile

from benchmarks.timing import Row, in_turns, seconds

BACKBONES = ("efficientnet_lite0", "mobilenet_v3_small", "efficientnet_v2_b0", "inception_v3")
BATCHES = (4, 8, 32)  # OpenVINO's best is the fastest of these


def engine_rows(images: list[ImageFile], folder: Path, names: tuple[str, ...] = BACKBONES) -> list[Row]:
    """Rows for each of `names`, in the machine's precision. The stores are made in `folder`."""
    precision = resolve_precision("auto")
    return [row for name in names for row in _rows_of(name, precision, images, folder)]


def _rows_of(name: str, precision: Precision, images: list[ImageFile], folder: Path) -> list[Row]:
    numbers = itertools.count()
    settings = FeatureConfig(backbone=name, weights="random", precision=precision)
    network = load_network(settings, ExtractionConfig(store=folder / name))
    frozen = network.freeze()

    def ours() -> float:
        empty = replace(network, extraction=ExtractionConfig(store=folder / name / str(next(numbers))))
        stores = {cut: store.create() for cut, store in empty.stores().items()}
        return extract_features(images, lambda: frozen, stores, empty.images).images_per_second

    def decode_only() -> float:
        return len(images) / seconds(lambda: [None for _ in decoded_batches(images, network.images, 32)])

    plain = build_backbone(name, "random")
    feed = partial(openvino_fed, images, network.images, plain, precision)
    rivals = {f"OpenVINO, batch {size}": feed(size) for size in BATCHES}
    found = in_turns({"ours": ours, "decoding alone": decode_only, **rivals})
    best = max(rivals, key=lambda rival: statistics.median(found[rival]))
    return [
        Row(f"{name}, {precision}", "images/s", baseline, found["ours"], found[baseline])
        for baseline in (best, "decoding alone")
    ]


def openvino_fed(
    images: list[ImageFile], config: ImageConfig, backbone: Backbone, precision: Precision, batch_size: int
) -> Callable[[], float]:
    """Images a second of OpenVINO as its makers advise for throughput, fed by our input pipeline, warmed up.

    `backbone` is in float32: OpenVINO rounds by itself.
    """
    side, openvino = backbone.image_size, load_openvino()
    model = converted(traced(folded_backbone(backbone), backbone.cuts()[-1:], batch_size, compiled=False))
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": hint}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    features: list[np.ndarray] = []

    def run() -> float:
        features.clear()
        start = time.perf_counter()
        queue = openvino.AsyncInferQueue(compiled)
        queue.set_callback(lambda request, _: features.append(np.array(request.get_output_tensor(0).data)))
        for _, pixels in decoded_batches(images, config, batch_size):
            empty = np.zeros((batch_size - len(pixels), side, side, 3), np.uint8)
            queue.start_async([np.concatenate([pixels, empty])])
        queue.wait_all()
        return len(images) / (time.perf_counter() - start)

    compiled(np.zeros((batch_size, side, side, 3), np.uint8))
    return run
