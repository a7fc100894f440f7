"""Find the versions of the software, and the extras that are installed. No package is imported."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement

_SHOWN = ("headstart", "tensorflow", "keras", "numpy", "h5py", "openvino", "pillow", "scikit-learn", "optuna")


def versions() -> dict[str, str | None]:
    """Return the versions of Python, the system and the main packages. The version of a missing package is None."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return {"python": platform.python_version(), "system": system, **{name: _version(name) for name in _SHOWN}}


def unmet() -> Iterator[str]:
    """Yield a line for each package that headstart needs and that is missing or has an unfit version."""
    for need in _requirements(""):
        found = _version(need.name)
        if found is None:
            yield f"{need.name} is missing; pip install '{need}'"
        elif not need.specifier.contains(found, prereleases=True):
            yield f"{need.name} is {found}, headstart needs {need.specifier}; pip install '{need}'"


def extras() -> dict[str, dict[str, str | None]]:
    """Return the packages of each extra of headstart, with their versions. A package that is missing has None."""
    names = metadata("headstart").get_all("Provides-Extra") or []
    return {
        extra: {need.name: _version(need.name, need.extras) for need in _requirements(extra)} for extra in sorted(names)
    }


def _requirements(extra: str) -> list[Requirement]:
    """Return the packages that an extra of headstart requires on this system.

    If `extra` is empty, return the packages that headstart itself requires.
    """
    every = [Requirement(text) for text in requires("headstart") or []]
    of_extra = [one for one in every if one.marker and one.marker.evaluate({"extra": extra})]
    return of_extra if extra else [one for one in every if one.marker is None or one in of_extra]


def _version(name: str, wanted: set[str] = frozenset()) -> str | None:  # type: ignore[assignment]
    """Return the version of the package `name`.

    Return None if this package is missing, or if one of its extras in `wanted` requires a missing package.
    """
    try:
        found = version(name)
        for text in requires(name) or [] if wanted else []:
            need = Requirement(text)
            if need.marker and any(need.marker.evaluate({"extra": one}) for one in wanted):
                version(need.name)
    except PackageNotFoundError:
        return None
    return found
