"""The cores that are counted, and what the start of Keras imports."""

import importlib
import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout

import pytest
from headstart.features import device
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


@pytest.mark.slow
@pytest.mark.parametrize("alone", [True, False])
def test_keras_imports_what_only_others_need_except_in_commands(alone: bool) -> None:
    code = f"""
import sys, threading
from headstart.features import device

{"device.keras_alone()" if alone else ""}
from headstart.features.tensorflow import keras
print(*(name in sys.modules for name in device._SKIPPED))
import matplotlib.pyplot, pandas, sklearn.linear_model
"""
    environment = {name: value for name, value in os.environ.items() if name != "HEADSTART_KERAS_ALONE"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=60)
    assert ended.stdout.split() == [str(not alone)] * 3


def test_other_threads_import_what_the_start_of_keras_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_SKIPPED", ("this",))
    with device._skipping(), redirect_stdout(io.StringIO()), ThreadPoolExecutor(1) as pool:
        with pytest.raises(ModuleNotFoundError, match="'this'"):
            importlib.import_module("this")
        assert pool.submit(importlib.import_module, "this").result(20).__name__ == "this"
