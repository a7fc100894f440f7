"""What lies in the store of an 8-bit network, under `int8/`: the network, and which images it was quantised on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headstart.features.errors import StoreError

CALIBRATION_FILE = "calibration.json"
_AGAIN = "delete the folder, and the network is quantised anew, with other features"


def quantised_folder(root: Path, name: str, cuts: Sequence[str], fields: Mapping[str, Any]) -> Path:
    """Where in the store at `root` the quantised form of a backbone lies, or would lie.

    Args:
        fields: what decides its features but for the images it was quantised on.
    """
    identity = json.dumps({**fields, "cuts": list(cuts)}, sort_keys=True)
    return root / "int8" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def quantised_folders(root: Path) -> list[Path]:
    """All that the store at `root` has."""
    return sorted(path for path in (root / "int8").glob("[!.]*") if path.is_dir())


def calibration(folder: Path) -> dict[str, Any] | None:
    """The fields of a fingerprint that tell which images a network was quantised on; None where there is none yet.

    Raises:
        StoreError: what is there can't be read.
    """
    if not folder.exists():
        return None
    found = _description(folder)
    digests = hashlib.sha256("".join(found["digests"]).encode()).hexdigest()
    return {"images": len(found["digests"]), "digests": digests, "model": found["model"]}


def calibrated_cuts(folder: Path) -> list[str]:
    """The cuts that the network in `folder` yields.

    Raises:
        StoreError: what is there can't be read.
    """
    return list(_description(folder)["cuts"])


def check_network(folder: Path) -> None:
    """Read every byte of the network in `folder`.

    Raises:
        StoreError: it is not what was written.
    """
    if _description(folder)["model"] != network_digest(folder):
        raise StoreError(f"{folder}: damaged; {_AGAIN}")


def network_digest(folder: Path) -> str:
    """SHA-256 of the network in `folder`."""
    digest = hashlib.sha256()
    for name in ("model.xml", "model.bin"):
        try:
            digest.update((folder / name).read_bytes())
        except FileNotFoundError:
            return "a file is missing"
    return digest.hexdigest()


def _description(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / CALIBRATION_FILE).read_text())
        _ = [*found["cuts"], *found["digests"], found["model"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder}: damaged ({error}); {_AGAIN}") from error
    return found
