"""What is in a data folder, before anything is trained on it: counts, rejects, duplicates, conflicts and leaks."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.features.errors import StoreError
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.store.maintain import open_stores, stores_named
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import progress
from headstart.pipeline.check.config import CheckConfig
from headstart.pipeline.check.duplicates import Likeness, conflicting, near_duplicates, same_image
from headstart.pipeline.data.examples import Example, scan, without
from headstart.pipeline.data.splits import SPLITS
from headstart.pipeline.featured import scan_memory

_DECODED_SIZE, _DECODED_AT_A_TIME = 64, 256


@dataclass(frozen=True)
class CheckResult:
    """What lies in a data folder.

    Args:
        classes: class name to split to examples.
        duplicates: examples that are equal, and in the same class and split.
        conflicts: equal, and in several classes.
        leaks: equal, and in several splits.
        near_duplicates: alike, and in different splits; None where there are no features.
        store: the folder of the features that those were found by.
        tiny: examples with a short side.
    """

    data: Path
    examples: list[Example]
    class_names: list[str]
    classes: dict[str, dict[str, int]]
    rejects: list[Reject]
    ignored: int
    duplicates: list[list[Example]]
    conflicts: list[list[Example]]
    leaks: list[list[Example]]
    near_duplicates: list[Likeness] | None
    store: Path | None
    tiny: list[Example]

    @property
    def splits(self) -> dict[str, int]:
        """Examples of each split."""
        return {split: sum(counts[split] for counts in self.classes.values()) for split in SPLITS}

    @property
    def reasons(self) -> dict[str, int]:
        """Rejects of each reason, the commonest first."""
        return dict(Counter(reject.reason for reject in self.rejects).most_common())

    @property
    def formats(self) -> dict[str, int]:
        """Examples of each format, the commonest first."""
        return dict(Counter(example.image.format for example in self.examples).most_common())

    @property
    def sizes(self) -> dict[str, list[float]]:
        """Least, median and greatest width and height, in pixels, as stored."""
        columns = {
            "width": [example.image.width for example in self.examples],
            "height": [example.image.height for example in self.examples],
        }
        return {
            name: [min(column), statistics.median(column), max(column)] for name, column in columns.items() if column
        }

    @property
    def imbalance(self) -> tuple[int, int, float | None]:
        """Examples of the largest class in train, of the smallest, and their ratio."""
        counts = [count["train"] for count in self.classes.values()]
        return max(counts), min(counts), max(counts) / min(counts) if min(counts) else None


def check(data: Path, config: CheckConfig = CheckConfig(), seed: int = 0) -> CheckResult:
    """Look at everything in `data`: decode what has no features yet, and compare what is there.

    Args:
        seed: of the split, where `data` has no split folders.

    Raises:
        DataError: no images.
        OptionError: no such fingerprint in the store.
        StoreError: a shard is damaged.
    """
    stores = _stores(config.store)
    memory = scan_memory(config.store, data) if stores else None
    scanned = scan(data, seed, config.max_pixels, memory)
    scanned = without(scanned, _undecodable([example.image for example in scanned.examples], stores, config))
    groups = same_image(scanned.examples)
    chosen = _chosen(stores, config.fingerprint, [example.image.digest for example in scanned.examples])
    counts = Counter((example.label, example.split) for example in scanned.examples)
    return CheckResult(
        data,
        scanned.examples,
        scanned.class_names,
        {name: {split: counts[label, split] for split in SPLITS} for label, name in enumerate(scanned.class_names)},
        scanned.rejects,
        scanned.ignored,
        [more for group in groups for more in _together(group)],
        conflicting(groups),
        [group for group in groups if len({example.split for example in group}) > 1],
        near_duplicates(scanned.examples, chosen, config.similarity) if chosen else None,
        chosen.folder if chosen else None,
        [e for e in scanned.examples if min(e.image.width, e.image.height) < config.tiny],
    )


def _together(group: Sequence[Example]) -> list[list[Example]]:
    """The parts of a group of equal examples that lie in the same class and split."""
    parts: dict[tuple[int, str], list[Example]] = {}
    for example in group:
        parts.setdefault((example.label, example.split), []).append(example)
    return [part for part in parts.values() if len(part) > 1]


def _stores(root: Path) -> list[FeatureStore]:
    """The features of images in `root`, but for maps; none where nothing was extracted yet."""
    if root.exists() and not root.is_dir():
        raise StoreError(f"--store {root}: not a folder")
    try:
        return [store for store in open_stores(root) if len(store.form.shape) == 1 and "view" not in store.fingerprint]
    except StoreError:
        return []


def _chosen(stores: Sequence[FeatureStore], wanted: str, digests: Sequence[str]) -> FeatureStore | None:
    """The store that has features of the most images, among those whose name begins as `wanted`."""
    fitting = stores_named(stores, wanted)
    missing = {store: len(store.missing(digests)) for store in fitting}
    best = min(fitting, key=lambda store: missing[store], default=None)
    return best if best and missing[best] < len(set(digests)) else None


def _undecodable(images: Sequence[ImageFile], stores: Iterable[FeatureStore], settings: CheckConfig) -> list[Reject]:
    """Decode one image of each digest, but for those that were decoded for the features that there are."""
    from headstart.features.images.batches import decoded_batches, why_undecodable
    from headstart.features.images.decode import PIXELS_VERSION, ImageConfig

    config = ImageConfig(_DECODED_SIZE, truncated=settings.truncated)
    by_digest = {image.digest: image for image in images}
    left = list(by_digest)
    for store in stores:
        if store.fingerprint["pixels_version"] == PIXELS_VERSION and store.fingerprint["truncated"] == config.truncated:
            left = store.missing(left)
    unseen = [by_digest[digest] for digest in left]
    decoded: set[int] = set()
    with progress("decoding", len(unseen)) as advance:
        for positions, _ in decoded_batches(unseen, config, _DECODED_AT_A_TIME):
            decoded.update(positions.tolist())
            advance(len(positions))
    return [
        why_undecodable(image)
        for position, image in enumerate(unseen)
        if position not in decoded or not image.is_unchanged()
    ]
