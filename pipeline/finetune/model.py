"""The model that phase 2 trains."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from headstart.features.backbones.backbone import Backbone
from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.hdf5 import require_sound_hdf5
from headstart.features.backbones.loading import said
from headstart.features.config import AskedPrecision
from headstart.features.device import make_deterministic
from headstart.features.errors import OptionError, RunError, WeightsError
from headstart.features.frozen.network import load_network
from headstart.features.tensorflow import keras
from headstart.pipeline.classifier import (
    build_classifier,
    build_streamed,
    build_top,
    trained_layers,
    unfreeze,
    with_features,
)
from headstart.pipeline.featured import FeaturedExamples
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.finetune.state import ANEW
from headstart.pipeline.runs import Run
from headstart.pipeline.runs.files import require_regular
from headstart.pipeline.training import compile_model, make_optimizer

_MOST_BYTES = 64 << 30  # of a weights file
_BEST, _LATEST = "best.top.weights.h5", "latest.top.weights.h5"
# Versions before 0.2 saved the weights of the whole model, in these files.
_EARLIER_BEST, _EARLIER_LATEST = "best.weights.h5", "backup/latest.weights.h5"


@dataclass(frozen=True)
class FinetuneModel:
    """A compiled model that shares its layers with `head` and with the backbone of `cached`.

    Training changes `head` and the layers of the backbone from index `from_layer` on. The files that
    `save_latest` and `save_best` write hold the weights of `top`, not those of the whole model.
    """

    cached: FeaturedExamples
    head: keras.Model
    from_layer: int
    model: keras.Model  # from pixels, or from a cached map, to logits
    top: keras.Model  # the part of `model` that is trained; all of `model` if `model` takes a map
    scored: keras.Model  # `top` with two outputs: the features that `head` takes, and the logits
    map_cut: Cut | None  # the cut whose map `model` takes; None if `model` takes pixels

    @property
    def frozen(self) -> keras.Model:
        """The frozen part, if `model` takes pixels: a model that maps pixels to the inputs of `top`."""
        return self.model.get_layer("frozen")

    @property
    def state_bytes(self) -> int:
        """Return the size in bytes of the weights files of one state."""
        variables = (*self.top.weights, *self.top.weights, *self.model.optimizer.variables)
        return sum(int(variable.numpy().nbytes) for variable in variables)

    def save_latest(self, folder: Path) -> None:
        """Save the trained layers and the optimizer into `folder`, as the latest state."""
        _sharing(self.top, self.model.optimizer).save_weights(folder / _LATEST)

    def save_best(self, folder: Path) -> None:
        """Save the trained layers into `folder`, as the best weights so far."""
        _sharing(self.top).save_weights(folder / _BEST)

    def copy_best(self, previous: Path, folder: Path) -> None:
        """Copy the best weights so far from the folder `previous` to `folder`."""
        for file in (previous / _BEST, previous / _EARLIER_BEST):
            if file.exists():
                shutil.copy(file, folder)

    def load_latest(self, folder: Path) -> None:
        """Set the model and the optimizer to the latest state in `folder`.

        Raises RunError if the file of this state is damaged. Don't call this method for the folder of epoch 0. That
        folder has no latest state.
        """
        if (folder / _EARLIER_LATEST).exists():
            load_state(self.model, folder / _EARLIER_LATEST)
        else:
            load_state(_sharing(self.top, self.model.optimizer), folder / _LATEST)

    def load_best(self, folder: Path) -> None:
        """Set the model to the best weights in `folder`.

        Raises RunError if the file of these weights is damaged, or has weights that are not finite.
        """
        earlier = (folder / _EARLIER_BEST).exists()
        file = folder / (_EARLIER_BEST if earlier else _BEST)
        load_state(_sharing(self.model if earlier else self.top), file)
        if not all(np.isfinite(variable.numpy()).all() for variable in self.top.weights):
            raise RunError(f"{file}: has weights that are not finite; {ANEW}")

    def classifier(self) -> keras.Model:
        """Join the trained backbone and the head into one float32 model.

        The model maps pixels (uint8 [B, H, W, 3]) to logits.
        """
        network = self.cached.network
        if network.backbone.precision != "float32":
            trained = network.backbone.model
            network = load_network(replace(network.config, precision="float32"), network.extraction)
            network.backbone.model.set_weights(trained.get_weights())
        return build_classifier(network.backbone, network.cuts, self.head)


def load_state(model: keras.Model, file: Path) -> None:
    """Load `file`, a weights file of a state, into `model`.

    Raises RunError if `file` is damaged, or if it has the weights of another model.
    """
    require_regular(file, _MOST_BYTES, ANEW)
    try:
        require_sound_hdf5(file, file.stat().st_size, str(file))
        model.load_weights(file)
    except WeightsError as error:
        raise RunError(f"{error}; {ANEW}") from error
    except MemoryError:
        raise
    except Exception as error:  # Keras and h5py raise a dozen kinds
        raise RunError(f"{file}: not weights of this model, or corrupt ({said(error)}); {ANEW}") from error


def build_finetune_model(
    run: Run, cached: FeaturedExamples, config: FinetuneConfig, seed: int, precision: AskedPrecision = "auto"
) -> FinetuneModel:
    """Build a model from the backbone of `cached` and the run's head, and compile the model.

    `seed` decides dropout. The backbone has the run's precision, or the argument `precision` if the run has int8.

    Raises OptionError if the first trained layer does not exist, lies above the highest cut, or can't be used with
    `--from-cache`. Also raises OptionError if the schedule is cosine, and all steps are warm-up.
    """
    network = cached.network
    if network.backbone.precision == "int8":
        network = load_network(replace(network.config, precision=precision), network.extraction)
        cached = replace(cached, networks=[network])
    backbone, cuts = network.backbone, network.cuts
    _ = backbone.model  # builds the model if needed; building draws random numbers, so the seed is set afterwards
    keras.utils.set_random_seed(seed)
    from_layer = backbone.layer_index(config.from_layer) if config.from_layer else backbone.boundary(cuts)
    top = max(backbone.layer_index(cut) for cut in cuts)
    if from_layer > top:
        raise OptionError(f"--from-layer {config.from_layer}: above the cut, layer {top}; nothing would be trained")
    map_cut = _map_cut(backbone, from_layer, cuts) if config.from_cache else None
    unfreeze(backbone, from_layer, config.thaw_batchnorm)
    make_deterministic(trained_layers(backbone, from_layer))
    head = run.load_model(run.head_file, (sum(backbone.shape(cut)[0] for cut in cuts),))
    top = build_top(backbone, from_layer, cuts, head)
    model = build_streamed(backbone, from_layer, cuts, top) if map_cut is None else top
    optimizer = _optimizer(config, len(cached.of("train")))
    compile_model(model, len(cached.class_names), optimizer, config.label_smoothing)
    optimizer.build(model.trainable_variables)
    return FinetuneModel(cached, head, from_layer, model, top, with_features(top), map_cut)


def _optimizer(config: FinetuneConfig, examples: int) -> keras.optimizers.Optimizer:
    """Return the optimizer. Its learning rate follows `config.schedule`.

    The argument `examples` is the number of examples in an epoch.
    """
    momentum = {"momentum": config.momentum} if config.optimizer in ("sgd", "rmsprop") else {}
    clipping = {"global_clipnorm": config.clip_norm} if config.clip_norm else {}
    rate: float | keras.optimizers.schedules.LearningRateSchedule = config.learning_rate
    schedules, steps = keras.optimizers.schedules, config.epochs * -(-examples // config.batch_size)
    if config.schedule == "cosine" and config.warmup >= steps:
        raise OptionError(
            f"--warmup {config.warmup}: must be under {steps}, the number of steps in {config.epochs} epochs"
        )
    if config.schedule == "cosine" and config.warmup:
        rate = schedules.CosineDecay(0.0, steps - config.warmup, warmup_target=rate, warmup_steps=config.warmup)
    elif config.schedule == "cosine":
        rate = schedules.CosineDecay(rate, steps)
    elif config.warmup:
        rate = schedules.PolynomialDecay(0.0, config.warmup, end_learning_rate=rate)
    return make_optimizer(config.optimizer, rate, **momentum, **clipping)


def _sharing(model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None) -> keras.Model:
    """Return a new model that shares its layers with `model`, and is compiled with `optimizer` if there is one.

    The new model serves to save or load the state of the layers and of the optimizer.
    """
    sharing = keras.Model(model.inputs, model.outputs)
    if optimizer is not None:
        sharing.compile(optimizer)
    return sharing


def _map_cut(backbone: Backbone, from_layer: int, cuts: Sequence[Cut]) -> Cut:
    """Return the cut whose feature map is the only input of the trained layers, or raise an OptionError."""
    crossing = backbone.crossing(from_layer, cuts)
    by_layer = {backbone.layer_index(cut): cut.block for cut in backbone.cuts()}
    if len(crossing) == 1 and crossing[0] in by_layer:
        return Cut(backbone.name, by_layer[crossing[0]], map=True)
    names = ", ".join(backbone.model.operations[index].name for index in crossing)
    raise OptionError(
        f"--from-cache: layer {from_layer} takes the output of {names}, and not of one cut alone; "
        f"give as --from-layer the layer after a cut ({', '.join(by_layer.values())}), or leave out --from-cache"
    )
