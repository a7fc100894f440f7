"""Make `outlines.json`; see `outlines`. Run this module after a change of `zoo`, of `graph` or of Keras.

python -m headstart.features.backbones.make_outlines [NAME...]

Each NAME is a network of `zoo`. Without names, the outlines of all networks are made.
"""

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

from headstart.features.backbones.models import built, without_preprocessing
from headstart.features.backbones.outlines import Outline, outline_of
from headstart.features.backbones.zoo import BACKBONES, BackboneSpec
from headstart.features.files import write_json
from headstart.features.tensorflow import keras


def zoo_outline(name: str) -> Outline:
    """Build the network `name` of the zoo with initial weights, and read its outline from the graph."""
    spec = BACKBONES[name]
    model = built(spec, spec.image_size)
    if spec.preprocesses:
        model = without_preprocessing(model)
    file, url = ("", "") if spec.shipped else _published(spec)
    found = outline_of(model, renamed=spec.names, file=file, url=url)
    keras.utils.clear_session()
    return found


class _AskedError(Exception):
    pass


def _published(spec: BackboneSpec) -> tuple[str, str]:
    """Return the file name and URL of the ImageNet weights that Keras's builder loads.

    Both are empty if the builder loads no file.
    """

    def get_file(fname: str, origin: str, **_: object) -> str:
        raise _AskedError(fname, origin)

    try:
        with patch("keras.src.utils.file_utils.get_file", get_file), warnings.catch_warnings(action="ignore"):
            getattr(keras.applications, spec.builder)(include_top=False, weights="imagenet", **spec.arguments)
    except _AskedError as asked:
        file, url = asked.args
        return file, url
    return "", ""


if __name__ == "__main__":
    place = Path(__file__).with_name("outlines.json")
    outlines = json.loads(place.read_text()) if place.exists() else {}
    for each in sys.argv[1:] or list(BACKBONES):
        outlines[each] = asdict(zoo_outline(each))
        print(each, len(outlines[each]["cuts"]), "cuts, boundary", outlines[each]["boundary"], flush=True)
    write_json(place, {each: outlines[each] for each in BACKBONES if each in outlines})
