"""Scan a data folder and cache the features of its images: the first step of every command that needs features."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.backbones.cuts import chosen_cuts, cut_names
from headstart.features.backbones.facts import KnownBackbones
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import DataError, OptionError, RunError
from headstart.features.extract import Extracted
from headstart.features.files import NOT_WRITABLE
from headstart.features.frozen.network import Network, load_networks, resolved_config
from headstart.features.images.depth import bits_by_folder, bits_that_matter
from headstart.features.images.files.fetched import bytes_kept
from headstart.features.images.scan import Reject
from headstart.features.store.store import create_folder
from headstart.features.terminal import console
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import (
    Example,
    Scan,
    require_rejects_file,
    scan,
    scan_memory,
    tell_reading,
    write_rejects,
)
from headstart.pipeline.data.tars.shards import kind_of
from headstart.pipeline.data.trainable import require_few_rejects
from headstart.pipeline.extracting import Stores, extract_all, extract_views, first_views
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.locating import located_networks, run_data, run_store
from headstart.pipeline.places import Places
from headstart.pipeline.runs import Run

ScanCheck = Callable[
    [Scan, list[Network]], None
]  # takes a scan and the networks for its features; raises an error if either can't be used


@dataclass(frozen=True)
class FeaturedExamples:
    """Usable examples, and the stores that hold their features."""

    examples: list[Example]
    class_names: list[str]
    rejects: list[Reject]
    ignored: int  # files; see `Scan`
    ignored_kinds: dict[str, int]
    reading: list[str]  # lines that say how the data were read
    has_splits: bool  # see `Scan`
    read_as: DataConfig  # the settings by which the data were read
    networks: list[Network]  # one per backbone
    stores: Stores  # in the order of the features' columns
    views: list[Stores]  # one for each augmented view; only training images have views
    config: FeatureConfig  # with the cuts and precision that were used
    extraction: ExtractionConfig
    extracted: Extracted  # in this call, without views
    views_extracted: int  # images, summed over views and networks

    @property
    def network(self) -> Network:
        """Return the only network. Raises OptionError if there are several."""
        if len(self.networks) > 1:
            raise OptionError(f"--backbone {self.config.backbone}: this needs one backbone alone")
        return self.networks[0]

    def of(self, split: str) -> list[Example]:
        """Return the examples of `split`. The split `all` means every example."""
        return [example for example in self.examples if split in ("all", example.split)]

    def labelled(self, examples: Sequence[Example], viewed: Sequence[Example] = ()) -> LabelledFeatures:
        """Return the features and the labels of `examples`, and the features of all views of `viewed`, at all cuts.

        `viewed` must be training examples, because only these have views.
        """
        ends = np.cumsum([0, *(store.form.shape[0] for store in self.stores.values())]).tolist()
        return LabelledFeatures(
            features=self.features([example.image.digest for example in examples]),
            labels=np.array([example.label for example in examples], np.int64),
            columns=dict(zip(self.stores, map(slice, ends[:-1], ends[1:]), strict=True)),
            classes=len(self.class_names),
            views=[_read(stores, [one.image.digest for one in viewed]) for stores in self.views if viewed],
            reduced=self.config.precision == "bfloat16",
        )

    def features(self, digests: Sequence[str]) -> np.ndarray:
        """Read the features of the images with these `digests`, float32 [N, D]. The cuts are side by side."""
        return _read(self.stores, digests)

    def fingerprints(self) -> dict[str, str]:
        """Map the name of each cut to the key of its fingerprint, a SHA-256."""
        return {name: store.key for name, store in zip(cut_names(list(self.stores)), self.stores.values(), strict=True)}

    def fields(self) -> dict[str, Any]:
        """Return the JSON object of `headstart features`."""
        keys = [store.key for store in self.stores.values()]
        return {
            "examples": len(self.examples),
            "extracted": self.extracted.extracted,
            "cached": len({example.image.digest for example in self.examples} - self.extracted.digests),
            "rejected": len(self.rejects),
            "ignored": self.ignored,
            "seconds": self.extracted.seconds,
            "images_per_second": self.extracted.images_per_second,
            "store": str(self.extraction.store),
            "fingerprint": keys[0] if len(keys) == 1 else keys,
            "views_extracted": self.views_extracted,
        }

    def lines(self) -> Iterator[str]:
        """Yield the summary of `headstart features`, line by line."""
        done, store = self.extracted, self.extraction.store
        timed = f" ({done.seconds:.1f} s, {done.images_per_second:.1f} images/s)" if done.extracted else ""
        cached = self.fields()["cached"]
        copies = len(self.examples) - len({example.image.digest for example in self.examples})
        parts = [f"{done.extracted} extracted{timed}"] + [f"{cached} cached"] * bool(cached)
        parts += [f"{copies} copies of others"] * bool(copies)
        yield f"{len(self.examples)} examples in {len(self.class_names) or 'no'} classes: {', '.join(parts)}"
        if self.views:
            count = len({example.image.digest for example in self.of("train")})
            yield f"{len(self.views)} views of {count} training images: {self.views_extracted} extracted"
        yield f"{len(self.rejects)} images rejected ({store}/rejects.csv), {self.ignored} other files ignored"
        folders = [one.folder.name for one in self.stores.values()]
        where = f"{store}/{folders[0]}" if len(folders) == 1 else f"{len(folders)} folders of {store}"
        yield f"features are in {where}; `headstart store ls {store}` lists all"


def cache_features(
    data: Path,
    config: FeatureConfig,
    extraction: ExtractionConfig,
    seed: int = 0,
    require: ScanCheck | None = None,
    reading: DataConfig = DataConfig(),
    labelled: bool = True,
) -> FeaturedExamples:
    """Scan `data`, extract the features that the store lacks, and return the examples that can be used.

    Writes `rejects.csv` into the store's folder. Raises DataError if there are no images, or if the fraction of rejects
    exceeds `extraction.max_rejects`. Raises OptionError, WeightsError or StoreError if the settings can't be used.

    Args:
        seed: decides the views and, if `data` has no split folders, the splits.
        require: called with the scan and the networks before extraction. It raises an error if they can't be used.
        reading: how `data` is read.
        labelled: whether to raise DataError if images have no labels.
    """
    chosen_cuts(config)  # reports a wrong name before the scan
    with bytes_kept(extraction.store, data):
        return _cached(data, config, extraction, seed, require, reading, labelled)


def _cached(
    data: Path,
    config: FeatureConfig,
    extraction: ExtractionConfig,
    seed: int,
    require: ScanCheck | None,
    reading: DataConfig,
    labelled: bool,
) -> FeaturedExamples:
    """Do the work of `cache_features`."""
    scanned = scan_with_store(data, seed, config, extraction, reading, labelled)
    found = len(scanned.examples) + len(scanned.rejects)
    try:
        require_few_rejects(scanned.rejects, found, extraction.max_rejects)
        config = replace(config, bits=bits_by_folder(config.bits, bits_in(scanned)))
        networks = networks_for(scanned, config, extraction)
        if require:
            require(scanned, networks)
        scanned, extractors, stores, done = extract_all(scanned, networks)
    except DataError:
        _list_rejects(extraction.store, scanned.rejects)
        raise
    _list_rejects(extraction.store, scanned.rejects)
    require_few_rejects(scanned.rejects, found, extraction.max_rejects)
    if not scanned.examples:
        raise DataError(f"{data}: none of {found} images can be used; {extraction.store}/rejects.csv says why")
    train = [example.image for example in scanned.examples if example.split == "train"]
    views, views_extracted = extract_views(extractors, train, first_views(config.augment, seed, config.views))
    return FeaturedExamples(
        **vars(scanned),
        read_as=reading,
        networks=[extractor.network for extractor in extractors],
        stores=stores,
        views=views,
        config=resolved_config(config, networks),
        extraction=extraction,
        extracted=done,
        views_extracted=views_extracted,
    )


def _list_rejects(store: Path, rejects: Sequence[Reject]) -> None:
    """Write `rejects.csv` into the store's folder. If nothing can be written there, print a message instead."""
    try:
        write_rejects(store, rejects)
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        console.print(f"{store}/rejects.csv: not up to date, and can't be written ({error.strerror})")


def scan_with_store(
    data: Path,
    seed: int,
    config: FeatureConfig,
    extraction: ExtractionConfig,
    reading: DataConfig,
    labelled: bool,
) -> Scan:
    """Make the store's folder if it is missing, scan `data` with its scan memory, and print how the data were read."""
    create_folder(extraction.store)
    require_rejects_file(extraction.store)
    with suppress(OSError):  # the store is read-only; an empty folder in `data` would look like a class without images
        (extraction.store / "scans").mkdir(exist_ok=True)
    memory = scan_memory(extraction.store, data, extraction.rehash)
    scanned = scan(data, seed, extraction.max_pixels, memory, config.pages, reading, labelled)
    tell_reading(scanned)
    return scanned


def networks_for(
    scanned: Scan,
    config: FeatureConfig,
    extraction: ExtractionConfig,
    digest_of: Callable[[str, str, int], str] | None = None,
) -> list[Network]:
    """Load the networks of `config`; for `digest_of` see `load_networks`.

    If `config.bits` gives all scanned images the same pixels as the value 16, the networks get the value 16.
    """
    held = bits_in(scanned)
    bits = bits_that_matter(bits_by_folder(config.bits, held), held)
    known = KnownBackbones(extraction.store, extraction.rehash)
    return load_networks(replace(config, bits=bits), extraction, known, digest_of)


def bits_in(scanned: Scan) -> set[int]:
    """Return the distinct values of `ImageFile.bits` in a scan."""
    return {example.image.bits for example in scanned.examples}


def load_examples(run: Run, places: Places = Places()) -> FeaturedExamples:
    """Scan the data of a run, and cache their features with the run's settings. `places` may name other data.

    Raises RunError if the data, the store or the weights are gone, or if the settings no longer give the features that
    the head was trained on.
    """
    settings = run.config()
    data, store = run_data(run, places), run_store(run, places)
    # `max_rejects` limits training only. Callers that need unchanged examples call `require_unchanged`.
    extraction = replace(run.configs()[1], store=store, max_rejects=1.0, rehash=False)
    config, _ = located_networks(run, places, run.configs()[0], extraction, KnownBackbones(store))

    def require(_: Scan, networks: list[Network]) -> None:
        if list(settings["fingerprints"].values()) not in possible_keys(networks, config.bits):
            raise RunError(
                f"{run.path}: its features can't be made again: its int8 network is gone, another engine computes "
                "bfloat16 (a GPU, or OpenVINO that came or went), or another version of headstart made it; run "
                "`headstart head` again, with --overwrite"
            )

    reading = run.read_as().fitted(kind_of(data))
    return cache_features(data, replace(config, views=0), extraction, settings["seed"], require, reading)


def fingerprints_of(networks: Sequence[Network], bits: str | None = None) -> dict[str, str]:
    """Map the name of each cut to the key of its fingerprint. `bits`, if given, replaces the networks' setting."""
    if bits:
        networks = [replace(network, config=replace(network.config, bits=bits)) for network in networks]
    keys = {cut: network.fingerprint(cut).key for network in networks for cut in network.cuts}
    return dict(zip(cut_names(list(keys)), keys.values(), strict=True))


def possible_keys(networks: Sequence[Network], bits: str) -> list[list[str]]:
    """Return two lists of the keys of the cuts' fingerprints: one for `--bits 16`, one for `--bits` with value `bits`.

    The features of a data folder have the keys of the first list if both values give its images the same pixels.
    Otherwise, they have the keys of the second list.
    """
    return [list(fingerprints_of(networks, used).values()) for used in ("16", bits)]


def _read(stores: Stores, digests: Sequence[str]) -> np.ndarray:
    """Read features from `stores`, as `FeaturedExamples.features` describes."""
    return np.concatenate([store.read(digests) for store in stores.values()], axis=1).astype(np.float32, copy=False)
