"""The folder of an export. The folder holds the model, the labels, the preprocessing, an example and a model card."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart.features.errors import ExportError
from headstart.features.files import json_text, read_json, require_creatable
from headstart.pipeline.export.config import MODEL_FILES, Format

LABELS, CARD, EXAMPLE, PREPROCESS = "labels.json", "README.md", "example.py", "preprocess.py"
_HERE = Path(__file__).parent
_REMEDY = "`headstart export RUN OUT --format ...` makes one"
_MOST_BYTES = 16 << 20
_SURROGATES = re.compile("[\ud800-\udfff]")


def require_free(out: Path, overwrite: bool) -> None:
    """Raise ExportError if no export may be written to `out`.

    Without `overwrite`, `out` must not exist. With `overwrite`, `out` may exist if it is a valid export. Raises an
    OSError if no folder can be made at `out`.
    """
    if out.exists() or out.is_symlink():
        if not overwrite:
            raise ExportError(f"{out}: exists; give another name, or --overwrite to replace an export")
        try:
            read_labels(out)
        except ExportError as error:
            raise ExportError(f"{out}: is no export, so --overwrite does not replace it; give another name") from error
    require_creatable(out)


def write_beside(folder: Path, format: Format, labels: Mapping[str, Any], card: str) -> None:
    """Write four files into `folder`, beside the model: labels, model card, preprocessing and example."""
    (folder / LABELS).write_text(ascii_where_needed(json_text(labels)), encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8", errors="surrogateescape")
    shutil.copyfile(_HERE / PREPROCESS, folder / PREPROCESS)
    shutil.copyfile(_HERE / "examples" / f"{format}.py", folder / EXAMPLE)


def ascii_where_needed(text: str) -> str:
    """Return the JSON `text` with escapes in place of lone surrogates.

    In the name of a file, a lone surrogate stands for a byte that is not UTF-8.
    """
    return _SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def example_of(format: Format) -> str:
    """Return the text of the example for the runtime of `format`."""
    return (_HERE / "examples" / f"{format}.py").read_text()


def read_labels(folder: Path) -> dict[str, Any]:
    """Return the content of `labels.json`. Raises ExportError if `folder` is no export, or if the file is damaged."""
    file = folder / LABELS
    try:
        found = read_json(file, _MOST_BYTES)
        names, format = found["class_names"], found["format"]
    except FileNotFoundError as error:
        raise ExportError(f"{folder}: no export, it has no {LABELS}; {_REMEDY}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{file}: is damaged; {_REMEDY}") from error
    named = isinstance(names, list) and len(names) > 1 and all(isinstance(one, str) and one for one in names)
    named = named and len(set(names)) == len(names)
    known = isinstance(format, str) and format in MODEL_FILES
    if not named or not known or not isinstance(found.get("preprocessing"), dict):
        raise ExportError(f"{file}: is damaged; {_REMEDY}")
    return dict(found)


def labels_of(facts: Mapping[str, Any], format: Format, precision: str, second_above: float | None) -> dict[str, Any]:
    """Return the content of `labels.json`, still without the size of the model and the comparison with the run.

    `facts` holds the metadata of the export, as JSON values by name. `second_above` is the probability above which the
    second of two classes is predicted; None without a threshold.
    """
    own = {"format": format, "precision": precision, "model": MODEL_FILES[format]}
    return {**own, **json.loads(json.dumps(facts)), "second_above": second_above}
