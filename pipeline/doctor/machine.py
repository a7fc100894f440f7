"""Find out the processor, the GPU, memory and limits of this machine, and whether TensorFlow starts."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from headstart.features.device import cpu_count, gpu_at_hand, processor
from headstart.pipeline.memory.limits import free_memory, total_memory

_SECONDS = 120  # that TensorFlow may take to start
_START = """
from headstart.features.device import start_tensorflow
print(start_tensorflow())
"""
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_vnni", "bf16", "i8mm")
_SHARED = Path("/dev/shm")
_INFO = Path("/proc/cpuinfo")


class Start:
    """Starts TensorFlow in another process, because TensorFlow kills its process on an unsupported processor."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def __enter__(self) -> Start:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def result(self) -> dict[str, Any]:
        """Wait until TensorFlow has started or failed. Return a dict about the start.

        - `name`: the device, or None if TensorFlow failed
        - `seconds`: the duration of the start
        - `problem`: the reason why TensorFlow failed, or None if it started
        """
        try:
            out, err = self._process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
            err = f"it takes over {_SECONDS} s"
        seconds = round(time.perf_counter() - self._began, 1)
        code, lines = self._process.returncode, out.split("\n")
        if code == 0 and out.strip():
            return {"name": lines[0].strip(), "seconds": seconds, "problem": None}
        last = ([line.strip() for line in err.splitlines() if line.strip()] or [f"exit code {code}"])[-1]
        why = f"signal {-code}, such as of a processor without AVX" if code < 0 and "over" not in err else last[:300]
        return {"name": None, "seconds": seconds, "problem": f"TensorFlow does not start: {why}"}


def device(started: dict[str, Any]) -> dict[str, Any]:
    """Return the facts about the processor, the memory and the GPU. `started` is the result of `Start.result`."""
    gpu = str(started["name"] or "").startswith("GPU, ")
    return {
        "processor": processor(),
        "cores": cpu_count(),
        "instructions": _instructions(),
        "memory_bytes": total_memory(),
        "free_memory_bytes": free_memory(),
        "gpu": started["name"].removeprefix("GPU, ") if gpu else None,
        "gpu_at_hand": gpu_at_hand(),
        "tensorflow": started["name"],
        "tensorflow_seconds": started["seconds"],
    }


def limits() -> dict[str, Any]:
    """Return the limits of this process: open files, memory, cores of the host, and the size of /dev/shm.

    None means that there is no such limit, or no /dev/shm.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    address, _ = resource.getrlimit(resource.RLIMIT_AS)
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = shutil.disk_usage(_SHARED).total if _SHARED.is_dir() else None
    group = total_memory()
    return {
        "open_files": None if soft == resource.RLIM_INFINITY else soft,
        "open_files_hard": None if hard == resource.RLIM_INFINITY else hard,
        "address_space_bytes": None if address == resource.RLIM_INFINITY else address,
        "memory_limit_bytes": group if group < host else None,
        "host_cores": os.cpu_count(),
        "shm_bytes": shared,
    }


def _instructions() -> list[str]:
    with suppress(OSError):
        for line in _INFO.read_text(errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return [flag for flag in _FLAGS if flag in line.split()]
    return []
