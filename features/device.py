"""Find out which processor cores and GPUs this process can use, and start TensorFlow on them."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.features.errors import HeadstartError
from headstart.features.terminal import console, silent_libraries

if TYPE_CHECKING:
    import keras

_PROCESSORS = Path("/proc/cpuinfo")
_CONTROL_GROUPS, _CONTROL_FOLDER = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_KERAS_ALONE = "HEADSTART_KERAS_ALONE"  # an environment variable, so that it holds in processes that this one starts
_SKIPPED = ("matplotlib", "pandas", "sklearn")  # Keras imports them for its plots, tables and wrappers


def cpu_count() -> int:
    """Return the number of cores that this process may use, given its CPU affinity and its container's limit.

    The environment variable HEADSTART_CPUS may set a lower number, because workers of a cluster may share a machine.
    """
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit = cores_of_groups(_CONTROL_GROUPS.read_text(), _CONTROL_FOLDER)
    except (OSError, ValueError):  # not Linux, or a file in a form that is not known
        limit = math.inf
    with suppress(ValueError):
        limit = min(limit, max(1, int(os.environ.get("HEADSTART_CPUS", every))))
    return every if limit >= every else max(1, math.ceil(limit))


def cores_of_groups(groups: str, root: Path) -> float:
    """Return how many cores the control groups of a process let it use. Without a limit, return infinity.

    A container, for example, is a control group. The result is the smallest limit of the process's groups and of the
    groups around them. The result may be a fraction. A file that can't be understood raises a ValueError.

    Args:
        groups: the content of `/proc/self/cgroup`, a line `number:controllers:path` per hierarchy.
        root: the folder that holds the mounted hierarchies, `/sys/fs/cgroup`.
    """
    limits = [math.inf]
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "cpu" if controllers else root
        inner = mounted / path.lstrip("/") if ".." not in path else mounted
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(mounted):
                limits += [_limit(folder, "cpu.max")] if not controllers else []
                limits += [_limit(folder, "cpu.cfs_quota_us", "cpu.cfs_period_us")] if controllers else []
    return min(limits)


def _limit(folder: Path, *names: str) -> float:
    """Return a control group's limit in cores, or infinity. `names` are the files with the quota and the period."""
    try:
        quota, period = " ".join((folder / name).read_text() for name in names).split()
    except OSError:
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def processor() -> str:
    """Return the model name of the processor, or its architecture if the system does not report the model."""
    with suppress(OSError):
        for line in _PROCESSORS.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


@cache
def start_tensorflow() -> str:
    """Import TensorFlow and Keras, print the device in use, and return its name: `GPU, <model>` or `CPU, <n> cores`.

    Later calls only return the name. TensorFlow gets a thread per core that this process may use, and allocates GPU
    memory as needed, not all at once. The import of `headstart.features.tensorflow` calls this function. If Keras can't
    be started, raise a HeadstartError.
    """
    with silent_libraries():
        _start_keras()
        from tensorflow import config

        with suppress(RuntimeError):  # this process already uses TensorFlow, so the setting is fixed
            if "TF_NUM_INTRAOP_THREADS" not in os.environ:
                config.threading.set_intra_op_parallelism_threads(cpu_count())
            if "TF_NUM_INTEROP_THREADS" not in os.environ:
                config.threading.set_inter_op_parallelism_threads(cpu_count())
        gpus = config.list_physical_devices("GPU")
        with suppress(RuntimeError):  # this process already uses the GPU, so the setting is fixed
            for gpu in gpus:
                config.experimental.set_memory_growth(gpu, True)
        details = config.experimental.get_device_details(gpus[0]) if gpus else {}
    name = f"GPU, {details.get('device_name', gpus[0].name)}" if gpus else f"CPU, {cpu_count()} cores"
    console.print(f"device: {name}", style="dim")
    return name


def keras_alone() -> None:
    """From now on, let the import of Keras skip libraries that only its plots, tables and wrappers need.

    TensorFlow and Keras then start in two thirds of the time. Call this function only if no other code than headstart
    uses Keras in this process. The call also affects the processes that this process starts.
    """
    os.environ[_KERAS_ALONE] = "1"


class _Skipping(MetaPathFinder):
    """Makes imports of the libraries in `_SKIPPED` fail in one thread, as if the libraries were not installed."""

    def __init__(self) -> None:
        self.thread: int | None = threading.get_ident()

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Raise a ModuleNotFoundError if `name` is to be skipped.

        Otherwise return None, so that Python asks the next finder.
        """
        if name in _SKIPPED and threading.get_ident() == self.thread:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextmanager
def _skipping() -> Iterator[None]:
    finder = _Skipping()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.thread = None  # it stays in the list: another thread may be going through it


def _start_keras() -> None:
    """Import Keras with the settings that this package needs, whatever `keras.json` and KERAS_BACKEND say."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    try:
        with _skipping() if _KERAS_ALONE in os.environ else nullcontext():
            import keras
    except (ValueError, TypeError, AttributeError, OSError) as error:
        home = os.environ.get("KERAS_HOME") or "~/.keras"
        raise HeadstartError(f"{home}/keras.json: Keras refuses it ({error}); mend or delete the file") from error
    if keras.config.backend() != "tensorflow":
        raise HeadstartError(f"Keras already runs on {keras.config.backend()} in this process; import headstart first")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


def gpu_at_hand() -> bool:
    """Return whether the system has an NVIDIA GPU. Unlike `on_gpu`, this function does not start TensorFlow."""
    return Path("/dev/dxg").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


def on_gpu() -> bool:
    """Return whether TensorFlow runs on a GPU. Start TensorFlow if needed."""
    return start_tensorflow().startswith("GPU")


def make_deterministic(layers: Sequence[keras.Layer] = ()) -> None:
    """Make TensorFlow's operations on a GPU deterministic. `layers` are the layers that will be trained.

    This function changes nothing in two cases:

    - TensorFlow does not run on a GPU.
    - One of `layers` is a depthwise or separable convolution. It can't be trained with deterministic operations.
    """
    if not on_gpu():
        return
    import keras
    import tensorflow as tf

    # On a GPU, depthwise convolutions have no deterministic gradient (TensorFlow 2.21).
    depthwise = (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    if not any(isinstance(layer, depthwise) for layer in layers):
        tf.config.experimental.enable_op_determinism()


def release_memory() -> None:
    """Give free memory back to the system.

    Without this call, glibc does not return freed memory that lies between blocks that are still in use.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None:
        trim(0)
