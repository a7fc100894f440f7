"""`headstart doctor`: collect facts about this machine, show them, and say what would fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.features.errors import HeadstartError, StoreError
from headstart.features.frozen.precision import stored_verdict
from headstart.features.paths import require_no_url
from headstart.pipeline.doctor.machine import Start, device, limits
from headstart.pipeline.doctor.places import disk, weights, without_home
from headstart.pipeline.doctor.software import extras, unmet, versions
from rich.filesize import decimal
from rich.table import Table

_FEWEST_FILES = 256  # open files; a store of large shards and TensorFlow need some 100
_LEAST_MEMORY, _LEAST_DISK = 2 << 30, 1 << 30  # bytes


@dataclass(frozen=True)
class Diagnosis:
    """The facts about this machine, and the problems that would make commands fail."""

    versions: dict[str, str | None]
    device: dict[str, Any]
    precision: dict[str, Any]
    extras: dict[str, dict[str, str | None]]
    weights: dict[str, Any]
    disk: dict[str, Any]
    limits: dict[str, Any]
    problems: list[str]

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return asdict(self)

    def lines(self) -> Iterator[Any]:
        """Yield the facts for a person. They fit on one screen, to paste into an issue."""
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in self._rows():
            table.add_row(name, text)
        yield table
        yield from (f"problem: {problem}" for problem in self.problems)
        if not self.problems:
            yield "no problem found"

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "versions", ", ".join(f"{name} {found or 'missing'}" for name, found in self.versions.items())
        at, limit, on = self.device, self.limits, self.disk
        yield (
            "processor",
            f"{at['processor']}, {at['cores']} of {limit['host_cores']} cores, {_listed(at['instructions'])}",
        )
        yield "memory", f"{decimal(at['memory_bytes'])}, {decimal(at['free_memory_bytes'])} of it free"
        yield "TensorFlow", f"{at['tensorflow'] or 'does not start'} (started in {at['tensorflow_seconds']} s)"
        yield "precision", self.precision["told"]
        there = [name for name, found in self.extras.items() if None not in found.values()]
        yield "extras", _listed(there)
        lacking = sorted(self.extras.keys() - set(there))
        yield "not there", f"{_listed(lacking)}; pip install 'headstart[{lacking[0] if lacking else 'NAME'}]' adds one"
        named = self.weights["HEADSTART_WEIGHTS"]
        yield (
            "weights",
            (
                f"shipped: {_listed(self.weights['shipped'])}; cached: {_listed(self.weights['cached'])}; to download: "
                f"{self.weights['download']}" + (f"; HEADSTART_WEIGHTS={named}" if named else "")
            ),
        )
        free = "?" if on["free_bytes"] is None else decimal(on["free_bytes"])
        able = {name: "yes" if on[name] else "NO" for name in ("writable", "hard_links", "rename", "locks")}
        yield (
            "store",
            (
                f"{on['store']} ({on['file_system']}, {free} free): "
                + ", ".join(f"{name.replace('_', ' ')} {found}" for name, found in able.items())
                + f", times to {on['mtime_resolution_ns'] or '?'} ns"
            ),
        )
        shm = decimal(limit["shm_bytes"]) if limit["shm_bytes"] is not None else "none"
        capped = decimal(limit["memory_limit_bytes"]) if limit["memory_limit_bytes"] else "none"
        files = f"{limit['open_files'] or 'any number'} (hard {limit['open_files_hard'] or 'none'})"
        yield "limits", f"open files {files}, memory {capped}, /dev/shm {shm}"

    def failure(self) -> HeadstartError | None:
        """Return the error that the command ends with, or None if the machine has no problem."""
        count = len(self.problems)
        return HeadstartError(f"{count} problem{'s' * (count > 1)}: {self.problems[0]}") if count else None


def doctor(store: Path) -> Diagnosis:
    """Collect the facts about this machine, and about the disk of the folder `store`. The folder need not exist.

    TensorFlow is started in another process. No file is left behind. Raises OptionError if `store` is a URL.
    """
    require_no_url("--store", store)
    with Start() as start:
        on = disk(store)
        found, at_hand, software = extras(), weights(), versions()
        precision = _precision(store)
        started = start.result()
    machine, limit = device(started), limits()
    problems = [*unmet(), *_problems(started, machine, on, at_hand, limit)]
    problems += [precision["problem"]] if precision["problem"] else []
    return Diagnosis(software, machine, precision, found, at_hand, on, limit, [without_home(one) for one in problems])


def _precision(store: Path) -> dict[str, Any]:
    """Return what `--precision auto` means in `store`."""
    try:
        verdict = stored_verdict(store)
    except (StoreError, OSError) as error:
        return {"auto": None, "machine": {}, "told": "unknown", "problem": without_home(error)}
    if verdict is None:
        told = "--precision auto is not decided in this store; the first extraction times both"
        return {"auto": None, "machine": {}, "told": told, "problem": None}
    return {"auto": verdict.precision, "machine": dict(verdict.machine), "told": str(verdict), "problem": None}


def _problems(
    started: dict[str, Any], machine: dict[str, Any], on: dict[str, Any], at_hand: dict[str, Any], limit: dict[str, Any]
) -> Iterator[str]:
    """Yield a line for each fact that would make a command fail, with what to do about it."""
    if started["problem"]:
        yield started["problem"]
    elif machine["gpu_at_hand"] and not machine["gpu"]:
        yield "there is a GPU, and TensorFlow does not use it; pip install 'headstart[gpu]', or update the driver"
    if at_hand["HEADSTART_WEIGHTS_exists"] is False:
        yield f"HEADSTART_WEIGHTS={at_hand['HEADSTART_WEIGHTS']}: no such file"
    if on["is_file"]:
        yield f"--store {on['store']}: is a file; name a folder"
    elif not on["writable"] and not on["full"]:
        yield f"--store {on['store']}: {on['tried_in']} can't be written to; name another store"
    elif on["free_bytes"] is not None and on["free_bytes"] < _LEAST_DISK:
        yield f"--store {on['store']}: its disk has {decimal(on['free_bytes'])} free; make room, or name another store"
    elif on["full"]:
        yield (
            f"--store {on['store']}: its disk is full, or your quota or its inodes are used up; make room, or name "
            "another store"
        )
    elif not on["rename"]:
        yield f"--store {on['store']}: its disk can't rename files; name a store on another disk"
    if machine["memory_bytes"] < _LEAST_MEMORY:
        yield f"memory is {decimal(machine['memory_bytes'])}; headstart needs {decimal(_LEAST_MEMORY)}"
    if limit["open_files"] is not None and limit["open_files"] < _FEWEST_FILES:
        yield f"open files are limited to {limit['open_files']}; `ulimit -n 1024` raises the limit"
    scratch = os.environ.get("HEADSTART_SCRATCH")
    if scratch and not Path(scratch).is_dir():
        yield f"HEADSTART_SCRATCH={scratch}: no such folder"


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
