import os

import pytest
from headstart.features.device import cpu_count


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux can restrict a process to some cores")
def test_cores_are_counted_within_the_affinity_of_the_process() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cpu_count() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert cpu_count() <= len(allowed)
