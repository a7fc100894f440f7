"""Looking at a data folder before anything is trained: counts, rejects, duplicates, conflicts and leaks."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from headstart.features.errors import StoreError
from headstart.features.images.scan import ImageFile, Reject
from headstart.features.store.maintain import open_stores, stores_named
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import progress
from headstart.pipeline.check.config import CheckConfig
from headstart.pipeline.check.near_duplicates import near_duplicates
from headstart.pipeline.check.report import CheckResult
from headstart.pipeline.data.copies import conflicting, same_image
from headstart.pipeline.data.examples import Example, reject_undecodable, scan, scan_memory
from headstart.pipeline.data.splits import SPLITS

_DECODED_SIZE, _DECODED_AT_A_TIME = 64, 256


def check(data: Path, config: CheckConfig = CheckConfig(), seed: int = 0) -> CheckResult:
    """Look at every image in `data`: decode those without features, and compare all. Write the page, if asked to.

    Args:
        seed: decides the split where `data` has no split folders.

    Raises:
        DataError: `data` has no images.
        OptionError: `config.html` is a folder, or the store has no such fingerprint.
        StoreError: a shard is damaged.
        OSError: the page can't be written.
    """
    stores = _stores(config.store)
    memory = scan_memory(config.store, data) if stores else None
    scanned = scan(data, seed, config.max_pixels, memory)
    undecodable = _undecodable([example.image for example in scanned.examples], stores, config)
    scanned = reject_undecodable(scanned, undecodable)
    examples = scanned.examples
    groups = same_image(examples)
    chosen = _chosen(stores, config.fingerprint, [example.image.digest for example in examples])
    counts = Counter((example.label, example.split) for example in examples)
    result = CheckResult(
        data=data,
        config=config,
        examples=examples,
        class_names=scanned.class_names,
        classes={
            name: {split: counts[label, split] for split in SPLITS} for label, name in enumerate(scanned.class_names)
        },
        rejects=scanned.rejects,
        ignored=scanned.ignored,
        duplicates=[part for group in groups for part in _together(group)],
        conflicts=conflicting(groups),
        leaks=[group for group in groups if len({example.split for example in group}) > 1],
        near_duplicates=near_duplicates(examples, chosen, config.similarity) if chosen else None,
        store=chosen.folder if chosen else None,
        tiny=[example for example in examples if min(example.image.width, example.image.height) < config.tiny],
    )
    if config.html:
        from headstart.pipeline.check.page import write_page

        write_page(result, config.html)
    return result


def _together(group: Sequence[Example]) -> list[list[Example]]:
    """The parts of a group of equal examples that lie in the same class and split."""
    parts: dict[tuple[int, str], list[Example]] = {}
    for example in group:
        parts.setdefault((example.label, example.split), []).append(example)
    return [part for part in parts.values() if len(part) > 1]


def _stores(root: Path) -> list[FeatureStore]:
    """The stores of plain images in `root`, without maps and views; none before the first extraction."""
    if root.exists() and not root.is_dir():
        raise StoreError(f"--store {root}: not a folder")
    try:
        return [store for store in open_stores(root) if len(store.form.shape) == 1 and not store.fingerprint.view]
    except StoreError:
        return []


def _chosen(stores: Sequence[FeatureStore], wanted: str, digests: Sequence[str]) -> FeatureStore | None:
    """The store with features of the most images, among those whose name begins with `wanted`; None without any."""
    fitting = stores_named(stores, wanted)
    missing = {store: len(store.missing(digests)) for store in fitting}
    best = min(fitting, key=lambda store: missing[store], default=None)
    return best if best and missing[best] < len(set(digests)) else None


def _undecodable(images: Sequence[ImageFile], stores: Iterable[FeatureStore], settings: CheckConfig) -> list[Reject]:
    """Decode one image of each digest and reject those that fail. An image with features was decoded before."""
    from headstart.features.images.batches import decoded_batches, why_undecodable
    from headstart.features.images.decode import PIXELS_VERSION, ImageConfig

    config = ImageConfig(_DECODED_SIZE, truncated=settings.truncated)
    by_digest = {image.digest: image for image in images}
    left = list(by_digest)
    for store in stores:
        if (store.fingerprint.pixels_version, store.fingerprint.truncated) == (PIXELS_VERSION, config.truncated):
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
