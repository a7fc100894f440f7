"""Options of `headstart advise`."""

from dataclasses import dataclass

from headstart.features.errors import require_options
from headstart.features.options import option


@dataclass(frozen=True)
class AdviseConfig:
    """The networks to judge, and the number of images on which they are judged."""

    tried: tuple[str, ...] = option(
        (),
        "Also judge this network: extract its features of the sample at some cuts. Repeatable. A network other than "
        "--backbone has ImageNet weights. Default: --backbone if the store has no features of DATA, else none.",
        flag="--try",
        metavar="NAME",
    )
    sample: int = option(
        1000, "Number of images of train and val on which networks are judged, more for over 100 classes; 0 means all."
    )

    def __post_init__(self) -> None:
        require_options(("--sample", self.sample, self.sample == 0 or self.sample >= 20, "at least 20, or 0"))
