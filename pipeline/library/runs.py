"""`headstart.load`, `headstart.train_head` and `headstart.classifier`: open or train a run, and use it from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.export.source import load_source
from headstart.pipeline.head.config import HeadConfig
from headstart.pipeline.head.own import Build, OwnHead
from headstart.pipeline.head.run import train_run
from headstart.pipeline.library.arguments import Place, path_text, received, switch, whole
from headstart.pipeline.library.options import feature_configs, keyword, made, require_known
from headstart.pipeline.library.pictures import listed, on_disk
from headstart.pipeline.places import NetworkPlaces
from headstart.pipeline.predict.clock import Clock
from headstart.pipeline.predict.config import PredictConfig
from headstart.pipeline.predict.model import Answers
from headstart.pipeline.predict.predict import Prediction, open_answers, predicting_here
from headstart.pipeline.predict.sources import find_files
from headstart.pipeline.runs import Run

if TYPE_CHECKING:
    import keras
    import numpy as np
    from PIL import Image

_WITHOUT_EFFECT = ("top", "max_rejects", "probabilities", "recursive")  # see `LoadedRun.predict`
_TURN = Lock()  # a forward pass can't run twice at once, and a network must not be loaded twice


class LoadedRun:
    """A run, and its model that classifies images. The model is loaded when it is first used, and stays in memory."""

    def __init__(self, run: Run, config: PredictConfig, places: NetworkPlaces, seed: int) -> None:
        self._run, self._config, self._places, self._seed = run, config, places, seed

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self._run.path

    @property
    def class_names(self) -> list[str]:
        """The names of the classes; a label is an index into them."""
        return self._run.class_names()

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of the run's `metrics.json`; see `Run.metrics`."""
        return dict(self._run.metrics())

    @property
    def history(self) -> list[dict[str, Any]]:
        """A dict for each epoch: its `phase` (a text), its number `epoch` (an int), and its figures (floats)."""
        kinds: dict[str, Any] = {"phase": str, "epoch": int}
        rows = self._run.history()
        return [{name: kinds.get(name, float)(text) for name, text in row.items() if text != ""} for row in rows]

    @cached_property
    def _answers(self) -> Answers:
        return open_answers(self._run, self._config, self._places, self._seed, Clock())

    def predict(self, images: Place | Image.Image | np.ndarray | Sequence[Any]) -> list[Prediction]:
        """Classify images, and return a prediction for each, in order.

        Each prediction has the fields of `headstart predict --json`, such as `label`, `probability` and
        `probabilities`. Images in memory are resized like files. The EXIF orientation of a Pillow image is applied. A
        large JPEG that is given by its path is decoded at a smaller scale. If the same JPEG is given as a Pillow image,
        the probabilities may differ slightly. Several threads may call this method. Their calls run one after another.

        Args:
            images: one image, or a sequence of images. An image is a path, a Pillow image, or an array uint8 [H, W, 3]
                (RGB) or [H, W] (grey). The path of a folder stands for the images in it. An array uint8 [N, H, W, 3] is
                N images.

        Raises:
            OptionError: for an object that is no image, an array of another dtype or shape, an empty path, and an
                option of `headstart.load` that does not fit the run.
            DataError: if an image can't be used; `headstart.predict` lists such files and goes on.
            RunError, WeightsError: if the weights or the model of the run can't be used.
        """
        wanted = listed(images)
        if not wanted:
            return []
        with on_disk(wanted) as (paths, names):
            sources = find_files(paths)
            try:
                with _TURN:
                    begun = predicting_here(self._answers, sources, self._config, Clock())
                    found = begun.predictions()
            except DataError as error:  # none of the images can be used
                raise DataError(_named(str(error), names)) from error
        if begun.rejects:
            first, more = begun.rejects[0], len(begun.rejects)
            others = f" ({more} such images)" if more > 1 else ""
            raise DataError(f"{names.get(first.path, first.path)}: {first.reason}, {first.detail}{others}")
        return [replace(one, path=names.get(one.path, one.path)) for one in found]

    def classifier(self, logits: bool = False) -> keras.Model:
        """Return the model as plain Keras; see `headstart.classifier`."""
        from headstart.pipeline.export.deployable import with_probabilities

        wants_logits = switch("logits", logits)
        with _TURN:
            source = load_source(self._run, self._answers.choice, self._places)
            found = source.classifier()
            return found if wants_logits else with_probabilities(found, source.temperature)

    def __repr__(self) -> str:
        names = self.class_names
        shown = ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
        return f"<run {self.path}: {shown}>"


def load(run: Place, *, seed: int = 0, **options: Any) -> LoadedRun:
    """Open the run in the folder `run`, to classify images with it: `headstart.load("runs/a").predict(["a.jpg"])`.

    Args:
        run: a folder made by `headstart head` or `headstart.train_head`.
        seed: decides the augmented views, if the option `views` is over 1.
        options: options of `headstart predict`, such as `model="head"`, `abstain=0.9`, `store=` and `weights=`.

    Raises:
        RunError: if there is no run, or if it is damaged.
        OptionError: for an option or argument that is unknown, or that can't be used.
    """
    folder, seed = Path(path_text("run", run, "the folder of a run")), whole("seed", seed)
    require_known(options, PredictConfig, NetworkPlaces)
    config = made(PredictConfig, options)
    if unfit := [name for name in ("output", "from", "append") if options.get(name)]:
        raise OptionError(f"{unfit[0]}: is for files; headstart.predict_to_file writes predictions to a file")
    if unfit := [name for name in _WITHOUT_EFFECT if options.get(name) is not None]:
        raise OptionError(f"{unfit[0]}: has no effect on a loaded run; leave it out")
    return LoadedRun(Run.open(folder), config, made(NetworkPlaces, options), seed)


def train_head(
    data: Place,
    run: Place,
    *,
    backbone: str | None = None,
    cut: str | Sequence[str] | None = None,
    weights: str | None = None,
    store: Place | None = None,
    head: str | Build | None = None,
    overwrite: bool = False,
    seed: int = 0,
    **options: Any,
) -> LoadedRun:
    """Train a head on the features of `data`, write it to the run folder `run`, and open the run.

    Each option of `headstart head` can be given as an argument, and has the same default. For example, `epochs=20`
    stands for `--epochs 20`, `units=(256,)` for `--units 256`, and `head_batch_size=64` for `--head-batch-size 64`.

    Args:
        data: a folder, a list of images, or tars: everything that `headstart head` takes as DATA.
        run: the folder to make.
        backbone, cut, weights, store: the network and its features; see `headstart.features`.
        head: a function of your own that builds the head, or `"FILE.py:FUNCTION"`. The function takes the number of
            features and the number of classes. It returns a Keras model that maps features, float32 [B, D], to logits,
            float32 [B, 1] (two classes) or [B, classes]. The model may use only Keras's own layers.
        overwrite: whether to replace an existing run once the new run is finished.
        seed: decides the initial weights, dropout and the order of examples. If `data` has no split folders, `seed`
            also decides the splits.
        options: further options of `headstart head`.

    Raises:
        OptionError: if an option or argument is unknown or can't be used, or if the function `head` fails.
        DataError: if `data` can't be trained on.
        RunError: if `run` exists and `overwrite` is false, or if `run` exists and holds no run.
        DivergedError: if no epoch has a finite loss.
        WeightsError, StoreError: see `headstart.features`.
    """
    source = Path(path_text("data", data, "a folder, a list of images, or tars"))
    folder = Path(path_text("run", run, "the folder of the new run"))
    overwrite, seed = switch("overwrite", overwrite), whole("seed", seed)
    given = {"backbone": backbone, "cut": cut, "weights": weights, "store": store, **options}
    require_known(given, FeatureConfig, ExtractionConfig, DataConfig, HeadConfig)
    config, extraction = feature_configs(given)
    of_head = made(HeadConfig, given)
    if head is not None:
        of_head = replace(of_head, own=_own(head))
    reading = made(DataConfig, given)
    train_run(source, folder, config, extraction, of_head, overwrite, seed, reading=reading)
    return load(folder)


def classifier(run: Place, *, logits: bool = False, **options: Any) -> keras.Model:
    """Return the classifier of a run as a plain Keras model.

    The model maps pixels, uint8 [B, S, S, 3], to probabilities, float32 [B, C]. S is the image size of the run's
    network, and C is the number of classes. The probabilities are in the order of the class names, and calibrated.
    The model computes in float32. If `headstart predict` computes in bfloat16 or int8, its probabilities may differ a
    little. The caller must resize images as headstart does.

    Args:
        run: the folder of a run.
        logits: whether the model yields uncalibrated logits in place of probabilities. The logits are float32 [B, C].
            With two classes, they are float32 [B, 1]: the logit of the second class.
        options: the options `model`, `store`, `weights` and `seed` of `headstart.load`. Without `model`, the fine-tuned
            classifier is returned if fine-tuning gained on val, and otherwise the network with the head.

    Raises:
        OptionError: for any other option, or for an option that can't be used.
        RunError: if there is no run, if the weights of the network are gone or have changed, or if the head has several
            networks whose `image_size` or `resize` differ.
        WeightsError: if the weights of the network are damaged, or if `weights` is not a file of weights.
    """
    kinds = [keyword(field) for field in fields(PredictConfig) if field.name != "model"]
    if unfit := [name for name in kinds if options.get(name) is not None]:
        raise OptionError(f"{unfit[0]}: has no effect on a classifier; leave it out")
    return load(run, **options).classifier(logits)


def _named(text: str, names: dict[str, str]) -> str:
    """Return `text` with the paths of temporary files replaced by the names of their images.

    `names` maps the paths to the names; see `on_disk`.
    """
    for path, name in names.items():
        text = text.replace(path, name)
    return text


def _own(head: str | Callable[[int, int], Any]) -> OwnHead:
    if callable(head):
        return OwnHead.of(head)
    if not isinstance(head, str):
        raise OptionError(f"head must be a function, or the text FILE.py:FUNCTION. Received: {received(head)}")
    return OwnHead.read(head)
