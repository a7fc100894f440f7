"""Phase 2 both ways, against plain `fit` of the whole model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import tensorflow as tf
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.frozen.network import load_network
from headstart.features.images.scan import ImageFile
from headstart.pipeline.classifier import build_classifier, unfreeze
from headstart.pipeline.featured import load_examples
from headstart.pipeline.finetune.batches import make_batches
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.model import build_finetune_model
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import train_run
from headstart.pipeline.inputs import train_dataset
from headstart.pipeline.runs import Run
from headstart.pipeline.training import compile_model

from benchmarks.timing import Row, in_turns, seconds

MACS = 7.13e9  # an image: 5.0 below layer 249 forward, 2.13 above forward and backward
MACS_ABOVE = 2.13e9


def finetuning_rows(images: list[ImageFile], data: Path, folder: Path) -> list[Row]:
    """Images/s of training steps; validation and what the epochs write apart."""
    extraction = ExtractionConfig(store=folder / "finetune", max_rejects=1)
    train_run(data, folder / "tuned", FeatureConfig(weights="random"), extraction, HeadConfig(epochs=1), overwrite=True)
    run = Run.open(folder / "tuned")
    settings = FinetuneConfig(augment="none")

    def plain() -> tuple[keras.Model, tf.data.Dataset, int]:
        cached = load_examples(run)
        backbone = load_network(replace(cached.network.config, precision="float32"), cached.extraction).backbone
        unfreeze(backbone, 249, thaw_batchnorm=False)
        model = build_classifier(backbone, cached.network.cuts, run.load_model(run.head_file))
        compile_model(model, 2, keras.optimizers.SGD(1e-4, momentum=0.9))
        train = cached.of("train")
        return model, train_dataset(train, cached.network.images, settings.batch_size, "none", 0, lambda: 0), len(train)

    def steps(model: keras.Model, batches: tf.data.Dataset, count: int) -> Callable[[], float]:
        model.fit(batches.take(2), verbose=0)
        return lambda: count / seconds(lambda: model.fit(batches, verbose=0))

    def ours(changed: FinetuneConfig) -> Callable[[], float]:
        built = build_finetune_model(run, load_examples(run), changed, 0)
        batches = make_batches(built, changed, 0, lambda: 0).train
        return steps(built.model, batches, len(built.cached.of("train")))

    found = in_turns(
        {"streaming": ours(settings), "cache": ours(replace(settings, from_cache=True)), "plain": steps(*plain())}
    )
    against = "plain fit of the whole model, float32"
    return [
        Row("fine-tuning, streaming", "images/s", against, found["streaming"], found["plain"], MACS),
        Row("fine-tuning, from the cache", "images/s", against, found["cache"], found["plain"], MACS_ABOVE),
    ]
