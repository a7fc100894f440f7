"""Find the scored images that the head saw in training, either as copies or as near-duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from headstart.features.errors import DataError, RunError
from headstart.pipeline.data.examples import Example, scan, scan_memory
from headstart.pipeline.featured import FeaturedExamples
from headstart.pipeline.locating import run_data
from headstart.pipeline.near_duplicates import near_duplicates
from headstart.pipeline.runs import Run


@dataclass(frozen=True)
class Seen:
    """The paths of the scored images that the head saw in training."""

    equal: list[str]  # images that are in train, too
    alike: list[str] | None  # other images with a near-duplicate in train; None if the training images are gone

    def fields(self) -> dict[str, Any]:
        """Return the number of copies and the number of near-duplicates, for JSON."""
        alike = None if self.alike is None else len(self.alike)
        return {"duplicates_in_train": len(self.equal), "near_duplicates_in_train": alike}

    def lines(self, split: str) -> list[str]:
        """Return up to two warnings: about images that are also in train, and about near-duplicates of train images.

        `split` is a phrase that names the scored images.
        """
        found = {"are in train too": self.equal, "have a near-duplicate in train": self.alike or []}
        return [
            f"warning: {len(paths)} images of {split} {what}, {paths[0]} the first; their figures are too good"
            for what, paths in found.items()
            if paths
        ]


def seen_in_training(run: Run, cached: FeaturedExamples, examples: Sequence[Example], elsewhere: bool = False) -> Seen:
    """Find the `examples` that are copies or near-duplicates of images that `run` was trained on.

    Args:
        cached: all examples of the data that `examples` were taken from. Each example has features.
        elsewhere: whether `examples` were taken from other data than the run's own data.
    """
    trained = run.digests("train")
    equal = [one.image.path for one in examples if one.image.digest in trained]
    own = _own_examples(run, cached) if elsewhere else cached.examples
    if own is None:
        return Seen(equal, None)
    train = [replace(one, split="train") for one in own if one.image.digest in trained]
    fresh = [replace(one, split="test") for one in examples if one.image.digest not in trained]
    *_, store = cached.stores.values()  # at the last cut
    return Seen(equal, sorted(pair.image.image.path for pair in near_duplicates([*train, *fresh], store)))


def _own_examples(run: Run, cached: FeaturedExamples) -> Sequence[Example] | None:
    """Return the examples in the run's own data. Return None if the data are gone, or can no longer be read."""
    settings, config, extraction = run.config(), run.feature_config(), run.extraction_config()
    try:
        own = run_data(run)
        memory = scan_memory(cached.extraction.store, own)
        found = scan(
            own,
            settings["seed"],
            max_pixels=extraction.max_pixels,
            memory=memory,
            pages=config.pages,
            config=run.read_as(),
        )
    except (DataError, RunError):
        return None
    return found.examples
