"""Run folders as an attacker or an accident might leave them: each of `RUNS` changes one valid run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Change = Callable[[Path], object]  # changes a run folder

FIELDS = (
    "data",
    "seed",
    "class_names",
    "features",
    "head",
    "weights_digest",
    "fingerprints",
    "examples",
    "versions",
    "reading",
)
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
HUGE = 600 << 20  # bytes


def config(**fields: Any) -> Change:
    """Set fields of `config.json`; the value `...` removes a field."""

    def change(run: Path) -> None:
        values = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({k: v for k, v in (values | fields).items() if v is not ...}))

    return change


def feature(**fields: Any) -> Change:
    """Set fields of `features` in `config.json`; the value `...` removes a field."""

    def change(run: Path) -> None:
        values = json.loads((run / "config.json").read_text())["features"] | fields
        config(features={k: v for k, v in values.items() if v is not ...})(run)

    return change


def calibration(**fields: Any) -> Change:
    """Set fields of the head in `calibration.json`."""

    def change(run: Path) -> None:
        values = json.loads((run / "calibration.json").read_text())
        (run / "calibration.json").write_text(json.dumps({"head": values["head"] | fields}))

    return change


def array(values: np.ndarray) -> Change:
    """Save `values` as the head's reference."""
    return lambda run: np.save(run / "reference-head.npy", values, allow_pickle=True)


def text(name: str, content: str | bytes) -> Change:
    return lambda run: (run / name).write_bytes(content.encode() if isinstance(content, str) else content)


def edited(name: str, old: str, new: str, count: int = -1) -> Change:
    return lambda run: (run / name).write_text((run / name).read_text().replace(old, new, count))


def gone(name: str) -> Change:
    return lambda run: (run / name).unlink()


def pipe(name: str) -> Change:
    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return change


def folder(name: str) -> Change:
    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return change


def link(name: str, to: str) -> Change:
    def change(run: Path) -> None:
        if (run / name).is_dir():
            shutil.rmtree(run / name)
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(to)

    return change


def sparse(name: str, size: int) -> Change:
    return lambda run: os.truncate(run / name, size)


def outside(name: str) -> Change:
    """Move a file out of the run, and leave a symlink."""

    def change(run: Path) -> None:
        shutil.move(run / name, run.parent / f"outside.{name}")
        (run / name).symlink_to(run.parent / f"outside.{name}")

    return change


def logit_of_text(run: Path) -> None:
    file = run / "predictions-test.csv"
    file.write_text(file.read_text().rstrip()[:-1] + "x\n")


RUNS: dict[str, Change] = {
    **{f"without {name}": config(**{name: ...}) for name in FIELDS},
    **{f"{name} is null": config(**{name: None}) for name in FIELDS},
    **{f"{name} is a number": config(**{name: 1.5}) for name in FIELDS},
    **{f"{name} is a list of lists": config(**{name: [[1], [2]]}) for name in FIELDS},
    "numbers as class names": config(class_names=[0, 1]),
    "a class too many": config(class_names=["cat", "dog", "fox"]),
    "a class too few": config(class_names=["cat"]),
    "a class name that is no text": config(class_names=["cat", "\ud800"]),
    "a class twice": config(class_names=["cat", "cat"]),
    "seed below zero": config(seed=-1),
    "seed of 400 digits": config(seed=10**400),
    "seed is true": config(seed=True),
    "sweep without trial": config(sweep={"study": "x"}),
    "finetune is a list": config(finetune=[1]),
    "reading of another layout": config(reading={"layout": "spiral"}),
    "reading with a broken regex": config(reading={"label_from": "("}),
    "reading with a new field": config(reading={"new": 1}),
    "a later version with a new field": config(versions={"headstart": "9.1"}, new_field=1),
    "a later version without data": config(versions={"headstart": "9.1"}, data=...),
    "fingerprints of other features": config(fingerprints={"top_activation": "0" * 64}),
    "another weights digest": config(weights_digest="0" * 64),
    "data with a zero byte": config(data="a\0b"),
    "data is a device": config(data="/dev/zero"),
    "data is the root of nothing": config(data="/nowhere/at/all"),
    "store elsewhere": feature(store="../elsewhere"),
    "store at a file": feature(store="./config.json"),
    "store with a zero byte": feature(store="\0"),
    "store is a number": feature(store=1),
    "without store": feature(store=...),
    "without cut": feature(cut=...),
    "cut is text": feature(cut="top_activation"),
    "no cut": feature(cut=[]),
    "cut of numbers": feature(cut=[1]),
    "an unknown cut": feature(cut=["nowhere"]),
    "a cut that is a map": feature(cut=["top_activation:map"]),
    "an unknown backbone": feature(backbone="resnet_of_2031"),
    "a .keras backbone that is gone": feature(backbone="../gone.keras"),
    "a .keras backbone that is the head": feature(backbone="./head.keras"),
    "backbone is empty": feature(backbone=""),
    "another backbone": feature(backbone="efficientnet_lite0", cut=["top_activation"]),
    "weights at a device": feature(weights="/dev/zero"),
    "weights is a run's file": feature(weights="./config.json"),
    "weights is null": feature(weights=None),
    "weights seed below zero": feature(weights_seed=-1),
    "weights seed of 30 digits": feature(weights_seed=10**30),
    "a new option": feature(new_option=1),
    "images of a million pixels a side": feature(image_size=10**6),
    "images of another size": feature(image_size=96),
    "99 bits": feature(bits="99"),
    "another precision": feature(precision="int4"),
    "another resize": feature(resize="fold"),
    "batches of 1e30": feature(batch_size=10**30),
    "pixels below zero": feature(max_pixels=-1),
    "rejects above one": feature(max_rejects=7),
    "tokens first": feature(tokens="first"),
    "config is empty": text("config.json", ""),
    "config is a list": text("config.json", "[]"),
    "config is deep": text("config.json", DEEP),
    "config with NaN": edited("config.json", '"seed": 0', '"seed": NaN'),
    "config with infinity": edited("config.json", '"seed": 0', '"seed": 1e999'),
    "config not UTF-8": text("config.json", b"\xff\xfe{}"),
    "config is a folder": folder("config.json"),
    "config is a pipe": pipe("config.json"),
    "config is huge": sparse("config.json", HUGE),
    "config links to itself": link("config.json", "config.json"),
    "config lies outside": outside("config.json"),
    "metrics are a list": text("metrics.json", "[]"),
    "metrics with NaN": text("metrics.json", '{"head": {"seconds": NaN}}'),
    "metrics with text": text("metrics.json", '{"head": {"seconds": "fast"}}'),
    "metrics with other evaluations": text("metrics.json", '{"evaluate": [1]}'),
    "metrics are deep": text("metrics.json", DEEP),
    "metrics are a pipe": pipe("metrics.json"),
    "metrics are gone": gone("metrics.json"),
    "calibration is a list": text("calibration.json", "[]"),
    "calibration of a number": text("calibration.json", '{"head": 1}'),
    "calibration is deep": text("calibration.json", DEEP),
    "calibration is a pipe": pipe("calibration.json"),
    "calibration with a temperature of 0": calibration(temperature=0),
    "calibration with an infinite temperature": edited("calibration.json", '"temperature": ', '"temperature": 1e999'),
    "calibration with text": calibration(true_probabilities=["0.5"]),
    "calibration without probabilities": calibration(true_probabilities=[]),
    "calibration in disorder": calibration(true_probabilities=[0.9, 0.1]),
    "calibration above one": calibration(true_probabilities=[0.5, 1.5]),
    "calibration with a distance below zero": calibration(distance=-1),
    "reference of another width": array(np.ones((5, 3), np.float16)),
    "reference of integers": array(np.ones((5, 3), np.int16)),
    "reference with NaN": array(np.full((5, 3), np.nan, np.float16)),
    "reference of no images": array(np.ones((0, 3), np.float16)),
    "reference of objects": array(np.array([[{}]])),
    "reference is cut off": lambda run: os.truncate(run / "reference-head.npy", 1000),
    "reference is text": text("reference-head.npy", "hello"),
    "reference is huge": sparse("reference-head.npy", HUGE),
    "reference is a pipe": pipe("reference-head.npy"),
    "examples are gone": gone("examples.csv"),
    "examples without a column": edited("examples.csv", "digest", "hash", 1),
    "examples with a field of 1 MB": edited("examples.csv", "train", "t" * (1 << 20), 1),
    "examples with a column too many": edited("examples.csv", ",train", ",train,more", 1),
    "examples of zeros": text("examples.csv", bytes(1000)),
    "examples are a pipe": pipe("examples.csv"),
    "examples are one long line": sparse("examples.csv", 40 << 20),
    "history is gone": gone("history.csv"),
    "history without a column": edited("history.csv", "phase", "part", 1),
    "history is a pipe": pipe("history.csv"),
    "predictions are gone": gone("predictions-test.csv"),
    "predictions with NaN": edited("predictions-test.csv", ",cat,", ",cat,nan\n,,cat,", 1),
    "predictions with text": logit_of_text,
    "predictions of another class": edited("predictions-test.csv", ",cat,", ",fox,", 1),
    "predictions are empty": text("predictions-test.csv", ""),
    "predictions are a pipe": pipe("predictions-test.csv"),
    "head is a pipe": pipe("head.keras"),
    "head is a folder": folder("head.keras"),
    "head lies outside": outside("head.keras"),
    "classifier is a folder": folder("classifier.keras"),
    "classifier is a pipe": pipe("classifier.keras"),
    "logs lie elsewhere": link("logs", "../elsewhere"),
    "logs of fine-tuning lie elsewhere": link("logs/finetune", "../../elsewhere"),
    "a state lies elsewhere": link("finetune.state", "../elsewhere"),
    "an unfinished state lies elsewhere": link("finetune.partial", "../elsewhere"),
    "a state is a file": text("finetune.partial", ""),
    "predictions of val are a pipe": pipe("predictions-val.csv"),
}  # fmt: skip
