"""Scan a data folder and cache the features of its images: the first step of every command that needs features."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from headstart.features.backbones.cuts import chosen_cuts, cut_names
from headstart.features.backbones.facts import KnownBackbones
from headstart.features.cluster.config import ClusterConfig
from headstart.features.cluster.extraction import Cluster, cluster
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.device import release_memory
from headstart.features.digests import raw_digests
from headstart.features.errors import DataError, OptionError, RunError
from headstart.features.extract import Extracted
from headstart.features.frozen.network import Network, load_networks, possible_keys, resolved_config
from headstart.features.images.columns.inspected import Elsewhere, Turn
from headstart.features.images.depth import bits_by_folder, bits_that_matter
from headstart.features.images.files.fetched import bytes_kept
from headstart.features.images.scan import Reject
from headstart.features.store.store import create_folder
from headstart.pipeline.data.config import DataConfig
from headstart.pipeline.data.examples import Example, Examples, Scan, scan, scan_memory, tell_reading
from headstart.pipeline.data.tars.naming import kind_of
from headstart.pipeline.data.trainable import require_few_rejects
from headstart.pipeline.extracting import Early, Stores, extract_all, extract_views, first_views
from headstart.pipeline.labelled import LabelledFeatures
from headstart.pipeline.locating import located_networks, run_data, run_store
from headstart.pipeline.memory.loading import load_features, read_features
from headstart.pipeline.places import Places
from headstart.pipeline.rejects import list_rejects, require_rejects_file
from headstart.pipeline.runs import Run

ScanCheck = Callable[[Scan, list[Network]], None]  # raises an error if the scan or the networks can't be used


@dataclass(frozen=True)
class FeaturedExamples:
    """Usable examples, and the stores that hold their features."""

    examples: Examples
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

    def of(self, split: str) -> Examples:
        """Return the examples of `split`. The split `all` means every example."""
        return self.examples.of_split(split)

    def labelled(self, examples: Sequence[Example], viewed: Sequence[Example] = ()) -> LabelledFeatures:
        """Return the labels and features of `examples`, and the features of all views of `viewed`.

        The features are taken at all cuts. If the features could be too large for memory, they are left on disk; see
        `load_features`. `viewed` must be training examples, because only training examples have views.
        """
        examples, viewed = Examples.of(examples), Examples.of(viewed)
        ends = np.cumsum([0, *(store.form.shape[0] for store in self.stores.values())]).tolist()
        views = [(stores, viewed.digests) for stores in self.views if viewed]
        features, *of_views = load_features([(self.stores, examples.digests), *views], self.extraction)
        return LabelledFeatures(
            features=features,
            labels=examples.labels.astype(np.int64),
            columns=dict(zip(self.stores, map(slice, ends[:-1], ends[1:]), strict=True)),
            classes=len(self.class_names),
            views=of_views,
            reduced=self.config.precision == "bfloat16",
        )

    def features(self, digests: Sequence[str] | np.ndarray) -> np.ndarray:
        """Read the features of the images with these `digests` into memory, float32 [N, D]; see `read_features`."""
        return read_features(self.stores, digests)

    def fingerprints(self) -> dict[str, str]:
        """Return the key of the features at each cut, by the cut's name. A key is the SHA-256 of a fingerprint."""
        return {name: store.key for name, store in zip(cut_names(list(self.stores)), self.stores.values(), strict=True)}

    def fields(self) -> dict[str, Any]:
        """Return the JSON object of `headstart features`."""
        keys = [store.key for store in self.stores.values()]
        worked = self.extracted.nodes.items()
        nodes = [{"node": k, "images": v.images, "images_per_second": v.images_per_second} for k, v in worked]
        return {
            "examples": len(self.examples),
            "extracted": self.extracted.extracted,
            "cached": self.examples.different - self._extracted_here(),
            "rejected": len(self.rejects),
            "ignored": self.ignored,
            "seconds": self.extracted.seconds,
            "images_per_second": self.extracted.images_per_second,
            "store": str(self.extraction.store),
            "fingerprint": keys[0] if len(keys) == 1 else keys,
            "views_extracted": self.views_extracted,
            **({"nodes": nodes} if nodes else {}),
        }

    def _extracted_here(self) -> int:
        """Return the number of different digests that are in `examples` and also in `extracted`."""
        extracted = raw_digests(sorted(self.extracted.digests))
        return int(np.isin(extracted, self.examples.digests).sum()) if len(extracted) else 0

    def lines(self) -> Iterator[str]:
        """Yield the summary of `headstart features`, line by line."""
        done, store = self.extracted, self.extraction.store
        timed = f" ({done.seconds:.1f} s, {done.images_per_second:.1f} images/s)" if done.extracted else ""
        cached, copies = self.fields()["cached"], len(self.examples) - self.examples.different
        parts = [f"{done.extracted} extracted{timed}"] + [f"{cached} cached"] * bool(cached)
        parts += [f"{copies} copies of others"] * bool(copies)
        yield f"{len(self.examples)} examples in {len(self.class_names) or 'no'} classes: {', '.join(parts)}"
        for name, work in done.nodes.items():
            yield f"node {name}: {work.images} images, {work.images_per_second:.1f} images/s"
        if self.views:
            count = self.of("train").different
            yield f"{len(self.views)} views of {count} training images: {self.views_extracted} extracted"
        yield f"{len(self.rejects)} images rejected ({store}/rejects.csv), {self.ignored} other files ignored"
        first, *others = [one.folder.name for one in self.stores.values()]
        where = f"{1 + len(others)} folders of {store}" if others else f"{store}/{first}"
        yield f"features are in {where}; `headstart store ls {store}` lists all"


def cache_features(
    data: Path,
    config: FeatureConfig,
    extraction: ExtractionConfig,
    seed: int = 0,
    require: ScanCheck | None = None,
    reading: DataConfig = DataConfig(),
    labelled: bool = True,
    by_ray: ClusterConfig = ClusterConfig(),
) -> FeaturedExamples:
    """Scan `data`, extract the features that the store lacks, and return the examples that can be used.

    Writes `rejects.csv` into the store's folder. Raises DataError if there are no images, or if the fraction of rejects
    exceeds `extraction.max_rejects`. Raises OptionError, WeightsError or StoreError if the settings can't be used.

    Args:
        seed: decides the views and, if `data` has no split folders, the splits.
        require: is called with the scan and networks before extraction, and raises an error if they can't be used.
        reading: how `data` is read.
        labelled: whether labels are needed; see `read_data`.
        by_ray: the settings of Ray. If they name a cluster, the cluster scans large data and extracts features.
    """
    chosen_cuts(config)  # reports a wrong name before the scan
    with bytes_kept(extraction.store, data), cluster(by_ray, config, extraction) as workers:
        return _cached(data, config, extraction, seed, require, reading, labelled, workers)


def _cached(
    data: Path,
    config: FeatureConfig,
    extraction: ExtractionConfig,
    seed: int,
    require: ScanCheck | None,
    reading: DataConfig,
    labelled: bool,
    workers: Cluster | None,
) -> FeaturedExamples:
    """Scan `data` and extract missing features; see `cache_features`. If `workers` are given, they do the work."""
    early = None if require or workers or config.precision == "int8" else Early(config, extraction)
    scanner = workers.scanner() if workers else None
    scanned = scan_with_store(data, seed, config, extraction, reading, labelled, early, scanner)
    found = len(scanned.examples) + len(scanned.rejects)
    try:
        require_few_rejects(scanned.rejects, found, extraction.max_rejects)
        config = replace(config, bits=bits_by_folder(config.bits, bits_in(scanned)))
        if workers:
            workers.prepare()
        networks = networks_for(scanned, config, extraction)
        if require:
            require(scanned, networks)
        scanned, extractors, stores, done = extract_all(scanned, networks, workers, early.done if early else None)
    except DataError:
        list_rejects(extraction.store, scanned.rejects)
        raise
    list_rejects(extraction.store, scanned.rejects)
    require_few_rejects(scanned.rejects, found, extraction.max_rejects)
    if not scanned.examples:
        raise DataError(f"{data}: none of {found} images can be used; {extraction.store}/rejects.csv says why")
    views = first_views(config.augment, seed, config.views)
    by_view, views_extracted = extract_views(extractors, scanned.examples.of_split("train").images, views)
    return FeaturedExamples(
        **vars(scanned),
        read_as=reading,
        networks=[extractor.network for extractor in extractors],
        stores=stores,
        views=by_view,
        config=resolved_config(config, networks),
        extraction=extraction,
        extracted=done,
        views_extracted=views_extracted,
    )


def scan_with_store(
    data: Path,
    seed: int,
    config: FeatureConfig,
    extraction: ExtractionConfig,
    reading: DataConfig,
    labelled: bool,
    turn: Turn | None = None,
    elsewhere: Elsewhere | None = None,
) -> Scan:
    """Scan `data`, and print how `data` were read. If the folder of the store is missing, it is made.

    The store remembers the files for later scans. For `turn` and `elsewhere`, see `scan`. Raises the errors of `scan`,
    and DataError if a folder of the store stands where the file `rejects.csv` belongs.
    """
    create_folder(extraction.store)
    require_rejects_file(extraction.store)
    with suppress(OSError):  # the store is read-only; an empty folder in `data` would look like a class without images
        (extraction.store / "scans").mkdir(exist_ok=True)
    memory = scan_memory(extraction.store, data, extraction.rehash)
    scanned = scan(
        data,
        seed,
        max_pixels=extraction.max_pixels,
        memory=memory,
        pages=config.pages,
        config=reading,
        labelled=labelled,
        turn=turn,
        elsewhere=elsewhere,
    )
    del memory
    release_memory()
    tell_reading(scanned)
    return scanned


def networks_for(
    scanned: Scan,
    config: FeatureConfig,
    extraction: ExtractionConfig,
    digest_of: Callable[[str, str, int], str] | None = None,
) -> list[Network]:
    """Load the networks of `config`. For `digest_of`, see `load_networks`.

    `config.bits` may be replaced first. The value `folder` is replaced by a number; see `bits_by_folder`. If the
    value 16 gives the scanned images the same pixels as `config.bits`, 16 is used; see `bits_that_matter`.
    """
    held = bits_in(scanned)
    bits = bits_that_matter(bits_by_folder(config.bits, held), held)
    known = KnownBackbones(extraction.store, extraction.rehash)
    return load_networks(replace(config, bits=bits), extraction, known, digest_of)


def bits_in(scanned: Scan) -> set[int]:
    """Return the different values in the column `bits` of the scanned images; see `bits_by_folder`."""
    return set(np.unique(scanned.examples.images.numbers("bits")).tolist())


def load_examples(
    run: Run, places: Places = Places(), workers: Cluster | None = None, check: Callable[[Scan], None] = lambda _: None
) -> FeaturedExamples:
    """Scan the data of a run, and extract missing features with the run's settings.

    `places` may name other data, another store or other weights. If `workers` are given, they scan and extract. Before
    the extraction, `check` may raise an error about the data. Raises RunError if the data or the store are gone, or if
    the settings no longer give the head's features. For errors about the weights, see `located_networks`.
    """
    settings, data, store = run.config(), run_data(run, places), run_store(run, places)
    # `max_rejects` limits training only. Callers that need unchanged examples call `require_unchanged`.
    extraction = replace(run.extraction_config(), store=store, max_rejects=1.0, rehash=False)
    config, _ = located_networks(run, places, run.feature_config(), extraction, KnownBackbones(store))

    def require(scanned: Scan, networks: list[Network]) -> None:
        check(scanned)
        if list(settings["fingerprints"].values()) not in possible_keys(networks, config.bits):
            raise RunError(
                f"{run.path}: its features can't be made again: its int8 network is gone, another engine computes "
                "bfloat16 (a GPU, or OpenVINO that came or went), or another version of headstart made it; run "
                "`headstart head` again, with --overwrite"
            )

    reading = run.read_as().fitted(kind_of(data))
    with bytes_kept(extraction.store, data):
        return _cached(data, replace(config, views=0), extraction, settings["seed"], require, reading, True, workers)
