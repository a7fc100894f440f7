"""Nodes of a cluster: how many workers each has, and why one differs. This module needs no Ray."""

from __future__ import annotations

from headstart.features.cluster.config import ClusterConfig
from headstart.features.store.fingerprint import Fingerprint


def slots(resources: dict[str, float], config: ClusterConfig) -> list[tuple[int, float]]:
    """Return the CPUs and GPUs of each worker on a node with these `resources` of Ray's: `CPU` and, perhaps, `GPU`.

    A node with GPUs has a worker for each `ray_gpus` of them, which share the CPUs. Another node has one worker, or one
    for each `ray_cpus`. A node without CPUs, such as a head that only manages the cluster, has none.
    """
    cpus, gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0.0)
    if gpus >= config.ray_gpus:
        count, each_gpus = int(gpus / config.ray_gpus + 1e-6), config.ray_gpus
        each = config.ray_cpus or max(1, cpus // count)
    else:
        each_gpus, each = 0.0, config.ray_cpus or max(1, cpus)
        count = cpus // each
    return [(each, each_gpus)] * min(count, cpus // each)


def why_other_features(here: Fingerprint, there: Fingerprint) -> str:
    """Say how the fingerprint of a node, `there`, differs from the driver's."""
    differences = here.differences(there)
    its = "; ".join(f"{name} {str(values['there'])[:40]}" for name, values in differences.items())
    own = "; ".join(f"{name} {str(values['asked'])[:40]}" for name, values in differences.items())
    return (
        f"it would make other features: {its}, the driver has {own}; install the same versions there, or run the "
        "driver on such a node"
    )


def first_line(text: str) -> str:
    """Return the first line of an error of Ray's that is not empty, shortened."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")[:200]
