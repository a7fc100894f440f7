"""Find the images that an export of a run needs: val images to compare answers, training images to calibrate int8."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from headstart.features.digests import HexDigests
from headstart.features.errors import DataError, RunError
from headstart.features.images.columns.images import Images
from headstart.features.images.files.paths import is_local
from headstart.features.images.files.reading import bytes_of
from headstart.features.images.pixels import ImageConfig
from headstart.features.images.scan import ImageFile
from headstart.features.terminal import console
from headstart.pipeline.data.examples import scan, scan_memory
from headstart.pipeline.data.tars.naming import kind_of
from headstart.pipeline.locating import known_store, run_data
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run

_AT_ONCE = 32


@dataclass(frozen=True)
class RunImages:
    """All images that the data of a run hold now."""

    run: Run
    data: Path
    images: Images

    def draw(self, split: str, count: int, seed: int) -> tuple[list[ImageFile], np.ndarray]:
        """Draw at most `count` images of `split`; 0 means all. Return the images and their labels, int64 [N].

        `seed` decides which images are drawn. Raises RunError if the run was trained without images of `split`, and
        DataError if all images of `split` are gone from the data. If only some are gone, their number is printed.
        """
        rows = self.run.labelled(split)
        if not rows:
            raise RunError(f"{self.run.path}: was trained without {split} images, and an export needs some")
        wanted = {digest for digest, _ in rows}
        places = {digest: at for at, digest in enumerate(HexDigests(self.images.digests)) if digest in wanted}
        there = [(places[digest], label) for digest, label in rows if digest in places]
        if not there:
            raise DataError(
                f"{self.data}: holds none of the {len(rows)} {split} images of {self.run.path}; say with --data where "
                "they are now"
            )
        if len(there) < len(rows):
            gone = len(rows) - len(there)
            console.print(f"{self.data}: {gone} of {len(rows)} {split} images of the run are gone, or changed")
        order = np.sort(np.random.default_rng(seed).permutation(len(there))[: count or None])
        drawn = [there[at] for at in order]
        return [self.images[place] for place, _ in drawn], np.array([label for _, label in drawn], np.int64)


def find_images(run: Run, places: Places) -> RunImages:
    """Scan the data of `run` for images, whatever their names and folders are now. For errors, see `run_data`."""
    config, extraction = run.feature_config(), run.extraction_config()
    data, store = run_data(run, places), known_store(run, places)
    reading = run.read_as().of_every_image(kind_of(data))
    memory = scan_memory(store, data) if store and os.access(store, os.W_OK) else None
    found = scan(
        data,
        run.config()["seed"],
        max_pixels=extraction.max_pixels,
        memory=memory,
        pages=config.pages,
        config=reading,
        labelled=False,
    )
    return RunImages(run, data, found.examples.images)


def decoded(images: Sequence[ImageFile], config: ImageConfig) -> Iterator[np.ndarray]:
    """Yield the pixels of `images` in batches (uint8 [b, S, S, 3]). Raises DataError if an image can't be decoded."""
    from headstart.features.images.batches import decoded_batches, why_undecodable

    seen = 0
    for positions, pixels in decoded_batches(images, config, _AT_ONCE):
        whole = len(positions) == min(_AT_ONCE, len(images) - seen)
        if not whole or positions[0] != seen:
            lost = next(at for at in range(seen, len(images)) if at not in set(positions.tolist()))
            reject = why_undecodable(images[lost])
            raise DataError(f"{reject.path}: {reject.reason}, {reject.detail}")
        seen += len(positions)
        yield pixels
    if seen < len(images):
        reject = why_undecodable(images[seen])
        raise DataError(f"{reject.path}: {reject.reason}, {reject.detail}")


def local_files(images: Sequence[ImageFile], scratch: Path) -> list[tuple[str, int]]:
    """Return the path of each image's file, and the number of the image's page in the file.

    A file that is not local is copied into `scratch`; the path then leads to the copy.
    """
    found = []
    for number, image in enumerate(images):
        path = Path(image.file).absolute()
        if not is_local(image.file):
            path = scratch / f"{number}"
            path.write_bytes(bytes_of(image))
        found.append((str(path), image.page))
    return found
