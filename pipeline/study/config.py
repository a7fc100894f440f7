"""The settings of a study."""

from dataclasses import dataclass
from pathlib import Path

from headstart.features.errors import require_options
from headstart.features.options import option
from headstart.pipeline.scoring.choosing import CHOICES, ChooseBy, canonical, titled

FEWEST_SIZES = 4  # two laws are fitted to the smaller sizes, and compared on the larger ones
_MOST = 1000  # of sizes and of seeds: a head is trained for each pair of them
CHART_TYPES = (".svg", ".png")


@dataclass(frozen=True)
class StudyConfig:
    """The settings of a study: how many heads it trains, and which questions it answers."""

    sizes: int = option(10, "Numbers of training images to try, the last is all of them.")
    seeds: int = option(5, "Draws of the images of each size.")
    metric: ChooseBy = option("accuracy", "Figure on val. log_loss is loss.")
    more: int = option(
        0, "Tell the gain from so many more training images; 0 takes 1,000, or as many as there are if these are fewer."
    )
    target: float = option(0.0, "Tell how many images reach this figure; 0 takes the next round one.")
    max_images: int = option(20_000, "Images of train, and of val, in the study; if there are more, a sample.")
    chart: Path | None = option(None, "Chart to write, .svg or .png.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", canonical(self.metric))
        known = self.metric in CHOICES
        reachable = self.target >= 0 if self.metric == "loss" else 0 <= self.target < 1
        wanted = f"at least 0{'' if self.metric == 'loss' else ' and under 1'} for {titled(self.metric)}"
        require_options(
            ("--metric", self.metric, known, f"among {', '.join(CHOICES)}"),
            ("--sizes", self.sizes, FEWEST_SIZES <= self.sizes <= _MOST, f"from {FEWEST_SIZES} to {_MOST}"),
            ("--seeds", self.seeds, 2 <= self.seeds <= _MOST, f"from 2 to {_MOST}"),
            ("--more", self.more, self.more >= 0, "at least 1, or 0 to choose"),
            ("--target", self.target, reachable, wanted),
            ("--max-images", self.max_images, self.max_images >= 2, "at least 2"),
            ("--chart", self.chart, self._can_draw(), "a file that ends in .svg or .png, in a folder that exists"),
        )

    def _can_draw(self) -> bool:
        chart = self.chart
        return not chart or (chart.suffix.lower() in CHART_TYPES and chart.parent.is_dir() and not chart.is_dir())
