"""The files of 8-bit networks in a store. Each network has a folder in `int8/`.

The folder holds the network, and the digests of the images that were used to calibrate it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headstart.features.errors import StoreError
from headstart.features.store.maintain import Damage

CALIBRATION_FILE = "calibration.json"
CALIBRATION_IMAGES = 300  # NNCF's default
_AGAIN = "delete the folder, and the network is quantised anew, with other features"


def quantised_folder(root: Path, name: str, cuts: Sequence[str], fields: Mapping[str, Any]) -> Path:
    """Return the folder of a backbone's 8-bit network in the store at `root`. The folder need not exist.

    All arguments except `root` decide the folder's name.

    Args:
        name: the name of the backbone.
        cuts: the names of its cuts.
        fields: the fields of the fingerprint that have the same value for all cuts.
    """
    identity = json.dumps({**fields, "cuts": list(cuts)}, sort_keys=True)
    return root / "int8" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def calibration(folder: Path) -> dict[str, Any] | None:
    """Return the fingerprint's field `calibration` for the network in `folder`; None if `folder` does not exist.

    The field holds the number of calibration images, the hash of their digests, and the hash of the network. A damaged
    folder raises a StoreError.
    """
    if not folder.exists():
        return None
    found = _description(folder)
    digests = hashlib.sha256("".join(found["digests"]).encode()).hexdigest()
    return {"images": len(found["digests"]), "digests": digests, "model": found["model"]}


def calibrated_cuts(folder: Path) -> list[str]:
    """Return the names of the cuts of the network in `folder`. A damaged folder raises a StoreError."""
    return list(_description(folder)["cuts"])


def require_whole_network(folder: Path) -> None:
    """Read every byte of the network in `folder`. Raise a StoreError if the network changed since it was written."""
    if _description(folder)["model"] != network_digest(folder):
        raise StoreError(f"{folder}: damaged; {_AGAIN}")


def damaged_networks(root: Path) -> list[Damage]:
    """Read every byte of the 8-bit networks in the store at `root`. Return the damaged networks, with reasons."""
    damaged = []
    for folder in sorted(path for path in (root / "int8").glob("[!.]*") if path.is_dir()):
        try:
            require_whole_network(folder)
        except StoreError as error:
            damaged.append(Damage(str(folder), str(error)))
    return damaged


def network_digest(folder: Path) -> str:
    """Return the hexadecimal SHA-256 of the network in `folder`.

    If one of the network's files is missing, return the text `a file is missing`.
    """
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
