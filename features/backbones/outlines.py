"""Outlines: facts about the graph of a network, known before the network is built.

The outlines of the networks in `zoo` are in `outlines.json`, so that a command that builds no network need not import
Keras. `make_outlines` makes `outlines.json` from the graphs.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headstart.features.backbones.archive import require_file
from headstart.features.backbones.zoo import BACKBONES, backbone_spec
from headstart.features.errors import OptionError, WeightsError
from headstart.features.images.pixels import Resize

if TYPE_CHECKING:
    import keras

# Sides of images in pixels. A network for any size gets the shapes and cost at the first of these that it can take.
_USUAL_SIZES = (224, 512, 1024)


# Where weights are: shipped with headstart or in a `.keras` file, cached by Keras, to be downloaded, or not published.
PlaceOfWeights = Literal["shipped", "cached", "download", "none"]


@dataclass(frozen=True)
class Outline:
    """Facts about a network that is not built: its input size, its number of parameters, its cost, and its cuts."""

    image_size: int  # side of the square input in pixels; 0 if the network takes any size
    parameters: int  # number of parameters without the top
    multiply_adds: int  # of one image at `image_size`; see `graph.multiply_adds`
    boundary: int  # the first operation that fine-tuning trains by default
    depthwise: bool  # whether a convolution treats channels, or groups of channels, separately
    cuts: Mapping[str, tuple[int, ...]]  # name to shape, `(H, W, D)`, lowest first. The last may be `(N, D)` or `(D,)`
    file: str = ""  # the name under which Keras keeps the ImageNet weights
    url: str = ""  # from which Keras downloads the ImageNet weights

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Outline":
        """Return the outline from `values`, the result of `dataclasses.asdict`."""
        return cls(**{**values, "cuts": {name: tuple(shape) for name, shape in values["cuts"].items()}})


def is_own(name: str) -> bool:
    """Return whether `name`, a value of `--backbone`, is the path of a `.keras` file and not the name of a network."""
    return name.endswith(".keras")


def default_resize(name: str) -> Resize:
    """Return the value that `--resize auto` stands for with the network `name`."""
    return "stretch" if is_own(name) else BACKBONES[name].resize


def outline(name: str) -> Outline:
    """Return the outline of a zoo network or of a `.keras` file. For errors, see `backbone_spec` and `own.load_own`."""
    if is_own(name):
        require_file(name, f"--backbone {name}")
        return _outline_of_own(name)
    backbone_spec(name)
    return _outlines()[name]


def _outline_of_own(name: str) -> Outline:
    from headstart.features.backbones.own import at_size, load_own

    model = load_own(Path(name)).model
    if model.input.shape[1]:
        return outline_of(model, stable_names=True)
    for size in _USUAL_SIZES:
        with suppress(OptionError):
            return replace(outline_of(at_size(model, name, size, "float32"), stable_names=True), image_size=0)
    raise WeightsError(
        f"--backbone {name}: declares images of any size, but runs on none of {_USUAL_SIZES} pixels; save the network "
        "with an input of the size that it takes"
    )


def place_of_weights(name: str) -> PlaceOfWeights:
    """Return where the ImageNet weights of the network `name` are: for example `cached` if Keras has downloaded them.

    A `.keras` file holds its own weights. For such a file, return `shipped`.
    """
    if is_own(name) or BACKBONES[name].shipped:
        return "shipped"
    file = outline(name).file
    if not file:
        return "none"
    home = Path.home()  # if it can't be written to, Keras uses /tmp
    keras = os.environ.get("KERAS_HOME") or (home if os.access(home, os.W_OK) else Path("/tmp")) / ".keras"
    return "cached" if (Path(keras).expanduser() / "models" / file).is_file() else "download"


def cut_places(name: str, model: "keras.Model") -> dict[str, int]:
    """Return a mapping from the name of each cut to the index of the cut's operation in `model.operations`.

    `model` is the Keras model of the network `name`. The lowest index comes first.
    """
    from headstart.features.backbones.graph import cut_indices

    return cut_indices(model, is_own(name), {} if is_own(name) else BACKBONES[name].names)


def outline_of(
    model: "keras.Model",
    stable_names: bool = False,
    renamed: Mapping[str, str] | None = None,
    file: str = "",
    url: str = "",
) -> Outline:
    """Read the outline of `model` from its graph. For the other arguments, see `graph.cut_indices` and `Outline`."""
    from headstart.features.backbones.graph import (
        cut_indices,
        is_depthwise,
        last_stage,
        multiply_adds,
        nested_layers,
        output_of,
    )

    cuts = cut_indices(model, stable_names, renamed)
    return Outline(
        image_size=model.input.shape[1] or 0,
        parameters=model.count_params(),
        multiply_adds=multiply_adds(model),
        boundary=last_stage(model),
        depthwise=any(map(is_depthwise, nested_layers(model.operations))),
        cuts={name: tuple(output_of(model, index).shape[1:]) for name, index in cuts.items()},
        file=file,
        url=url,
    )


@cache
def _outlines() -> dict[str, Outline]:
    text = (resources.files("headstart.features.backbones") / "outlines.json").read_text()
    return {name: Outline.from_json(values) for name, values in json.loads(text).items()}
