"""A Ray cluster of two small nodes on this machine, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def two_ray_nodes() -> Iterator[Any]:
    """Start two nodes of one CPU, besides a head without any, and connect this process. Yield the module `ray`.

    The test is skipped if Ray is not installed.
    """
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    size = {"object_store_memory": 80 << 20}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **size})
    for _ in range(2):
        nodes.add_node(num_cpus=1, **size)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()
    nodes.shutdown()
