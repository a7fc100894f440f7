"""A store keeps the fast forms of networks for OpenVINO, so that the next command need not build them again.

In the fast form of a network, batch normalisation is folded into the weights, and the batch size is fixed.

STORE/frozen/<name>-<hash>/    <name> is the name of a backbone, or `classifier`
    model.xml, model.bin    the fast form, as OpenVINO reads it
    identity.json           everything that decides the fast form, and the hash of the two files
"""

import glob
import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headstart.features.files import folder_written_atomically, read_json, require_space, write_json
from headstart.features.frozen.engines import constant_bytes, load_openvino, read_model
from headstart.features.frozen.int8_files import network_digest
from headstart.features.terminal import console

_VERSION = 1  # raise it when `frozen` makes another fast form of the same network
_IDENTITY = "identity.json"
_SPARE = 10  # the disk must have this multiple of a network's bytes free, because features need the space more
_MOST = 8  # networks of the same name: backbones differ in cuts and sizes, classifiers in weights
_VERSIONS = {"kept_version", "openvino", "forward_version"}  # fields of an identity


@dataclass(frozen=True)
class KeptNetwork:
    """The place of one network in a store. The network is kept there in the form that OpenVINO reads.

    `root` is the folder of the store. This class never creates `root`.
    """

    root: Path
    name: str  # of the backbone, or `classifier`
    identity: Mapping[str, Any]  # everything that decides the fast form

    @classmethod
    def of(cls, root: Path, name: str, fields: Mapping[str, Any]) -> "KeptNetwork":
        """Return the place of a network's fast form in the store at `root`.

        `name` is the name of a backbone, or `classifier`. `fields` holds everything else that decides the fast form.
        The version of OpenVINO and `_VERSION` are added to `fields`.
        """
        identity = {**fields, "kept_version": _VERSION, "openvino": version("openvino")}
        return cls(root, name, json.loads(json.dumps(identity)))  # JSON turns tuples into lists, as in `identity.json`

    @property
    def folder(self) -> Path:
        """The folder of the network, which need not exist."""
        text = json.dumps(self.identity, sort_keys=True)
        return self.root / "frozen" / f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def read(self) -> Any | None:
        """Return the converted network; None if the store has none, or if its files are damaged."""
        with suppress(OSError, ValueError, AttributeError, RuntimeError):  # RuntimeError: OpenVINO's, of any fault
            known = read_json(self.folder / _IDENTITY)
            if known.get("identity") == self.identity and known.get("files") == network_digest(self.folder):
                return read_model(self.folder / "model.xml")
        return None

    def write(self, model: Any) -> None:
        """Write the converted network `model` to the store. A failure, such as a nearly full disk, is only printed.

        First, these networks are removed from the store:

        - all networks that were made for another version of OpenVINO
        - all networks that were made by another version of headstart's code for fast forms
        - all other networks of the same name, except the latest seven
        """
        if not self.root.is_dir():
            return
        try:
            self._remove_outdated()
            require_space(self.root, _SPARE * constant_bytes(model))
            with folder_written_atomically(self.folder, replace=True) as partial:
                load_openvino().save_model(model, partial / "model.xml", compress_to_fp16=False)
                write_json(partial / _IDENTITY, {"identity": self.identity, "files": network_digest(partial)})
        except FileExistsError:
            pass  # another process was first
        except (OSError, RuntimeError) as error:  # RuntimeError: OpenVINO's, of a full disk
            said = " ".join(str(error).split())[:160]
            console.print(f"the next command will build {self.name} again: {said}")

    def _remove_outdated(self) -> None:
        for folder in self._others()[_MOST - 1 :]:
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.root / "frozen").glob("[!.]*"):
            with suppress(OSError, ValueError, AttributeError, KeyError):
                found = read_json(folder / _IDENTITY)["identity"]
                shared = found.keys() & self.identity.keys() & _VERSIONS  # a classifier has no `forward_version`
                if any(found[name] != self.identity[name] for name in shared):
                    shutil.rmtree(folder)

    def _others(self) -> list[Path]:
        """Return the folders of the other networks of the same name, the latest first."""
        found = set((self.root / "frozen").glob(f"{glob.escape(self.name)}-{'[0-9a-f]' * 12}")) - {self.folder}
        return sorted(found, key=lambda folder: folder.stat().st_mtime, reverse=True)
