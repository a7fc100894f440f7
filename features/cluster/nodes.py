"""Nodes of a cluster: how many workers each node runs, and how nodes differ. This module needs no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.worker import Built, Task
from headstart.features.errors import HeadstartError
from headstart.features.store.fingerprint import Fingerprint

_PATIENT_SECONDS = 120.0  # after this time, others no longer wait for a worker that tries batch sizes


def slots(resources: dict[str, float], config: ClusterConfig) -> list[tuple[int, float]]:
    """Return the slots of a node: a pair (number of CPUs, number of GPUs) for each worker that the node has room for.

    `resources` holds the node's amounts of `CPU` and `GPU`, as Ray gives them. `GPU` may be missing.

    - GPUs: If the node has at least `config.ray_gpus` GPUs, each slot has `config.ray_gpus` GPUs. If the node has fewer
      GPUs, no slot has a GPU.
    - CPUs: Each slot has `config.ray_cpus` CPUs. If `config.ray_cpus` is 0, slots with GPUs share the CPUs of the node
      equally, and a slot without a GPU gets all CPUs.

    A node without CPUs, such as one that only manages the cluster, has no slot.
    """
    cpus, gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0.0)
    if gpus >= config.ray_gpus:
        count, each_gpus = int(gpus / config.ray_gpus + 1e-6), config.ray_gpus
        each = config.ray_cpus or max(1, cpus // count)
    else:
        each_gpus, each = 0.0, config.ray_cpus or max(1, cpus)
        count = cpus // each
    return [(each, each_gpus)] * min(count, cpus // each)


def alive(nodes: Sequence[dict[str, Any]], here: str, config: ClusterConfig) -> list[dict[str, Any]]:
    """Return the nodes in `nodes` that have not died. `nodes` is Ray's list, and `here` is the ID of the driver's node.

    Raises HeadstartError if Ray has marked the driver's node as dead, because the driver then gets no more answers.
    """
    for node in nodes:
        if node["NodeID"] == here and not node["Alive"]:
            raise HeadstartError(
                f"--ray {config.ray}: the node of this command died ({node['NodeManagerHostname']}, {here[:8]}); what "
                "was finished is kept, and the same command goes on with it"
            )
    return [node for node in nodes if node["Alive"]]


def why_alone(config: ClusterConfig, started: bool) -> str:
    """Return a message: no node has room for a worker. `started` tells whether the cluster had a worker before."""
    lacking = f"has the CPUs for a worker (--ray-cpus {config.ray_cpus}, --ray-gpus {config.ray_gpus:g})"
    return f"--ray {config.ray}: {'all nodes with workers died, and no other' if started else 'no node'} {lacking}"


class Reference:
    """The first worker's report on a task, and the batch sizes that workers found.

    The reports of later workers are compared with the first report.
    """

    def __init__(self, task: Task) -> None:
        self.batch_sizes: dict[str, int] = {}  # by `Built.kind`
        self._task = task
        self._first: tuple[str, Built] | None = None

    def may_build(self, on_gpu: bool, building: Sequence[float]) -> bool:
        """Return whether a worker may build its network now.

        `on_gpu` tells whether the worker has a GPU. `building` is about the workers with a GPU that are building their
        networks now. For each of them, it holds the seconds since the worker began.

        If the task finds the batch size by trials, one worker with a GPU makes the trials. The others with a GPU wait
        for the result, or until all numbers in `building` are over 120. Workers without a GPU never wait.
        """
        known = any(kind != "CPU" for kind in self.batch_sizes)
        free = known or all(seconds > _PATIENT_SECONDS for seconds in building)
        return free or not (on_gpu and self._task.tries_batch_sizes)

    def difference(self, name: str, built: Built) -> str:
        """Describe how the features in `built` differ from the first worker's features.

        `built` comes from a worker on the node `name`. The result is "" in the first call, and if the features are
        equal. Only the images that both workers have are compared.

        If `built` has a batch size over 0, and `batch_sizes` has none for the worker's kind of device, the batch size
        is added to `batch_sizes`.
        """
        if built.batch_size:
            self.batch_sizes.setdefault(built.kind, built.batch_size)
        if not self._first:
            self._first = name, built
            return ""
        other, first = self._first
        images = [one for one in first.features if one in built.features]
        if all(np.array_equal(first.features[one], built.features[one]) for one in images):
            return ""
        here, there = (np.concatenate([one.features[image] for image in images]) for one in (built, first))
        return (
            f"its features differ by {np.linalg.norm(here - there) / np.linalg.norm(there):.1e} in norm from those of "
            f"node {other} ({built.processor}, {built.device}, there {first.processor}, {first.device})"
        )


def why_other_features(here: Fingerprint, there: Fingerprint) -> str:
    """Describe how a node's fingerprint differs from the driver's fingerprint, and what the user can do.

    `here` is the driver's fingerprint. `there` is the node's fingerprint.
    """
    differences = here.differences(there)
    its = "; ".join(f"{name} {str(values['there'])[:40]}" for name, values in differences.items())
    own = "; ".join(f"{name} {str(values['asked'])[:40]}" for name, values in differences.items())
    return (
        f"it would make other features: {its}, the driver has {own}; install the same versions there, or run the "
        "driver on such a node"
    )


def first_line(text: str) -> str:
    """Return up to 200 characters of the first line of `text` that is not empty. `text` is an error message of Ray."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")[:200]
