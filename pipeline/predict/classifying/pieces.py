"""Classify files in this process, a group of files at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from headstart.features.images.files.fetched import drop
from headstart.features.images.pixels import Pages
from headstart.features.images.scan import ImageFile, Reject
from headstart.pipeline.predict.items import Item, Scored
from headstart.pipeline.predict.model import Answers
from headstart.pipeline.predict.sources import Piece, Sources, inspected

# Three values for each piece of the files: the number of items that were done before, the number of files without
# items, and the items.
Classified = Iterator[tuple[int, int, Iterable[Item]]]


def classified(
    answers: Answers,
    sources: Sources,
    max_pixels: int,
    pages: Pages,
    is_done: Callable[[str], bool] = lambda path: False,
) -> Classified:
    """Inspect and classify the files of `sources`, a group of files at a time.

    Yields three values for each group:

    - the number of images and rejects that are left out, because `is_done` returns True for their paths.
    - the number of non-image files that were found in folders. A non-image file in `sources.named` becomes a reject.
    - an iterator over all other predictions and rejects. Each is yielded as soon as it is known.

    If a file has a URL, its bytes may be kept on disk until the caller takes the next group; see `drop`.
    """
    for done, others, piece in inspected(sources, max_pixels, pages, is_done):
        yield done, others, _in_order(piece, answers)
        for one in piece:
            drop(one.file if isinstance(one, ImageFile) else one.path)


def _in_order(piece: Piece, answers: Answers) -> Iterator[Item]:
    """Yield a prediction or a reject for each element of `piece`, in order.

    An image that can't be decoded becomes a reject.
    """
    from headstart.features.images.batches import why_undecodable

    images = [one for one in piece if isinstance(one, ImageFile)]
    rows = answers.chances(images) if images else iter(())
    end = (-1, np.empty(0), None)
    at, chances, distance = next(rows, end)
    position = -1
    for one in piece:
        if isinstance(one, Reject):
            yield one
            continue
        position += 1
        if at == position:
            yield Scored(one.path, chances, distance)
            at, chances, distance = next(rows, end)
        else:
            yield why_undecodable(one)
