"""A large data folder is scanned and extracted by turns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.images import scan as image_files
from headstart.features.images.columns import inspected
from headstart.features.images.columns.images import Images
from headstart.pipeline import extracting
from headstart.pipeline.featured import cache_features


@pytest.mark.slow  # of networks that are built
def test_each_file_is_extracted_soon_after_it_was_read(
    drawn: Path, small: FeatureConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = cache_features(drawn, small, ExtractionConfig(store=tmp_path / "one", max_rejects=1.0))
    events: list[str] = []
    read, extract = image_files.content_of, extracting.Extractor.extract

    def extracted(self: extracting.Extractor, images: Images, *view: None, **how: bool) -> object:
        events.append(f"{len(images)} extracted")
        return extract(self, images, *view, **how)

    seconds: list[float] = []
    monkeypatch.setattr(extracting, "compact_by_itself", lambda _, spent: seconds.append(spent))
    monkeypatch.setattr(image_files, "content_of", lambda *file: events.append("read") or read(*file))
    monkeypatch.setattr(extracting.Extractor, "extract", extracted)
    monkeypatch.setattr(inspected, "TURN_BYTES", sum(path.stat().st_size for path in drawn.glob("*/*")) // 3)
    seconds.clear()
    by_turns = cache_features(drawn, small, ExtractionConfig(store=tmp_path / "two", max_rejects=1.0))
    turns = [at for at, event in enumerate(events) if event != "read"]
    assert len(turns) >= 3
    assert seconds == [pytest.approx(by_turns.extracted.seconds)]  # once, with the time of all turns
    assert turns[0] < events.count("read") / 2 < turns[-1]
    assert by_turns.extracted.digests == at_once.extracted.digests
    assert by_turns.examples == at_once.examples
    assert by_turns.rejects == at_once.rejects
    assert by_turns.fingerprints() == at_once.fingerprints()
    digests = at_once.examples.digests
    np.testing.assert_array_equal(by_turns.features(digests), at_once.features(digests))
    (store,) = by_turns.stores.values()
    assert len(store.digests()) == store.count()  # none twice


@pytest.mark.parametrize(
    ("asked", "used", "begun"),
    [
        ("auto", 0, True),
        ("auto", 16, True),
        ("auto", 12, False),
        ("folder", 16, True),
        ("folder", 12, False),
        ("12", 0, True),
        ("12", 16, False),
        ("12", 12, False),
        ("16", 12, True),
    ],
)
def test_turns_end_where_bits_decide(
    asked: str,
    used: int,
    begun: bool,
    drawn: Path,
    small: FeatureConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(extracting, "load_networks", lambda config, *_: loaded.append(config.bits) or [])
    (image,) = image_files.inspect_image(drawn / "cat" / "cat.0.jpg")
    assert isinstance(image, image_files.ImageFile)
    early = extracting.Early(replace(small, bits=asked), ExtractionConfig(store=tmp_path / "store"))
    early(Images.of([replace(image, bits=used)]))
    assert loaded == (["16"] if begun else [])
