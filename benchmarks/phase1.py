"""Ten epochs of phase 1 as a command, its start included: python -m benchmarks.phase1 PHOTOS [--weights FILE]

Against the original recipe, which runs the frozen network in every epoch: one epoch is measured, and taken times ten,
both with and without the seconds that Keras waited for tf.data's autotuner at its end.
PHOTOS is a folder of two class folders with JPEGs; all of them are in train or val, so that both sides run the network
on the same images. Writes phase1.json beside it.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from headstart.features.backbones.weights import build_backbone
from headstart.features.files import write_json
from headstart.pipeline.data.examples import Example, scan
from headstart.pipeline.prepare.config import PrepareConfig
from headstart.pipeline.prepare.prepare import prepare
from rich.console import Console

from benchmarks.extraction import BATCH, keras_files
from benchmarks.heads import EPOCHS, frozen_base
from benchmarks.timing import Stalls, seconds

COMMAND = [sys.executable, "-c", "import headstart.cli; headstart.cli.app()", "head"]


def recipe(data: Path, weights: str, rescale: str) -> dict[str, float]:
    """Seconds of one epoch and its validation, building the graph left out, and how many of them Keras waited."""
    examples = scan(data).examples

    def batches(chosen: list[Example]):
        return keras_files([one.image for one in chosen], np.array([one.label for one in chosen]))

    train, val = ([one for one in examples if one.split == split] for split in ("train", "val"))
    model = frozen_base(build_backbone("inception_v3", weights, rescale))
    stalls = Stalls()
    took = 0.0
    for run, chosen in ((model.fit, train), (model.evaluate, val)):
        run(batches(chosen[:BATCH]), verbose=0)
        took += 1 / stalls.timed(1, lambda last, run=run, of=chosen: run(batches(of), verbose=0, callbacks=[last]))
    return {"images": len(train) + len(val), "epoch_seconds": took, "stalled_seconds": sum(stalls.seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--rescale", default="auto")
    asked = parser.parse_args()
    settings = ["--weights", asked.weights, "--rescale", asked.rescale, "--epochs", str(EPOCHS), "--overwrite"]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare(asked.photos, data, PrepareConfig(test=0))
        command = [*COMMAND, str(data), "--run", f"{folder}/run", "--store", f"{folder}/store", *settings]

        def run() -> None:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

        empty, *full = [seconds(run) for _ in range(4)]
        base = recipe(data, asked.weights, asked.rescale)
    scaled = EPOCHS * base["epoch_seconds"]
    unstalled = EPOCHS * (base["epoch_seconds"] - base["stalled_seconds"])
    took = {"empty": empty, "full": statistics.median(full)}
    found = {
        **base, "recipe_seconds_scaled": scaled, "empty_store_seconds": empty, "full_store_seconds": full,
        "times_as_fast": {store: scaled / ours for store, ours in took.items()},
        "times_as_fast_without_its_stalls": {store: unstalled / ours for store, ours in took.items()},
    }  # fmt: skip
    write_json(Path(__file__).with_name("phase1.json"), found)
    Console().print_json(data=found)


if __name__ == "__main__":
    main()
