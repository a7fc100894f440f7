"""Settings of a Ray cluster. Only the setting `ray_mixed` can change features, and it changes only their last bits."""

from dataclasses import dataclass

from headstart.features.errors import OptionError, require_options
from headstart.features.options import flags, option


@dataclass(frozen=True)
class ClusterConfig:
    """Where Ray runs, and how large its workers are. An invalid number raises an OptionError.

    An OptionError is also raised if `ray` is empty and another setting differs from its default.
    """

    ray: str = option(
        "",
        "Share the work by Ray; needs the extra ray. local: on this machine. auto, or no ADDRESS: the cluster of "
        "RAY_ADDRESS, or one that runs here. Or the HOST:PORT of a cluster.",
        metavar="[ADDRESS]",
        alone="auto",
    )
    ray_cpus: int = option(0, "CPUs of each Ray worker; 0 is all of a node, or its share of a node with several GPUs.")
    ray_gpus: float = option(1.0, "GPUs of each Ray worker on a node with GPUs; may be a fraction, such as 0.5.")
    ray_mixed: bool = option(
        False, "Use Ray's nodes even if their features differ in the last bits, as those of other processors do."
    )

    def __post_init__(self) -> None:
        whole = self.ray_gpus < 1 or self.ray_gpus % 1 == 0
        require_options(
            ("--ray-cpus", self.ray_cpus, self.ray_cpus >= 0, "at least 0"),
            ("--ray-gpus", self.ray_gpus, self.ray_gpus > 0 and whole, "a whole number, or a fraction between 0 and 1"),
        )
        if not self.ray and (given := flags(self)):
            raise OptionError(f"{given[0]}: needs --ray; add --ray, or leave it out")
