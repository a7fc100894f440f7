"""Extract the missing features of scanned examples, network by network, and view by view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from headstart.features.backbones.cuts import Cut
from headstart.features.backbones.facts import KnownBackbones
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError
from headstart.features.extract import Extracted, extract_features
from headstart.features.frozen.network import Network, load_networks, remember_weights
from headstart.features.frozen.speeds import keep_speed
from headstart.features.images.augment import Augment, View
from headstart.features.images.columns.images import Images
from headstart.features.images.depth import bits_by_folder, bits_that_matter
from headstart.features.images.scan import ImageFile
from headstart.features.store.compact import compact_by_itself
from headstart.features.store.store import FeatureStore
from headstart.pipeline.data.examples import Example, Examples, Scan, reject_undecodable

if TYPE_CHECKING:
    from headstart.features.cluster.extraction import Cluster

Stores = dict[Cut, FeatureStore]


class Extractor:
    """Extracts features with one network. The network's fast form is built once and kept for the next images.

    With int8, the network's 8-bit form is made from some of `images`, if the store lacks it. The fast form takes memory
    until the extractor is dropped.
    """

    def __init__(self, network: Network, images: Sequence[ImageFile], cluster: Cluster | None = None) -> None:
        self.network, self._cluster = network.quantised(images), cluster
        self._freeze = cache(lambda: self.network.freeze(keep=True))

    def extract(
        self, images: Sequence[ImageFile], view: View | None = None, part: bool = False
    ) -> tuple[Stores, Extracted]:
        """Extract the missing features of `images`. If there is a cluster, the cluster extracts them.

        If `view` is given, features are extracted from this view of each image. `part` tells whether `images` are one
        of many parts of a set; see `extract_features`. Returns two things: the store of each cut, and the result of the
        extraction.
        """
        stores = {cut: store.create() for cut, store in self.network.stores(view).items()}
        if self._cluster:
            done = self._cluster.extract(images, self.network, stores, view)
        else:
            done = extract_features(images, self._freeze, stores, self.network.images, view, part)
            backbone, store = self.network.backbone, self.network.extraction.store
            keep_speed(store, backbone.name, done.extracted, done.seconds, backbone.precision, backbone.image_size)
        return stores, done


def _finish(stores: Stores, seconds: float) -> None:
    """Update the index and the merged file of each store.

    If `seconds` is not 0, also compact each store that has too many shards; see `compact_by_itself`.
    """
    for store in stores.values():
        store.keep_index()  # first, so that this process need not hold what others have written
        if seconds:
            compact_by_itself(store, seconds)
        store.update_merged()


class Early:
    """Extracts features while the scan of a large data folder goes on, so that each file is read from disk only once.

    Images are decoded with `--bits 16`. If the scan meets an image that gets other pixels with the user's `--bits`, no
    more features are extracted. Images that can't be decoded are left to `extract_all`.
    """

    def __init__(self, config: FeatureConfig, extraction: ExtractionConfig) -> None:
        self.done = Extracted()
        self._bits, self._config, self._extraction = config.bits, replace(config, bits="16"), extraction
        self._extractors: list[Extractor] | None = None

    def __call__(self, images: Images) -> None:
        """Extract the missing features of `images`, which are some of the images in the data folder."""
        held = set(np.unique(images.numbers("bits")).tolist())
        if bits_that_matter(bits_by_folder(self._bits, held), held) != "16":
            self._extractors = []
        if self._extractors is None:
            networks = load_networks(self._config, self._extraction, KnownBackbones(self._extraction.store))
            self._extractors = [Extractor(network, images) for network in networks]
        for extractor in self._extractors:
            stores, done = extractor.extract(images, part=True)
            self.done += replace(done, rejects=())
            _finish(stores, 0)  # the scan may end early, or `extract_all` may fill other stores


def extract_all(
    scanned: Scan, networks: Sequence[Network], cluster: Cluster | None = None, earlier: Extracted | None = None
) -> tuple[Scan, list[Extractor], Stores, Extracted]:
    """Extract the missing features of the scanned examples with each network in turn.

    `earlier` is what an `Early` extracted with these networks. It is added to the totals. After the extraction, stores
    with many small shards are compacted, and the weights of the networks are recorded; see `remember_weights`.

    Returns four things:
    - a scan in which images that can't be decoded are rejects
    - the extractor of each network
    - the store of each cut
    - the totals of the extraction
    """
    extractors, stores, done = [], Stores(), earlier or Extracted()
    share = done.seconds / len(networks)
    for network in networks:
        images = scanned.examples.images
        extractors.append(Extractor(network, images, cluster))
        filled, here = extractors[-1].extract(images)
        scanned = reject_undecodable(scanned, here.rejects)
        stores |= filled
        done += here
        _finish(filled, share + here.seconds)
    remember_weights(networks)
    return scanned, extractors, stores, done


def extract_views(
    extractors: Sequence[Extractor], images: Sequence[ImageFile], views: Sequence[View | None]
) -> tuple[list[Stores], int]:
    """Extract the missing features of `images` in each of `views`. The view None means the unchanged images.

    Returns the stores of each view, and the number of images extracted, summed over views and extractors. Raises
    DataError if an image can't be decoded.
    """
    by_view, extracted = [Stores() for _ in views], 0
    for extractor in extractors:
        for view, stores in zip(views, by_view, strict=True):
            filled, done = extractor.extract(images, view)
            _finish(filled, done.seconds)
            if done.rejects:
                first = done.rejects[0]
                raise DataError(f"{first.path}: {first.reason}, {first.detail} ({len(done.rejects)} such files)")
            stores.update(filled)
            extracted += done.extracted
    return by_view, extracted


def extract_at(
    network: Network, cut: Cut, examples: Sequence[Example], views: Sequence[View | None]
) -> list[FeatureStore]:
    """Extract the missing features of `examples` at `cut`, for each of `views`. Returns one store per view.

    `cut` need not be among the cuts of `network`. The view None means the unchanged images. Raises DataError if an
    image can't be decoded, for example because its file is gone or has changed since the scan.
    """
    images = Examples.of(examples).images
    by_view, _ = extract_views([Extractor(replace(network, cuts=(cut,)), images)], images, views)
    return [stores[cut] for stores in by_view]


def first_views(augment: Augment, seed: int, count: int) -> list[View]:
    """Return `count` views, numbered from 1, each with this `augment` and `seed`."""
    return [View(augment, seed, number) for number in range(1, count + 1)]
