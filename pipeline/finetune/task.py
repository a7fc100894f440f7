"""What phase 2 trains: a model put together from a run, and the batches it takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import keras
import tensorflow as tf
from headstart.features.backbones.backbone import MAP, Backbone, Precision
from headstart.features.backbones.frozen import make_deterministic
from headstart.features.backbones.network import load_network
from headstart.features.errors import OptionError
from headstart.features.terminal import console
from headstart.pipeline.classifier import build_classifier, build_streamed, build_top, unfreeze
from headstart.pipeline.featured import CachedExamples, fill_more, views_of
from headstart.pipeline.finetune.config import FinetuneConfig
from headstart.pipeline.inputs import eval_dataset, features_dataset, train_dataset
from headstart.pipeline.runs import Run
from headstart.pipeline.training import compile_model, make_optimizer


@dataclass(frozen=True)
class Task:
    """A model that is compiled, and what it was made of.

    Args:
        model: from pixels, or from what is cached, to logits.
        head: trained within `model`, as are the layers of the backbone of `cached` from `from_layer` on.
        map_cut: the cut whose map `model` takes; None for pixels.
    """

    cached: CachedExamples
    head: keras.Model
    from_layer: int
    model: keras.Model
    map_cut: str | None


def build_task(
    run: Run, cached: CachedExamples, config: FinetuneConfig, seed: int, precision: Precision | Literal["auto"] = "auto"
) -> Task:
    """Put the model together from the run's head and the backbone of `cached`, and compile it.

    Args:
        precision: in place of int8, which has no gradients.

    Raises:
        OptionError: no such layer or optimizer, or one that can't be trained on the cache.
    """
    network = cached.network
    if network.backbone.precision == "int8":
        network = load_network(replace(network.config, precision=precision))
        cached = replace(cached, parts=[replace(cached.parts[0], network=network)])
    backbone, cuts = network.backbone, network.cuts
    _ = backbone.model  # built here if it was not yet, for that draws from the generator that is seeded next
    keras.utils.set_random_seed(seed)
    from_layer = backbone.layer_index(config.from_layer) if config.from_layer else backbone.boundary(cuts)
    top = max(backbone.layer_index(cut) for cut in cuts)
    if from_layer > top:
        raise OptionError(f"--from-layer {config.from_layer}: above the cut, layer {top}; nothing would be trained")
    map_cut = _map_cut(backbone, from_layer, cuts) if config.from_cache else None
    unfreeze(backbone, from_layer, config.thaw_batchnorm)
    make_deterministic(backbone.model.layers[from_layer:])
    head = run.load_model(run.head_file)
    model = build_top(backbone, from_layer, cuts, head)
    if map_cut is None:
        model = build_streamed(backbone, from_layer, cuts, model)
    momentum = {"momentum": config.momentum} if config.optimizer in ("sgd", "rmsprop") else {}
    optimizer = make_optimizer(config.optimizer, config.learning_rate, **momentum)
    compile_model(model, len(cached.class_names), optimizer)
    optimizer.build(model.trainable_variables)
    return Task(cached, head, from_layer, model, map_cut)


def _map_cut(backbone: Backbone, from_layer: int, cuts: Sequence[str]) -> str:
    """The cut whose map is all that crosses into `from_layer`.

    Raises:
        OptionError: more than that crosses, or something that is no cut.
    """
    crossing = backbone.crossing(from_layer, cuts)
    by_layer = {backbone.layer_index(cut): cut for cut in backbone.spec.cuts}
    if len(crossing) == 1 and crossing[0] in by_layer:
        return by_layer[crossing[0]] + MAP
    names = ", ".join(backbone.model.layers[index].name for index in crossing)
    raise OptionError(
        f"--from-cache: what crosses into layer {from_layer} is the output of {names}, and not that of one cut alone; "
        f"give as --from-layer the one after a cut ({', '.join(by_layer.values())}), or leave out --from-cache"
    )


def classifier_of(task: Task) -> keras.Model:
    """The classifier with what was trained, in float32 whatever it was trained in."""
    network = task.cached.network
    if network.backbone.precision != "float32":
        trained = network.backbone.model
        network = load_network(replace(network.config, precision="float32"))
        network.backbone.model.set_weights(trained.get_weights())
    return build_classifier(network.backbone, network.cuts, task.head)


def datasets_of(
    task: Task, config: FinetuneConfig, seed: int, next_epoch: Callable[[], int]
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Train, in an order of its own each epoch, and val."""
    cached, batch_size = task.cached, config.batch_size
    train, val = cached.of("train"), cached.of("val")
    if task.map_cut is None:
        images = cached.network.images
        return train_dataset(train, images, batch_size, config.augment, seed, next_epoch), eval_dataset(
            val, images, batch_size
        )
    if not config.views:
        console.print("trained on images as they are; --views K caches K augmented views of each")
    views = views_of(config.augment, seed, config.views)
    ((plain,),) = fill_more(cached, [task.map_cut], val if views else [*train, *val], [None])
    viewed = [store for (store,) in fill_more(cached, [task.map_cut], train, views)]
    return (
        features_dataset(viewed or [plain], train, batch_size, seed, next_epoch),
        features_dataset([plain], val, batch_size, seed, lambda: 0),
    )
