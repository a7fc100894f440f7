"""The training images nearest to a photograph, with thumbnails."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.errors import HeadstartError
from headstart.features.images.faults import Fault
from headstart.features.images.files.paths import is_local, is_url
from headstart.features.images.files.reading import bytes_of
from headstart.features.images.scan import ImageFile, inspect_image
from headstart.features.images.thumbnails import thumbnails
from headstart.features.terminal import console
from headstart.pipeline.locating import run_data
from headstart.pipeline.neighbours import Neighbours
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run
from headstart.pipeline.runs.files import csv_rows
from headstart.pipeline.runs.run import EXAMPLES_COLUMNS
from headstart.pipeline.scoring.unlike import reference_rows
from headstart.pipeline.serve.served import ServedRun, usable_header

_SIDE, _QUALITY, _KEPT = 160, 75, 512  # of thumbnails: pixels along a side, JPEG's quality, number kept in memory
_CHECKED = 4  # training images whose features are computed anew, to check the list of images
_SAME = 0.01  # cosine distance between features of the same image, computed twice
_DEEPEST = 4  # how many of the last names of a path are tried below a data folder that was moved


@dataclass(frozen=True)
class Example:
    """A training image whose features are kept in the run."""

    path: str
    digest: str
    label: str


class Nearest:
    """Finds the nearest training images to an image, among the training images whose features a run keeps.

    Args:
        examples: the training images whose features are kept; see `Reference` in `scoring/unlike.py`.
        features: the features of `examples`, float [R, D].
        data: the data folder, in which `find` looks for images. None if there is no such folder.
    """

    def __init__(self, examples: Sequence[Example], features: np.ndarray, data: Path | None) -> None:
        self._examples, self._data = examples, data
        self._by_digest = {one.digest: one for one in examples}
        self._neighbours = Neighbours(features.astype(np.float32))
        self._kept = lru_cache(_KEPT)(self._thumbnail)

    def of(self, features: np.ndarray, count: int) -> list[dict[str, Any]]:
        """Return the `count` training images that are nearest to `features` (float32 [D]).

        The images are JSON objects, the nearest first.
        """
        found = self._neighbours.nearest(features[np.newaxis], count)
        near = [(self._examples[row], float(far)) for row, far in zip(found.rows[0], found.distances[0], strict=True)]
        return [{"label": one.label, "distance": far, "image": f"training/{one.digest}.jpg"} for one, far in near]

    def is_nearest(self, features: np.ndarray, row: int) -> bool:
        """Return whether training image number `row` is the nearest one to `features` (float32 [D]), up to rounding."""
        found = self._neighbours.nearest(features[np.newaxis], len(self._examples))
        own = found.distances[0][list(found.rows[0]).index(row)]
        return bool(own <= found.distances[0][0] + _SAME)

    def thumbnail(self, digest: str) -> bytes | None:
        """Return a JPEG of the training image with this `digest`.

        Return None if there is no such image, or if its file is not found (see `find`) or can't be decoded.
        """
        with suppress(LookupError):  # an error is not kept in memory, because the file may come back
            return self._kept(digest)
        return None

    def _thumbnail(self, digest: str) -> bytes:
        image = find(self._by_digest[digest], self._data)
        small = next(thumbnails([image], "RGB", _SIDE, keep_shape=True)) if image else None
        if small is None:
            raise LookupError(digest)
        small.save(data := io.BytesIO(), "JPEG", quality=_QUALITY)
        return data.getvalue()


def find(example: Example, data: Path | None) -> ImageFile | None:
    """Return the image file of `example`. Return None if no such file is found, or if the image has a URL.

    First, the path of `example` is tried. Then these paths in the folder `data` are tried: the file name alone, and the
    file name with one, two and three of its parent folders. A run may come from anywhere, so a file is taken only if
    its bytes have the digest of `example`.
    """
    places = [example.path]
    if data and is_local(example.path):
        parts = Path(example.path).parts
        places += [str(data.joinpath(*parts[-depth:])) for depth in range(1, min(_DEEPEST, len(parts)) + 1)]
    for place in places:
        if is_url(place):
            return None
        for one in inspect_image(place):
            if isinstance(one, ImageFile) and one.digest == example.digest:
                return one
    return None


def nearest_of(served: ServedRun, places: Places) -> Nearest | None:
    """Return the `Nearest` of a served run. If this is not possible, print the reason, and return None.

    Typical reasons are that the run keeps no features, or that its training images are gone or changed.
    """
    why = "the run keeps no features of training images"
    try:
        if served.model.reference and (found := _nearest(served, places)):
            return found
        if served.model.reference:
            why = "the training images are not where they were; --data says where they are now"
    except HeadstartError as error:
        why = str(error)
    console.print(f"the page shows no nearest training images: {why}")
    return None


def _nearest(served: ServedRun, places: Places) -> Nearest | None:
    run, reference = served.run, served.model.reference
    assert reference
    labels = np.array([label for _, label in run.labelled("train")])
    train = [row for row in csv_rows(run.examples_file, EXAMPLES_COLUMNS) if row["split"] == "train"]
    rows = reference_rows(labels, reference.features.shape[1])
    if len(rows) != len(reference.features):
        return None
    examples = [Example(row["path"], row["digest"], row["label"]) for row in (train[at] for at in rows)]
    data = _data(run, places)
    found = Nearest(examples, reference.features, data)
    drawn = np.linspace(0, len(examples) - 1, min(_CHECKED, len(examples))).astype(int).tolist()
    computed = ((_features(served, examples[row], data), row) for row in drawn)
    checks = [found.is_nearest(features, row) for features, row in computed if features is not None]
    return found if checks and all(checks) else None


def _features(served: ServedRun, example: Example, data: Path | None) -> np.ndarray | None:
    """Compute the features (float32 [D]) of a training image.

    Return None if the image is not found or can't be used.
    """
    image = find(example, data)
    if image is None:
        return None
    content = bytes_of(image)
    header = usable_header(content, image.path, served.max_pixels)
    pixels = header if isinstance(header, Fault) else served.pixels(content, image.path, header)
    if isinstance(pixels, Fault):
        return None
    (answer,) = served.answers([pixels], 0)
    return answer.features


def _data(run: Run, places: Places) -> Path | None:
    """Return the data folder of `run`.

    If the user named a folder, and this folder is unusable, raise a HeadstartError. If the user named no folder, and no
    usable folder is found, return None.
    """
    try:
        return run_data(run, places)
    except HeadstartError:
        if places.data:
            raise
        return None
