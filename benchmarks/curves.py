"""Three epochs of fine-tuning, streaming, from the cache, and by plain `fit`: the same curves?"""

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.frozen.network import load_network
from headstart.pipeline.classifier import build_classifier, unfreeze
from headstart.pipeline.featured import load_examples
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.finetune import finetune
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.run import train_run
from headstart.pipeline.inputs import eval_dataset, train_dataset
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.prepare import prepare
from headstart.pipeline.runs import Run
from headstart.pipeline.training import compile_model

from benchmarks.timing import LastBatch


def finetuning(
    photos: Path, config: FeatureConfig, extraction: ExtractionConfig, seeds: int, images: int, folder: Path
) -> dict[str, Any]:
    """Three epochs of fine-tuning in three ways from one head: loss and accuracy on val, from epoch 0 on."""
    chosen = folder / "chosen"
    for kind in sorted(path for path in photos.iterdir() if path.is_dir()):
        (chosen / kind.name).mkdir(parents=True)
        for file in sorted(kind.iterdir())[: images // 2]:
            (chosen / kind.name / file.name).symlink_to(file.absolute())
    data = folder / "data"
    prepare(chosen, data, PrepareConfig(val=0.2, test=0))
    settings = FinetuneConfig(epochs=3, augment="none")
    rows = []
    for seed in range(seeds):
        row: dict[str, Any] = {}
        for name, changed in (("streaming", settings), ("cache", replace(settings, from_cache=True))):
            path = folder / name
            train_run(data, path, config, extraction, HeadConfig(), overwrite=True, seed=seed)
            result = finetune(path, changed, seed=seed)
            rounds = [line for line in Run.open(path).history() if line["phase"] == "finetune"]
            row[name] = {
                "images_per_second": result.images_per_second,
                "val_loss": [result.before["loss"], *(float(line["val_loss"]) for line in rounds)],
                "val_accuracy": [result.before["accuracy"], *(float(line["val_accuracy"]) for line in rounds)],
            }
        row["plain"] = _plain_finetuning(Run.open(folder / "streaming"), settings, seed)
        rows.append(row)
    speeds = {name: statistics.median(row[name]["images_per_second"] for row in rows) for name in rows[0]}
    return {"rows": rows, "images_per_second": speeds}


def _plain_finetuning(run: Run, config: FinetuneConfig, seed: int) -> dict[str, Any]:
    """Plain `fit` of the whole model, in float32 as Keras does, on the same batches."""
    cached = load_examples(run)
    network = load_network(replace(cached.network.config, precision="float32"), cached.extraction)
    _ = network.backbone.model
    keras.utils.set_random_seed(seed)
    train, val = cached.of("train"), eval_dataset(cached.of("val"), cached.network.images, config.batch_size)
    unfreeze(network.backbone, 249, thaw_batchnorm=False)
    model = build_classifier(network.backbone, network.cuts, run.load_model(run.head_file))
    compile_model(model, 2, keras.optimizers.SGD(config.learning_rate, momentum=config.momentum))
    scores = [model.evaluate(val, verbose=0, return_dict=True)]
    took = 0.0
    for epoch in range(config.epochs):
        start, last = time.perf_counter(), LastBatch()
        batches = train_dataset(
            train, cached.network.images, config.batch_size, "none", seed, lambda epoch=epoch: epoch
        )
        model.fit(batches, verbose=0, shuffle=False, callbacks=[last])
        took += last.ended - start if epoch else 0.0  # the first epoch builds the graph
        scores.append(model.evaluate(val, verbose=0, return_dict=True))
    return {
        "images_per_second": (config.epochs - 1) * len(train) / took,
        "val_loss": [float(one["loss"]) for one in scores],
        "val_accuracy": [float(one["accuracy"]) for one in scores],
    }
