"""`headstart check`: find problems in a data folder before training."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from headstart.features.backbones.outlines import outline
from headstart.features.backbones.zoo import BACKBONES
from headstart.features.digests import HexDigests
from headstart.features.errors import StoreError
from headstart.features.images.columns.images import Images
from headstart.features.images.files.fetched import bytes_kept
from headstart.features.images.pixels import PIXELS_VERSION, ImageConfig
from headstart.features.images.scan import Reject
from headstart.features.store.maintain import open_stores, stores_named
from headstart.features.store.store import FeatureStore
from headstart.features.terminal import console, progress
from headstart.pipeline.check.config import CheckConfig
from headstart.pipeline.check.page import write_page
from headstart.pipeline.check.report import CheckResult
from headstart.pipeline.check.unlabelled import label_problems
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.copies import conflicting, repeated, same_image
from headstart.pipeline.data.examples import reject_undecodable, scan, scan_memory
from headstart.pipeline.data.splits import SPLITS
from headstart.pipeline.data.trainable import too_many_rejects, untrainable
from headstart.pipeline.near_duplicates import near_duplicates
from headstart.pipeline.pages.html import require_page

_DECODED_SIZE, _DECODED_AT_A_TIME = 64, 256


def check(
    data: Path, config: CheckConfig = CheckConfig(), seed: int = 0, reading: DataConfig = DataConfig()
) -> CheckResult:
    """Find rejects, copies, near-duplicates and tiny images in `data`, and reasons why training will refuse `data`.

    Images with features in a store are not decoded again. If `config.html` is set, the result is also written as an
    HTML page to the path `config.html`.

    Raises DataError if `data` has no images. Raises OptionError if `config.fingerprint` is given but fits no
    store (see `stores_named`), or if no page can be written to `config.html`. Raises StoreError if `config.store` is a
    file, or if a shard is damaged.
    """
    if config.html:
        require_page("--html", config.html)
    stores = _stores(config.store)
    memory = scan_memory(config.store, data) if stores else None
    with bytes_kept(config.store if stores else None, data):
        scanned = scan(data, seed, max_pixels=config.max_pixels, memory=memory, config=reading, labelled=False)
        undecodable = _undecodable(scanned.examples.images, stores, config)
    scanned = reject_undecodable(scanned, undecodable)
    examples = scanned.examples
    groups = same_image(examples)
    digests = set(HexDigests(examples.digests))
    chosen = _chosen(stores, config.fingerprint, digests)
    counts = examples.counts()
    rejected = too_many_rejects(scanned.rejects, len(examples) + len(scanned.rejects), config.max_rejects)
    result = CheckResult(
        **vars(scanned),
        data=data,
        config=config,
        classes={
            name: {split: counts[label, split] for split in SPLITS} for label, name in enumerate(scanned.class_names)
        },
        duplicates=[part for group in groups for part in repeated(group, lambda one: (one.label, one.split))],
        problems=[
            *label_problems(scanned, data, reading),
            *(untrainable(examples, scanned.class_names) if scanned.class_names else []),
            *([rejected] if rejected else []),
        ],
        conflicts=conflicting([one for one in group if one.label >= 0] for group in groups),
        leaks=[group for group in groups if len({example.split for example in group}) > 1],
        near_duplicates=near_duplicates(examples, chosen, config.similarity) if chosen else None,
        store=chosen.folder if chosen else None,
        compared=len(digests) - len(chosen.missing(digests)) if chosen else 0,
        tiny=list(examples[np.minimum(*map(examples.images.numbers, ("width", "height"))) < config.tiny]),
    )
    if config.html:
        write_page(result, config.html)
    return result


def _stores(root: Path) -> list[FeatureStore]:
    """Open the stores in `root`, except stores of maps and of augmented views."""
    if root.exists() and not root.is_dir():
        raise StoreError(f"--store {root}: not a folder")
    try:
        return [store for store in open_stores(root) if len(store.form.shape) == 1 and not store.fingerprint.view]
    except StoreError as error:
        if any(root.glob("*/fingerprint.json")):
            console.print(f"left out: {error}")
        return []


def _chosen(stores: Sequence[FeatureStore], wanted: str, digests: Collection[str]) -> FeatureStore | None:
    """Return the store that fits `wanted` and has features of the largest number of `digests`.

    If the stores that fit have no such features, return None.
    """
    missing = {store: len(store.missing(digests)) for store in stores_named(stores, wanted)}
    best = min(missing, key=lambda store: (missing[store], -_cut_number(store)), default=None)
    return best if best and missing[best] < len(digests) else None


def _cut_number(store: FeatureStore) -> int:
    """Return the index of a store's cut among all cuts of the network. Return -1 if the cut is unknown."""
    backbone, cut = store.fingerprint.backbone, store.fingerprint.cut
    cuts = list(outline(backbone).cuts) if backbone in BACKBONES else []
    return cuts.index(cut) if cut in cuts else -1


def _undecodable(images: Images, stores: Iterable[FeatureStore], settings: CheckConfig) -> list[Reject]:
    """Decode the images that have no features in `stores`, and return a reject for each failure."""
    config = ImageConfig(_DECODED_SIZE, truncated=settings.truncated)
    last = {digest: at for at, digest in enumerate(HexDigests(images.digests))}
    left = list(last)
    for store in stores:
        if (store.fingerprint.pixels_version, store.fingerprint.truncated) == (PIXELS_VERSION, config.truncated):
            left = store.missing(left)
    if not left:
        return []
    from headstart.features.images.batches import decoded_batches, why_undecodable

    unseen = images[np.array([last[digest] for digest in left])]
    decoded: set[int] = set()
    with progress("decoding", len(unseen)) as advance:
        for positions, _ in decoded_batches(unseen, config, _DECODED_AT_A_TIME):
            decoded.update(positions.tolist())
            advance(len(positions))
    failed = (image for at, image in enumerate(unseen) if at not in decoded or not image.is_unchanged_since_read())
    return [why_undecodable(image) for image in failed]
