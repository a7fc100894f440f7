"""List the networks of the zoo, or the cuts of one network."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.features.backbones.outlines import Outline, PlaceOfWeights, is_own, outline, place_of_weights
from headstart.features.backbones.zoo import BACKBONES
from headstart.features.frozen.speeds import Speed, measured_speeds
from rich.table import Table

_LEGEND = (
    "ImageNet: where the weights are. images/s here: `headstart features` measures it when it extracts 100 images or "
    "more; - means not yet. `headstart backbones NAME` shows the cuts of one."
)


@dataclass(frozen=True)
class ListedBackbone:
    """One network: its size and cost, where it can be cut, and where its weights are."""

    name: str
    image_size: int  # side of the square input in pixels; 0 if the network takes any size
    parameters: int  # without the top
    multiply_adds: int  # of one image at `image_size`
    cuts: dict[str, list[int]]  # name to shape, lowest first
    boundary: int  # the first operation that fine-tuning trains by default
    weights: PlaceOfWeights
    images_per_second: float | None  # measured on this machine by `headstart features`; None if it was not
    precision: str | None  # of the measured speed


@dataclass(frozen=True)
class BackbonesResult:
    """The result of `headstart backbones`. If `detailed` is true, the result describes one network."""

    backbones: list[ListedBackbone]
    detailed: bool

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {"backbones": [asdict(one) for one in self.backbones]}

    def lines(self) -> list[Any]:
        """Return the summary that is printed without `--json`."""
        return _details(self.backbones[0]) if self.detailed else [_table(self.backbones), "", _LEGEND]


def list_backbones(name: str | None, store: Path) -> BackbonesResult:
    """List the networks of the zoo. If `name` is not None, list only the network `name`.

    `name` is the name of a network of the zoo, or the path of a `.keras` file. The result also has the speeds that
    `headstart features` measured on this machine, and wrote into `store`. Raises OptionError for an unknown name, or
    for a `.keras` model that can't be used as a backbone. Raises WeightsError for a `.keras` file that is missing or
    damaged.
    """
    speeds = measured_speeds(store)
    names = [os.path.abspath(name) if is_own(name) else name] if name is not None else list(BACKBONES)
    return BackbonesResult([_listed(one, outline(one), speeds.get(one)) for one in names], detailed=name is not None)


def _listed(name: str, found: Outline, speed: Speed | None) -> ListedBackbone:
    return ListedBackbone(
        name=name,
        image_size=found.image_size,
        parameters=found.parameters,
        multiply_adds=found.multiply_adds,
        cuts={cut: list(shape) for cut, shape in found.cuts.items()},
        boundary=found.boundary,
        weights=place_of_weights(name),
        images_per_second=speed.images_per_second if speed else None,
        precision=speed.precision if speed else None,
    )


def _table(backbones: Sequence[ListedBackbone]) -> Table:
    table = Table(box=None)
    for head in ("name", "pixels", "million weights", "billion mult-adds", "cuts", "ImageNet", "images/s here"):
        table.add_column(head, no_wrap=head == "name", justify="left" if head in ("name", "ImageNet") else "right")
    for one in backbones:
        speed = f"{one.images_per_second:.0f} ({one.precision})" if one.images_per_second else "-"
        costs = (f"{one.parameters / 1e6:.1f}", f"{one.multiply_adds / 1e9:.2f}")
        table.add_row(one.name, str(one.image_size), *costs, str(len(one.cuts)), one.weights, speed)
    return table


def _details(one: ListedBackbone) -> list[Any]:
    size = f"{one.image_size} x {one.image_size} pixels" if one.image_size else "images of any size"
    table = Table("cut", "shape", box=None)
    for cut, shape in one.cuts.items():
        table.add_row(cut, " x ".join(str(side) if side else "?" for side in shape))
    return [
        f"{one.name}: {size}, {one.parameters / 1e6:.1f} million parameters, {one.multiply_adds / 1e9:.2f} billion "
        f"multiply-adds an image; weights: {'in the file' if is_own(one.name) else one.weights}",
        *([f"{one.images_per_second:.0f} images/s here in {one.precision}"] if one.images_per_second else []),
        f"fine-tuning trains from layer {one.boundary} on, if the head is on the last cut",
        table,
    ]
